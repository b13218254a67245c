//! The archive: Delta tables on a local folder. Every record that came, verbatim, and where the newest of each host lies.
//!
//! Promises:
//! - **`frames` has one row per Kafka record**, whatever the record is: a part, a duplicate, or bytes that are no frame
//!   (then `fault` says why). So the position can always move, nothing waits for a missing part, and nobody can make
//!   evidence vanish by sending something first.
//! - **The position moves in the commit of the data** (Delta `txn` action, one for each Kafka partition). A crash at any
//!   moment leaves both or neither.
//! - **Two writers of one partition: one commit wins.** A position is committed through the very handle it was read from.
//!   That handle knows up to which version it has seen the table's log; whatever others wrote after it is looked at before
//!   its own entry gets its place, and a position they moved is lost to it ([`log`]). A handle that was idle for longer than
//!   the log is kept reads the table anew first.
//! - **What came first stays.** Later records, whatever they claim, hide no frame and replace no content: they are found
//!   beside it ([`read`]).
//! - **`hosts` is small** (one row a host) and derived: a start reads it and the rows of `frames` that came after it,
//!   never all of them.
//!
//! It does not know Kafka: a position is a number that somebody gives it.

mod columns;
mod durable;
mod engine;
mod found;
mod frames;
mod hosts;
mod log;
mod read;
mod rows;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use deltalake::kernel::StructField;
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTable, DeltaTableBuilder};
pub use found::{Candidates, Found, Header};
pub use frames::{Appended, Frames};
pub use hosts::{Coverage, HostsTable, SavedFacts, SavedFrame, SavedHost, SavedHosts};
pub use read::Reader;
pub use rows::{ArchivedHeader, Cut, Row};
use serde::{Deserialize, Serialize};

/// Folder of the table of records.
const FRAMES: &str = "frames";
/// Folder of the table of hosts.
const HOSTS: &str = "hosts";

/// A partition of a Kafka topic, as the archive names it.
///
/// The topic's own id would tell a recreated topic from its predecessor, but rdkafka 0.39 does not give it (librdkafka
/// does, by `rd_kafka_DescribeTopics`, which has no safe binding). So cluster id and topic name stand for it, and
/// `generation` counts how often the log under that name was seen to start anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionName {
    /// Id of the Kafka cluster.
    pub cluster: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// 0 for the first log under this name, one more for each that replaced it.
    pub generation: i32,
}

impl PartitionName {
    /// The `appId` of the `txn` actions that carry its position.
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

/// Where a record lies: what is needed to find its row without looking through the table. The time of receipt leads to
/// the one file that holds it, and through its day to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// When the collector got it, ns since the epoch.
    pub received_ns: i64,
    /// Kafka partition.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

/// Why the archive did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no archive in this folder yet.
    #[error("there is no archive in {0} yet: has `edr-collectd run` received anything?")]
    Missing(PathBuf),
    /// Another collector moved the position.
    #[error("another collector archives {partition}: its position is {found}, this one left it at {expected}")]
    Fenced {
        /// Which partition.
        partition: String,
        /// What this writer left or read.
        expected: String,
        /// What the table says.
        found: String,
    },
    /// A position that does not move forward.
    #[error("position of {partition} would go from {from} to {to}")]
    Backwards {
        /// Which partition.
        partition: String,
        /// Position in the archive.
        from: i64,
        /// Position asked for.
        to: i64,
    },
    /// The store failed.
    #[error("{operation} {table:?}: {cause}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// On which table.
        table: PathBuf,
        /// What the store said.
        cause: String,
    },
}

impl ArchiveError {
    fn store(operation: &'static str, table: &Path) -> impl FnOnce(deltalake::DeltaTableError) -> Self {
        let table = table.to_owned();
        move |error| Self::Store { operation, table, cause: error.to_string() }
    }
}

/// Opens a table; makes it, partitioned by one column, when there is none.
async fn open_or_create(
    path: &Path,
    columns: Vec<StructField>,
    partition_column: &str,
    stats_columns: &str,
    checkpoint_commits: u32,
) -> Result<DeltaTable, ArchiveError> {
    let io = |operation, error: &std::io::Error| ArchiveError::Store {
        operation,
        table: path.to_owned(),
        cause: error.to_string(),
    };
    std::fs::create_dir_all(path).map_err(|error| io("make the folder", &error))?;
    if let Some(version) = durable::put_aside_torn_version(path).map_err(|error| io("look into", &error))? {
        ::log::warn!(
            "{}: log entry {version} was empty and is put aside; its records come again from Kafka",
            path.display()
        );
    }
    let mut table = table_at(path)?;
    if table.verify_deltatable_existence().await.map_err(ArchiveError::store("look for", path))? {
        table.load().await.map_err(ArchiveError::store("open", path))?;
        return Ok(table);
    }
    let properties = [
        ("delta.checkpointInterval", checkpoint_commits.to_string()),
        ("delta.logRetentionDuration", "interval 1 hour".to_owned()),
        ("delta.deletedFileRetentionDuration", "interval 1 hour".to_owned()),
        ("delta.dataSkippingStatsColumns", stats_columns.to_owned()),
    ];
    let created = CreateBuilder::new()
        .with_log_store(table.log_store())
        .with_columns(columns)
        .with_partition_columns([partition_column])
        .with_configuration(properties.map(|(key, value)| (key, Some(value))))
        .await;
    match created {
        Ok(table) => Ok(table),
        // Another collector was a moment faster.
        Err(_) if table.load().await.is_ok() => Ok(table),
        Err(error) => Err(ArchiveError::store("make", path)(error)),
    }
}

/// The table in this folder, if there is one.
async fn existing(path: &Path) -> Result<Option<DeltaTable>, ArchiveError> {
    if !exists(path).await? {
        return Ok(None);
    }
    let mut table = table_at(path)?;
    table.load().await.map_err(ArchiveError::store("open", path))?;
    Ok(Some(table))
}

/// Whether there is a table in this folder.
async fn exists(path: &Path) -> Result<bool, ArchiveError> {
    // Asking the store for a folder that is not there would make it.
    if !path.join("_delta_log").is_dir() {
        return Ok(false);
    }
    table_at(path)?.verify_deltatable_existence().await.map_err(ArchiveError::store("look for", path))
}

fn table_at(path: &Path) -> Result<DeltaTable, ArchiveError> {
    let uri = path.to_string_lossy();
    deltalake::ensure_table_uri(&uri)
        .and_then(DeltaTableBuilder::from_url)
        .and_then(DeltaTableBuilder::build)
        .map_err(ArchiveError::store("open", path))
}

/// Days since 1970-01-01 UTC.
pub fn day_of(ns: i64) -> i32 {
    // 2^63 ns are 106,752 days.
    i32::try_from(ns.div_euclid(86_400_000_000_000)).unwrap_or(0)
}
