//! What the end-to-end tests, the demo and the benchmark share: the real parts, started and stopped.
//!
//! A [`Scene`](scene::Scene) is a folder with a life: everything a run writes lies in it, and it goes when the run ends
//! well. In it run a [`Broker`](kafka::Broker), an [`Agent`](daemons::Agent) and a [`Collector`](daemons::Collector),
//! each a [`Running`](running::Running) process of its own that ends, by its pid, with the value that holds it.
//! [`binaries`] builds the daemons before anything runs, so that no test runs yesterday's program.
//! What goes in is [`load`] and [`psad`] ([`unpacked`] has the real one); what comes out is looked at through [`http`], [`browser`] and [`topic`].

pub mod binaries;
pub mod browser;
pub mod cache;
pub mod certificates;
pub mod daemons;
pub mod http;
pub mod kafka;
pub mod load;
pub mod notify;
pub mod psad;
pub mod reader;
pub mod running;
pub mod scene;
pub mod systemd;
pub mod topic;
pub mod unpacked;
pub mod wait;
