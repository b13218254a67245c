//! The archive: Delta tables in a local folder, with every received record, verbatim, and the location of each host's
//! newest frame.
//!
//! Promises:
//! - **`frames` has one row per Kafka record**, whatever the content: a part, a duplicate, or bytes that are not a
//!   frame (column `fault` then holds the reason). So the position can always advance, no record waits for a missing
//!   part, and a forged record that is sent first cannot suppress evidence.
//! - **The position moves in the commit of the data** (Delta `txn` action, one per Kafka partition). A crash at any
//!   moment leaves both or neither.
//! - **Two writers of one partition: one commit wins.** A position is committed through the same handle that read the
//!   position. The handle remembers the last version seen in the table's log. Later entries of other writers are
//!   examined before the handle writes an entry; when another writer moved the position, the commit is refused
//!   ([`log`]). A handle that was idle for minutes reads the table again first, because log entries are kept for an
//!   hour only.
//! - **The first content stays.** Later records hide no frame and replace no content, even if forged; a search finds
//!   all contents ([`read`]).
//! - **`hosts` is small** (one row per host) and derived: a start reads `hosts` and the rows of `frames` received
//!   later, never all of `frames`.
//!
//! The archive does not know Kafka: a position is a number given by the caller.

mod columns;
mod declared;
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
pub mod typed;

use std::path::{Path, PathBuf};

use deltalake::kernel::StructField;
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTable, DeltaTableBuilder};
pub use found::{ArchivedRow, Candidates, Found, Header};
pub use frames::{Appended, Frames};
pub use hosts::{Coverage, HostsTable, SavedFacts, SavedFrame, SavedHost, SavedHosts};
pub use read::Reader;
pub use rows::{ArchivedHeader, Cut, Row};
use serde::{Deserialize, Serialize};

/// Folder of the table with the records.
const FRAMES: &str = "frames";
/// Folder of the table with the hosts.
const HOSTS: &str = "hosts";

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

/// Opens a table; creates the table, partitioned by one column, when missing.
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
        return add_missing_columns(table, path, columns).await;
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
        // Another collector created the table first.
        Err(_) if table.load().await.is_ok() => Ok(table),
        Err(error) => Err(ArchiveError::store("make", path)(error)),
    }
}

/// Adds the columns that a table of an earlier version lacks. Rows of that version have no values there.
async fn add_missing_columns(
    table: DeltaTable,
    path: &Path,
    columns: Vec<StructField>,
) -> Result<DeltaTable, ArchiveError> {
    let failed = |error| ArchiveError::store("add columns to", path)(error);
    let schema = table.snapshot().map_err(failed)?.schema();
    let is_missing = |column: &StructField| column.is_nullable() && schema.field(column.name()).is_none();
    let missing: Vec<StructField> = columns.into_iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(table);
    }
    table.add_columns().with_fields(missing).await.map_err(failed)
}

/// Opens the table in this folder, if there is one.
async fn existing(path: &Path) -> Result<Option<DeltaTable>, ArchiveError> {
    if !exists(path).await? {
        return Ok(None);
    }
    let mut table = table_at(path)?;
    table.load().await.map_err(ArchiveError::store("open", path))?;
    Ok(Some(table))
}

/// Returns true when this folder holds a table.
async fn exists(path: &Path) -> Result<bool, ArchiveError> {
    // The store would create a missing folder when asked for the table.
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

/// Returns the days since 1970-01-01 UTC.
pub fn day_of(ns: i64) -> i32 {
    // 2^63 ns are 106,752 days, so the conversion never fails.
    i32::try_from(ns.div_euclid(86_400_000_000_000)).unwrap_or(0)
}
