//! `edr-collectd`: archives the snapshots of a fleet and answers what runs and ran where.
//!
//! The way of the data, and the order of the modules:
//!
//! 1. [`consume`]: **records** come from Kafka, from where the archive ends.
//! 2. [`decode`]: each record is read, or its fault is noted; its bytes are kept either way.
//! 3. [`archive`]: records and the position after them go into the Delta table `frames` in one commit, verbatim, one row a
//!    record. The small table `hosts` says where the newest **frame** of each host lies.
//! 4. [`newest`]: parts become frames, and of every host the newest one stays in memory, compressed, with the **key** it
//!    needs.
//! 5. [`query`]: a question finds its **snapshot** (in memory, or by one key and one delta from the archive) and shows it
//!    as a table.
//! 6. [`web`] serves them as pages, [`cli`] prints them.
//!
//! Every arrow points one way: the archive does not know Kafka, the page knows only questions. What is no frame, came
//! twice, contradicts itself or never came is named; nothing is silently missing.
//!
//! Around it: [`config`] (files to exact types), [`run`] (tasks and signals) and [`event`] (what the journal is told). Configuration files, log and service manager
//! are in crate `edr-daemon`, shared with the agent.

pub mod consume;

pub mod decode;

pub mod archive;

pub mod newest;

pub mod query;

pub mod web;

pub mod cli;
pub mod config;
pub mod event;
pub mod run;
