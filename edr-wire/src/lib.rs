//! What travels between `edr-agentd` and `edr-collectd`: every type that leaves a process, and nothing else.
//!
//! # The way of the data
//!
//! ```text
//! host                                                         collector
//! /proc ──┐
//! psad  ──┼─▶ collect ─▶ snapshot ─▶ frame ─▶ spool ─▶ ship ═▶ Kafka ═▶ consume ─▶ decode ─▶ archive ─▶ query ─▶ web, CLI
//! netlink ┘   (sources)   (edr-wire)  (zstd)  (disk)   (ack)            (group)   (edr-wire)  (Delta)   (SQL)
//! ```
//!
//! Every ten seconds the agent's sources *collect* what runs on the host. The result is one [`snapshot`]: msgpack with
//! named fields, rows in a fixed order, so that an unchanged row has unchanged bytes. A snapshot becomes one
//! [`frame`]: compressed, alone (a key) or against the epoch's last key (a delta), and cut into records that Kafka
//! takes with its defaults. The same records lie in the agent's *spool*, are *shipped* to Kafka, and lie in the
//! collector's *archive*. Decoding goes the same way back: [`frame::Record::decode`], [`frame::Frame::assemble`],
//! [`frame::Frame::open`], [`snapshot::SnapshotView::parse`], and then one row at a time.
//!
//! # What holds here
//!
//! - No I/O, no clock, no Kafka, no async: bytes in, values out.
//! - Bytes a host controls stay [`Bytes`]; [`visible`] is for showing them.
//! - Everything another party can make large has a limit in [`limits`], checked before memory is spent on it.
//! - The formats only grow: a field that is added has a default, a released golden file is never rewritten.

mod bytes;
pub mod frame;
mod ids;
pub mod limits;
mod scan;
pub mod snapshot;

pub use bytes::{Bytes, escaped, unescape, visible};
pub use ids::{Epoch, HostId, InvalidId, ProcessKey};
pub use scan::ScanError;
