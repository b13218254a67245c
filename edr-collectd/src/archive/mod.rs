//! The archive: Delta tables in a local folder, with every received record, verbatim, and the location of each host's
//! newest frame.
//!
//! Promises:
//! - **`frames` has one row per Kafka record**, whatever the content: a part, a duplicate, or bytes that are not a
//!   frame (column `fault` then holds the reason). So the position can always advance, no record waits for a missing
//!   part, and a forged record that is sent first cannot suppress evidence.
//! - **The position moves in the commit of the data**, and of two writers of one partition one wins ([`delta`]).
//! - **The first content stays.** Later records hide no frame and replace no content, even if forged; a search finds
//!   all contents ([`read`]).
//! - **`hosts` is small** (one row per host) and derived: a start reads `hosts` and the rows of `frames` received
//!   later, never all of `frames`.
//!
//! The archive does not know Kafka: a position is a number given by the caller.

mod declared;
pub mod delta;
mod files;
mod found;
mod read;
mod rows;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use delta::{Appended, Upkeep};
pub use files::FirstSnapshot;
pub use found::{ArchivedFrame, ArchivedPart, ArchivedRow, Candidates, Found, SearchRank};
pub use read::Reader;
pub use rows::Row;
use serde::{Deserialize, Serialize};
pub use tables::frames::Frames;
pub use tables::hosts::{Coverage, HostsTable, SavedFacts, SavedFrame, SavedHost, SavedHosts};

/// Returns the upkeep of each table in an archive's folder.
pub fn upkeep(archive: &Path) -> Vec<Upkeep> {
    tables::ALL.into_iter().map(|storage| Upkeep::new(archive, storage)).collect()
}

/// A partition of a Kafka topic, in the archive's terms.
///
/// The topic's own id would distinguish a recreated topic from its predecessor, but rdkafka 0.39 does not expose topic
/// ids (librdkafka does, by `rd_kafka_DescribeTopics`, which has no safe binding). So cluster id and topic name
/// identify the log, and `generation` counts how often a new log was seen under that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionName {
    /// Id of the Kafka cluster.
    pub cluster: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// 0 for the first log under this name; one more for each new log.
    pub generation: i32,
}

impl PartitionName {
    /// Returns the `appId` of the `txn` actions with the partition's position.
    fn app_id(&self) -> String {
        let Self { cluster, topic, partition, generation } = self;
        format!("edr-collectd/{cluster}/{topic}/{partition}/{generation}")
    }
}

impl std::fmt::Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} partition {}", self.topic, self.partition)?;
        if self.generation > 0 { write!(f, " (log {})", self.generation + 1) } else { Ok(()) }
    }
}

/// Location of a record: the values that find its row without a search of the table. The time of receipt determines the
/// day folder and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// When the collector received the record, ns since the epoch.
    pub received_ns: i64,
    /// Kafka partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// Failure of an archive operation.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The folder has no archive yet.
    #[error("there is no archive in {0} yet: has `edr-collectd run` received anything?")]
    Missing(PathBuf),
    /// Another collector moved the position.
    #[error("another collector archives {partition}: its position is {found}, this one left it at {expected}")]
    Fenced {
        /// The partition.
        partition: String,
        /// The position that this writer read or left.
        expected: String,
        /// The position in the table.
        found: String,
    },
    /// The new position is not higher than the archived position.
    #[error("position of {partition} would go from {from} to {to}")]
    Backwards {
        /// The partition.
        partition: String,
        /// Position in the archive.
        from: i64,
        /// Requested position.
        to: i64,
    },
    /// The store failed.
    #[error("{operation} {table:?}: {cause}")]
    Store {
        /// The operation.
        operation: &'static str,
        /// The table.
        table: PathBuf,
        /// The error of the store.
        cause: String,
    },
}

impl ArchiveError {
    fn store(operation: &'static str, table: &Path) -> impl FnOnce(deltalake::DeltaTableError) -> Self {
        let table = table.to_owned();
        move |error| Self::Store { operation, table, cause: error.to_string() }
    }
}

/// Returns the days since 1970-01-01 UTC.
pub fn day_of(ns: i64) -> i32 {
    // 2^63 ns are 106,752 days, so the conversion never fails.
    i32::try_from(ns.div_euclid(86_400_000_000_000)).unwrap_or(0)
}
