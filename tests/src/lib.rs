//! Shared code of the end-to-end tests, the demo and the benchmark: starts and stops the real programs.
//!
//! A [`Scene`](scene::Scene) is the folder of a run: all files of the run are in this folder, and a successful run
//! removes the folder at the end. A [`Broker`](kafka::Broker), an [`AgentDaemon`](daemons::AgentDaemon) and a
//! [`CollectorDaemon`](daemons::CollectorDaemon) run in a scene. Each is a [`Running`](running::Running) child process
//! that ends when its value is dropped. [`binaries`] builds the daemons before a test starts, so that no test runs a
//! stale program, and [`signing`] signs their packages. [`batch`], [`load`] and [`psad`] make the input ([`unpacked`]
//! has the real psad). [`http`], [`browser`] and [`topic`] read the output.

pub mod batch;
pub mod binaries;
pub mod browser;
pub mod cache;
pub mod certificates;
pub mod daemons;
pub mod golden;
pub mod http;
pub mod kafka;
pub mod load;
pub mod notify;
pub mod psad;
pub mod reader;
pub mod running;
pub mod scene;
pub mod secrets;
pub mod signing;
pub mod systemd;
pub mod topic;
pub mod unpacked;
pub mod wait;
