//! `hosts`: one row per host, with the locations of the newest frame and key frame, and the values for the list of
//! hosts.
//!
//! The table is small and derived from `frames`. Rows are grouped by Kafka partition. A collector overwrites only the
//! rows of assigned partitions, together with the valid positions; so several collectors do not conflict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::arrow::array::{ArrayRef, new_null_array};
use deltalake::arrow::datatypes::{Field, Schema};
use deltalake::arrow::record_batch::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, DataType, PrimitiveType, StructField, Transaction};
use deltalake::operations::vacuum::{Clock, VacuumMode};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::frame::FrameKind;
use edr_wire::{Epoch, HostId};
use serde::{Deserialize, Serialize};

use super::columns::{Columns, flags, integers, long, longs, text, texts};
use super::engine::Engine;
use super::{ArchiveError, HOSTS, PartitionName, Place, durable};

/// Log entries between two checkpoints; a collector writes one entry a minute.
const CHECKPOINT_COMMITS: u32 = 20;

const DAY_NS: i64 = 86_400_000_000_000;

/// State of a host, as saved for a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedHost {
    /// Identity of the host.
    pub host_id: HostId,
    /// The Kafka partition with the host's frames.
    pub partition: PartitionName,
    /// Values for the list of hosts.
    pub facts: SavedFacts,
    /// The newest frame.
    pub newest: SavedFrame,
    /// The key frame for `newest`; `None` when `newest` is itself a key frame, or the key was never received.
    pub key: Option<SavedFrame>,
    /// The frame that `facts` are taken from. A newest frame received just before the save is not opened yet.
    #[serde(default)]
    pub facts_of: Option<(Epoch, u64)>,
    /// Epochs seen, with the highest sequence number of each.
    pub epochs: Vec<(Epoch, u64)>,
    /// Number of conflicts: second contents under a sequence number.
    #[serde(default)]
    pub conflicts: u64,
    /// The last conflicting contents: epoch, sequence number and half of the hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicting: Vec<(Epoch, u64, [u8; 16])>,
}

/// Values of a host for the list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedFacts {
    /// Host name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Interval between two snapshots, ns.
    pub interval_ns: u64,
    /// Number of processes in the snapshot.
    pub processes: usize,
    /// Number of open files.
    pub files: usize,
    /// Number of sockets.
    pub sockets: usize,
    /// Highest danger level of any attacker in psad, 0 to 5.
    pub danger_level: u8,
    /// psad's mode and state.
    pub psad: String,
    /// Reasons why the agent's data is incomplete.
    pub degraded: Vec<String>,
}

/// A frame and the locations of the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFrame {
    /// Epoch.
    pub epoch: Epoch,
    /// Sequence number.
    pub seq: u64,
    /// Key or delta.
    pub kind: FrameKind,
    /// Sequence number of the key frame for a delta.
    pub base_seq: u64,
    /// First 16 bytes of the snapshot's BLAKE3 hash.
    pub raw_hash: [u8; 16],
    /// When the snapshot was taken, ns since the epoch.
    pub captured_ns: i64,
    /// When the last of the frame's records was received, ns since the epoch.
    pub received_ns: i64,
    /// True when the agent stopped cleanly after this frame.
    pub bye: bool,
    /// Locations of the records, by part.
    pub places: Vec<Place>,
}

/// Content of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SavedHosts {
    /// The hosts.
    pub hosts: Vec<SavedHost>,
    /// Everything received before this moment (ns since the epoch) is in the table; `None` for an empty table.
    pub complete_until_ns: Option<i64>,
}

/// Coverage of a save: for each partition, the valid position, and the time (ns since the epoch) up to which the rows
/// are complete.
pub type Coverage = BTreeMap<PartitionName, (i64, i64)>;

/// Reader and writer of `hosts`.
pub struct HostsTable {
    path: PathBuf,
    table: DeltaTable,
}

impl std::fmt::Debug for HostsTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostsTable").field("path", &self.path).finish_non_exhaustive()
    }
}

impl HostsTable {
    /// Opens the table in the archive's folder; creates the table when missing.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        let path = archive.join(HOSTS);
        let table = super::open_or_create(&path, columns(), "partition", "received_ns", CHECKPOINT_COMMITS).await?;
        Ok(Self { path, table })
    }

    /// Opens the table for reading only; `None` when there is no table.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn existing(archive: &Path) -> Result<Option<Self>, ArchiveError> {
        let path = archive.join(HOSTS);
        Ok(super::existing(&path).await?.map(|table| Self { path, table }))
    }

    /// Reads all hosts. When a host has two rows, the row with the later time of receipt counts.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn load(&mut self) -> Result<SavedHosts, ArchiveError> {
        self.load_rows().await.map_err(ArchiveError::store("read", &self.path))
    }

    async fn load_rows(&mut self) -> Result<SavedHosts, DeltaTableError> {
        self.table.update_state().await?;
        let mut newest: BTreeMap<HostId, SavedHost> = BTreeMap::new();
        let mut untils: Vec<i64> = Vec::new();
        let mut rows = Engine::new().scan(&self.table, None, &["state", "complete_until_ns"]).await?;
        while let Some(batch) = rows.next().await? {
            let columns = Columns(&batch);
            let (states, until) = (columns.texts("state")?, columns.longs("complete_until_ns")?);
            for at in 0..batch.num_rows() {
                untils.extend(long(&until, at));
                let saved = text(&states, at).and_then(|state| serde_json::from_str::<SavedHost>(state).ok());
                let Some(saved) = saved else { continue };
                let known = newest.get(&saved.host_id).map_or(i64::MIN, |known| known.newest.received_ns);
                if saved.newest.received_ns >= known {
                    newest.insert(saved.host_id, saved);
                }
            }
        }
        // Rows more than a day behind belong to partitions without a reader, where no later records come.
        let latest = untils.iter().copied().max().unwrap_or(i64::MIN);
        let complete_until_ns = untils.into_iter().filter(|until| *until >= latest.saturating_sub(DAY_NS)).min();
        Ok(SavedHosts { hosts: newest.into_values().collect(), complete_until_ns })
    }

    /// Overwrites the rows and positions of the covered partitions in one commit. Partitions with a later position,
    /// saved by another collector, are skipped.
    ///
    /// # Errors
    /// When the store fails, or another collector saved one of the partitions at the same time.
    pub async fn save(&mut self, hosts: &[SavedHost], coverage: &Coverage) -> Result<(), ArchiveError> {
        let version = self.save_rows(hosts, coverage).await.map_err(ArchiveError::store("save", &self.path))?;
        durable::sync_version(&self.path, version).await.map_err(|error| ArchiveError::Store {
            operation: "flush the log of",
            table: self.path.clone(),
            cause: error.to_string(),
        })
    }

    /// Removes the files of earlier saves after an hour, when no reader uses the old versions any more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn clean(&mut self) -> Result<(), ArchiveError> {
        self.clean_by(None).await
    }

    pub(super) async fn clean_by(&mut self, clock: Option<Arc<dyn Clock>>) -> Result<(), ArchiveError> {
        let clean = async {
            self.table.update_state().await?;
            // Full mode also removes files without any entry: checkpoints no longer mention files that were removed
            // long ago.
            let mut vacuum = self.table.clone().vacuum().with_mode(VacuumMode::Full);
            if let Some(clock) = clock {
                vacuum = vacuum.with_clock(clock);
            }
            vacuum.await.map(|_| ())
        };
        clean.await.map_err(ArchiveError::store("clean", &self.path))
    }

    async fn save_rows(&mut self, hosts: &[SavedHost], coverage: &Coverage) -> Result<u64, DeltaTableError> {
        self.table.update_state().await?;
        let coverage = &self.not_behind(coverage).await?;
        if coverage.is_empty() {
            return Ok(self.table.version().unwrap_or_default());
        }
        let numbers: Vec<String> = coverage.keys().map(|name| name.partition.to_string()).collect();
        let files = self.table.snapshot()?.log_data();
        let replaced = files.iter().filter(|file| {
            let values = file.partition_values_map();
            values.get("partition").is_some_and(|value| value.as_ref().is_some_and(|value| numbers.contains(value)))
        });
        let mut actions: Vec<Action> = replaced.map(|file| Action::Remove(file.remove_action(true))).collect();
        // By number: a host whose last frame came from an earlier log of the topic stays listed.
        let by_number: BTreeMap<i32, (i64, i64)> =
            coverage.iter().map(|(name, covered)| (name.partition, *covered)).collect();
        let rows: Vec<SavedRow<'_>> = hosts
            .iter()
            .filter_map(|host| Some(SavedRow { host, coverage: *by_number.get(&host.partition.partition)? }))
            .collect();
        if !rows.is_empty() {
            let mut writer = RecordBatchWriter::for_table(&self.table)?;
            let schema = writer.arrow_schema();
            writer.write(batch(&rows, schema)?).await?;
            let adds = writer.flush().await?;
            durable::sync_files(&self.path, &adds).await.map_err(DeltaTableError::from)?;
            actions.extend(adds.into_iter().map(Action::Add));
        }
        let transactions =
            coverage.iter().map(|(name, (position, _))| Transaction::new(name.app_id(), *position)).collect();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Overwrite,
            partition_by: Some(vec!["partition".to_owned()]),
            predicate: None,
        };
        let finalized = CommitBuilder::from(CommitProperties::default().with_application_transactions(transactions))
            .with_actions(actions)
            .build(Some(self.table.snapshot()?), self.table.log_store(), operation)
            .await?;
        Ok(finalized.version())
    }
}

impl HostsTable {
    /// Returns the coverage without the partitions that have a later position in the table.
    async fn not_behind(&self, coverage: &Coverage) -> Result<Coverage, DeltaTableError> {
        let mut kept = Coverage::new();
        for (name, covered) in coverage {
            let saved = self.table.snapshot()?.transaction_version(&self.table.log_store(), name.app_id()).await?;
            if saved.is_none_or(|saved| saved <= covered.0) {
                kept.insert(name.clone(), *covered);
            }
        }
        Ok(kept)
    }
}

/// A row: a host with the coverage of the host's partition.
struct SavedRow<'a> {
    host: &'a SavedHost,
    coverage: (i64, i64),
}

fn columns() -> Vec<StructField> {
    let not_null = |name: &str, kind| StructField::new(name, DataType::Primitive(kind), false);
    vec![
        not_null("partition", PrimitiveType::Integer),
        not_null("position", PrimitiveType::Long),
        not_null("complete_until_ns", PrimitiveType::Long),
        not_null("host_id", PrimitiveType::String),
        not_null("hostname", PrimitiveType::String),
        not_null("os", PrimitiveType::String),
        not_null("captured_ns", PrimitiveType::Long),
        not_null("received_ns", PrimitiveType::Long),
        not_null("epoch", PrimitiveType::String),
        not_null("seq", PrimitiveType::Long),
        not_null("processes", PrimitiveType::Long),
        not_null("files", PrimitiveType::Long),
        not_null("sockets", PrimitiveType::Long),
        not_null("danger_level", PrimitiveType::Integer),
        not_null("psad", PrimitiveType::String),
        not_null("bye", PrimitiveType::Boolean),
        // A start reads only `state` and `complete_until_ns`; the other columns are for SQL queries.
        not_null("state", PrimitiveType::String),
    ]
}

fn batch(rows: &[SavedRow<'_>], schema: Arc<Schema>) -> Result<RecordBatch, DeltaTableError> {
    let arrays = schema.fields().iter().map(|field| column(field, rows)).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(schema, arrays)?)
}

fn column(field: &Field, rows: &[SavedRow<'_>]) -> Result<ArrayRef, DeltaTableError> {
    let count = |value: usize| i64::try_from(value).ok();
    Ok(match field.name().as_str() {
        "partition" => integers(rows, |row| Some(row.host.partition.partition)),
        "position" => longs(rows, |row| Some(row.coverage.0)),
        "complete_until_ns" => longs(rows, |row| Some(row.coverage.1)),
        "host_id" => texts(rows, |row| Some(row.host.host_id.to_string())),
        "hostname" => texts(rows, |row| Some(row.host.facts.hostname.clone())),
        "os" => texts(rows, |row| Some(row.host.facts.os.clone())),
        "captured_ns" => longs(rows, |row| Some(row.host.newest.captured_ns)),
        "received_ns" => longs(rows, |row| Some(row.host.newest.received_ns)),
        "epoch" => texts(rows, |row| Some(row.host.newest.epoch.to_string())),
        "seq" => longs(rows, |row| i64::try_from(row.host.newest.seq).ok()),
        "processes" => longs(rows, |row| count(row.host.facts.processes)),
        "files" => longs(rows, |row| count(row.host.facts.files)),
        "sockets" => longs(rows, |row| count(row.host.facts.sockets)),
        "danger_level" => integers(rows, |row| Some(row.host.facts.danger_level.into())),
        "psad" => texts(rows, |row| Some(row.host.facts.psad.clone())),
        "bye" => flags(rows, |row| Some(row.host.newest.bye)),
        "state" => {
            let states: Vec<String> = rows
                .iter()
                .map(|row| serde_json::to_string(row.host))
                .collect::<Result<_, _>>()
                .map_err(|error| DeltaTableError::generic(format!("a host that JSON cannot hold: {error}")))?;
            texts(&states, |state| Some(state.clone()))
        }
        _ => new_null_array(field.data_type(), rows.len()),
    })
}
