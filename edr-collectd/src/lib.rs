//! `edr-collectd` archives the snapshots of a fleet and answers which processes, files and sockets a host has or had.
//!
//! The modules, in the order of the data:
//!
//! 1. [`consume`] reads **records** from Kafka, starting where the archive ends.
//! 2. The crate `edr-archive` decodes each record or describes its fault, and writes records and the next Kafka
//!    position into the Delta table `frames` in one commit: verbatim, one row per record. The small table `hosts` holds
//!    the location of each host's newest **frame**.
//! 3. [`newest`] assembles parts into frames. The newest frame of every host stays in memory, compressed, with the
//!    **key** frame needed to open a delta frame.
//! 4. [`query`] finds the **snapshot** for a question (in memory, or in the archive by one key and one delta).
//! 5. The crate `edr-model` turns the snapshot into **tables**: each table is one declaration.
//! 6. The crate `edr-web` serves the tables as pages, [`cli`] prints the tables.
//!
//! Every arrow points one way: the archive does not know Kafka, and the page knows only questions. Invalid records,
//! duplicates, conflicts and gaps are recorded; nothing is silently missing.
//!
//! Around these modules: [`config`] (files to exact types), [`run`] (tasks and signals) and [`event`] (kinds of journal
//! entries). Configuration files, log and service manager are in the crate `edr-daemon`, shared with the agent.

pub mod consume;

pub mod newest;

pub mod query;

mod page;

pub mod cli;
pub mod config;
pub mod event;
pub mod run;
