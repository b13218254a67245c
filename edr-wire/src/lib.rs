//! The wire types: every type that travels between `edr-agentd` and `edr-collectd`, and nothing else.
//!
//! # The way of the data
//!
//! ```text
//! host                                                         collector
//! /proc ──┐
//! psad  ──┼▶ sources ─▶ snapshot ─▶ frame ─▶ spool ─▶ ship ═▶ Kafka ═▶ consume ─▶ decode ─▶ archive ─▶ query ─▶ page
//! netlink ┘   (tick)   (edr-wire)  (zstd)  (disk)   (ack)            (group)  (edr-wire)  (Delta)   (SQL)
//! ```
//!
//! Every ten seconds the agent's sources *collect* the state of the host. The result is one [`snapshot`]: msgpack with
//! named fields and rows in a fixed order, so that an unchanged row has unchanged bytes. A snapshot becomes one
//! [`frame`]: compressed, either alone (a key) or against the last key of the epoch (a delta), and cut into records
//! small enough for Kafka's default limits. The same records are stored in the agent's *spool*, *shipped* to Kafka, and
//! stored in the collector's *archive*. Decoding runs the same way back: [`frame::Record::decode`],
//! [`frame::Frame::assemble`], [`frame::Frame::open`], [`snapshot::SnapshotView::parse`], and then one row at a time.
//!
//! # Rules of this crate
//!
//! - No I/O, no clock, no Kafka, no async: bytes in, values out.
//! - Bytes controlled by a host stay [`Bytes`]; [`visible`] makes display text of them.
//! - Everything that another party can make large has a limit in [`limits`], checked before memory is allocated for it.
//! - The formats only grow: an added field has a default, and a released golden file is never rewritten.

mod bytes;
pub mod frame;
mod ids;
pub mod limits;
mod scan;
pub mod snapshot;

pub use bytes::{Bytes, escaped, unescape, visible};
pub use ids::{ContentHash, Epoch, HostId, InvalidId, ProcessKey};
pub use scan::ScanError;
