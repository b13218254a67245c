//! `edr-agentd`: takes a snapshot of a host every ten seconds, and ships the snapshots to Kafka.
//!
//! The way of the data, and the order of the modules:
//!
//! 1. Crate [`edr_sources`]: **sources** read the state of the host: processes with their open files, sockets, host
//!    facts, psad and the firewall's packets. One **tick** holds their rows, and missed facts as gaps.
//! 2. [`sample`]: at each tick reads all sources, encodes the result as one **snapshot** (`edr_wire::snapshot`) and
//!    compresses the snapshot into one **frame** (`edr_wire::frame`): a key, or a delta against the latest key.
//! 3. [`spool`]: the frame is written to disk and fsynced, and thereby accepted. The newest frame and its key stay on
//!    the disk and are the agent's only state: sequence number, log positions, losses still to be declared.
//! 4. [`ship`]: sends frames from the spool, oldest first, one at a time. A frame is removed when Kafka has
//!    acknowledged the frame.
//!
//! Dependencies point in one direction: a source does not know the spool, shipping knows the spool and no earlier
//! stage. Facts that cannot be read, sent or kept are named in a later snapshot or frame; nothing is silently missing.
//!
//! Beside the data path: [`config`] (files to exact types), [`run`] (threads and signals), [`cli`] (commands), [`stop`]
//! (end of threads), [`heartbeat`] (progress of threads, for the watchdog), [`abort`] (report of hung threads),
//! [`disk_fault`] (why the disk refuses), [`status`] (answers to `edr-agentd status`), [`preflight`] (checks before a
//! start) and [`event`] (kinds of journal events). Configuration files, log and service manager are in crate
//! `edr-daemon`, shared with the collector; clocks and heartbeats are those of the sources.

pub mod sample;

pub mod spool;

pub mod ship;

pub mod abort;
pub mod cli;
pub mod config;
pub mod disk_fault;
pub mod event;
pub mod preflight;
pub mod run;
pub mod status;
pub mod stop;

pub use edr_sources::common::{clock, heartbeat};
