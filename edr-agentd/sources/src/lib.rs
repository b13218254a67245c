//! Sources: everything that `edr-agentd` reads of a host.
//!
//! The way of the data:
//!
//! 1. A **source** ([`Source`]) reads one part of the host: [`host`] facts, [`process`]es with their open files,
//!    [`socket`]s, [`psad`] with the packets of [`firewall_log`]. Secrets in command lines are replaced at once
//!    ([`redact`]).
//! 2. Every source adds rows, gaps and its cost to one [`Tick`], within the tick's [`Budget`].
//! 3. [`Sources`] is the list of all sources, and reads each once per tick. [`Tick::encode`] makes the snapshot.
//!
//! Sources know nothing of frames, of the spool or of Kafka: this crate has no dependency that could. A source knows
//! no other source, except [`psad`], which chooses the log that [`firewall_log`] follows. Parsers take bytes and know
//! no file and no clock. [`common`] holds what several sources need.

pub mod common;
pub(crate) mod firewall_log;
pub mod host;
pub mod process;
pub mod psad;
pub mod redact;
pub mod socket;
mod sources;
mod tick;

pub use self::sources::{SourceSettings, Sources};
pub use self::tick::{Budget, RowCount, Source, TableRows, Tick};
