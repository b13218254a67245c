//! `hosts`: one row per host, with the locations of the newest frame and key frame, and the values for the list of
//! hosts.
//!
//! A partition without hosts has one row with an empty host id: for its position and offsets.
//!
//! The table is small and derived from `frames`. Rows are grouped by Kafka partition. A collector overwrites only the
//! rows of assigned partitions, together with the valid positions; so several collectors do not conflict.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deltalake::DeltaTableError;
use deltalake::kernel::LogicalFileView;
use edr_model::accounting::{Account, LogOffsets};
use edr_wire::frame::FrameKey;
use edr_wire::{Epoch, HostId};
use serde::{Deserialize, Serialize};

use crate::delta::engine::{Engine, each_file, folder_of};
use crate::delta::values::{Columns, integer, long, text};
use crate::delta::{ArchiveColumn, ArchiveTable, TableDeclaration, TableStorage, mend};
use crate::{ArchiveError, ArchivedFrame, Damage, PartitionName, RecordPosition};

/// How the table is stored; a collector replaces the rows of its partitions once a minute.
pub(crate) const STORAGE: TableStorage = TableStorage {
    folder: "hosts",
    partition_column: "partition",
    checkpoint_commits: 20,
    vacuum_interval: Duration::from_secs(3_600),
};

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
    pub facts_of: Option<FrameKey>,
    /// Epochs seen, with the highest sequence number of each.
    pub epochs: Vec<(Epoch, u64)>,
    /// Number of conflicts: second contents under a sequence number.
    #[serde(default)]
    pub conflicts: u64,
    /// The last conflicting frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicting: Vec<FrameKey>,
    /// The archived, lost and missing frames.
    #[serde(default)]
    pub account: Account,
    /// The newest readable frame and its key frame, when `newest` is unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readable: Option<(SavedFrame, Option<SavedFrame>)>,
    /// Frames whose number or time cannot be right.
    #[serde(default)]
    pub doubts: SavedDoubts,
    /// When the first frame of the host was received, ns since the epoch.
    #[serde(default)]
    pub first_ns: i64,
    /// Since when the host has its name, ns since the epoch.
    #[serde(default)]
    pub named_ns: i64,
}

/// Frames of a host whose number or time cannot be right.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedDoubts {
    /// Frames captured later than received.
    #[serde(default)]
    pub early: DoubtCount,
    /// Frames with a number that the host cannot have reached.
    #[serde(default)]
    pub jumps: DoubtCount,
    /// Frames of an epoch that goes on below its newest number.
    #[serde(default)]
    pub below: DoubtCount,
}

/// Frames in doubt for one reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DoubtCount {
    /// Number of frames.
    pub count: u64,
    /// The last frames.
    pub frames: Vec<ArchivedFrame>,
}

/// Values of a host for the list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedFacts {
    /// Host name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Boot of the snapshot.
    #[serde(default)]
    pub boot_id: String,
    /// Wall-clock time of the boot, ns since the epoch; `None` when unknown.
    #[serde(default)]
    pub booted_ns: Option<i64>,
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
    /// The frame.
    pub frame: ArchivedFrame,
    /// When the last of the frame's records was received, ns since the epoch.
    pub received_ns: i64,
    /// Locations of the records, by part.
    pub places: Vec<RecordPosition>,
}

/// Content of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SavedHosts {
    /// The hosts.
    pub hosts: Vec<SavedHost>,
    /// Archived offsets of the logs.
    pub offsets: BTreeMap<PartitionName, LogOffsets>,
    /// Everything received before this moment (ns since the epoch) is in the table; `None` for an empty table.
    pub complete_until_ns: Option<i64>,
}

/// Coverage of a save: for each partition, the valid position, and the time (ns since the epoch) up to which the rows
/// are complete.
pub type Coverage = BTreeMap<PartitionName, (i64, i64)>;

/// Reader and writer of `hosts`.
#[derive(Debug)]
pub struct HostsTable(ArchiveTable<SavedRow>);

impl HostsTable {
    /// Opens the table in the archive's folder; creates the table when missing.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        let declaration = || TableDeclaration { storage: STORAGE, columns: columns() };
        let error = match declaration().open(archive).await {
            Ok(table) => return Ok(Self(table)),
            Err(error) => error,
        };
        // The table is made of `frames` again.
        let folder = archive.join(STORAGE.folder);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = archive.join(format!("{}.damaged-{}", STORAGE.folder, now.as_millis()));
        if mend::diagnose(&folder).is_none() || std::fs::rename(&folder, &aside).is_err() {
            return Err(error);
        }
        log::warn!("{error}; the table is put aside as {} and made again", aside.display());
        declaration().open(archive).await.map(Self)
    }

    /// Opens the table for reading only; `None` when there is no table, or its log is damaged: `frames` has everything.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn existing(archive: &Path) -> Result<Option<Self>, ArchiveError> {
        match (TableDeclaration { storage: STORAGE, columns: columns() }).existing(archive).await {
            Err(_) if mend::diagnose(&archive.join(STORAGE.folder)).is_some() => Ok(None),
            found => Ok(found?.map(Self)),
        }
    }

    /// Reads all hosts. When a host has two rows, the row with the later time of receipt counts. A damaged file is
    /// noted in `damage`, and the table then counts as complete until no moment: `frames` has everything.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn load(&self, damage: &Arc<Damage>) -> Result<SavedHosts, ArchiveError> {
        self.load_rows(damage).await.map_err(ArchiveError::store("read", self.0.path()))
    }

    async fn load_rows(&self, damage: &Arc<Damage>) -> Result<SavedHosts, DeltaTableError> {
        let mut newest: BTreeMap<HostId, SavedHost> = BTreeMap::new();
        let mut untils: Vec<i64> = Vec::new();
        let mut offsets: BTreeMap<PartitionName, LogOffsets> = BTreeMap::new();
        // The partitions of the rows, and of the rows with offsets. A version without accounts saved no offsets.
        let (mut partitions, mut counted) = (BTreeSet::new(), BTreeSet::new());
        let columns = ["partition", "state", "complete_until_ns", "archived_offsets"];
        let table = self.0.newest_version();
        let mut rows = Engine::new(Arc::clone(damage)).scan(&table, None, &columns).await?;
        while let Some(batch) = rows.next().await? {
            let values = Columns(&batch);
            let (states, until) = (values.texts("state")?, values.longs("complete_until_ns")?);
            let archived = values.texts("archived_offsets")?;
            let numbers = values.integers("partition")?;
            let mut last = None;
            for at in 0..batch.num_rows() {
                let number = integer(&numbers, at);
                partitions.insert(number);
                // In the first row of a partition; in each row of a table of an earlier version.
                if let Some(logs) = text(&archived, at) {
                    counted.insert(number);
                    if last.replace(logs) != Some(logs) {
                        let logs = serde_json::from_str::<Vec<(PartitionName, LogOffsets)>>(logs);
                        offsets.extend(logs.unwrap_or_default());
                    }
                }
                untils.extend(long(&until, at));
                let saved = text(&states, at).and_then(|state| serde_json::from_str::<SavedHost>(state).ok());
                let Some(saved) = saved else { continue };
                let known = newest.get(&saved.host_id).map_or(i64::MIN, |known| known.newest.received_ns);
                if saved.newest.received_ns >= known {
                    newest.insert(saved.host_id, saved);
                }
            }
        }
        let (folder, mut damaged) = (folder_of(&table)?, HashSet::new());
        let look = |file: &LogicalFileView| match file.path() {
            path if damage.is_known(&folder, &path) => _ = damaged.insert(path.into_owned()),
            _ => {}
        };
        each_file(&table, look).await?;
        damage.retain(&folder, |path| damaged.contains(path));
        // Rows more than a day behind belong to partitions without a reader, where no later records come.
        let latest = untils.iter().copied().max().unwrap_or(i64::MIN);
        let complete_until_ns = untils.into_iter().filter(|until| *until >= latest.saturating_sub(DAY_NS)).min();
        let complete_until_ns = complete_until_ns.filter(|_| partitions == counted && damaged.is_empty());
        Ok(SavedHosts { hosts: newest.into_values().collect(), offsets, complete_until_ns })
    }

    /// Overwrites the rows and positions of the covered partitions in one commit. Partitions with a later position,
    /// saved by another collector, are skipped.
    ///
    /// # Errors
    /// When the store fails, or another collector saved one of the partitions at the same time.
    pub async fn save(&mut self, saved: SavedHosts, coverage: &Coverage) -> Result<(), ArchiveError> {
        let table = &mut self.0;
        table.reload().await?;
        let mut covered = Coverage::new();
        for (name, &(position, until_ns)) in coverage {
            if table.position(name).await?.is_none_or(|saved| saved <= position) {
                covered.insert(name.clone(), (position, until_ns));
            }
        }
        if covered.is_empty() {
            return Ok(());
        }
        // By number: a host whose last frame came from an earlier log of the topic stays listed.
        let by_number: BTreeMap<i32, (i64, i64)> =
            covered.iter().map(|(name, covered)| (name.partition, *covered)).collect();
        let failed = |error: serde_json::Error| ArchiveError::Store {
            operation: "save a host to",
            table: table.path().to_owned(),
            cause: error.to_string(),
        };
        let mut hosts: BTreeMap<i32, Vec<SavedHost>> = BTreeMap::new();
        for host in saved.hosts {
            hosts.entry(host.partition.partition).or_default().push(host);
        }
        let mut rows = Vec::new();
        for (partition, coverage) in by_number.clone() {
            let logs: Vec<_> = saved.offsets.iter().filter(|(log, _)| log.partition == partition).collect();
            let mut offsets = Some(serde_json::to_string(&logs).map_err(failed)?);
            let hosts = hosts.remove(&partition).unwrap_or_default();
            // A partition without hosts has offsets, too.
            let hosts = if hosts.is_empty() { vec![None] } else { hosts.into_iter().map(Some).collect() };
            for host in hosts {
                let state = host.as_ref().map(serde_json::to_string).transpose().map_err(failed)?;
                rows.push(SavedRow { partition, host, coverage, state, offsets: offsets.take() });
            }
        }
        let numbers = by_number.keys().map(ToString::to_string).collect();
        let positions = covered.into_iter().map(|(name, (position, _))| (name, position)).collect();
        table.replace(numbers, &rows, &positions).await.map(|_| ())
    }
}

/// A row: a host with the coverage of the host's partition.
struct SavedRow {
    partition: i32,
    /// `None` in the row of a partition without hosts. The row's host id and texts are empty.
    host: Option<SavedHost>,
    coverage: (i64, i64),
    /// The host as JSON.
    state: Option<String>,
    /// The archived offsets of the logs with the partition's number, as JSON, in the first row of the partition.
    offsets: Option<String>,
}

fn columns() -> Vec<ArchiveColumn<SavedRow>> {
    type Row = SavedRow;
    fn count(row: &Row, value: impl Fn(&SavedFacts) -> usize) -> Option<i64> {
        i64::try_from(row.host.as_ref().map_or(0, |host| value(&host.facts))).ok()
    }
    fn fact(row: &Row, value: impl Fn(&SavedHost) -> String) -> Option<String> {
        Some(row.host.as_ref().map(value).unwrap_or_default())
    }
    fn number(row: &Row, value: impl Fn(&SavedHost) -> Option<i64>) -> Option<i64> {
        row.host.as_ref().map_or(Some(0), value)
    }
    vec![
        ArchiveColumn::integer("partition", |row: &Row| Some(row.partition)).required(),
        ArchiveColumn::long("position", |row: &Row| Some(row.coverage.0)).required(),
        ArchiveColumn::long("complete_until_ns", |row: &Row| Some(row.coverage.1)).required(),
        ArchiveColumn::text("host_id", |row: &Row| fact(row, |host| host.host_id.to_string())).required(),
        ArchiveColumn::text("hostname", |row: &Row| fact(row, |host| host.facts.hostname.clone())).required(),
        ArchiveColumn::text("os", |row: &Row| fact(row, |host| host.facts.os.clone())).required(),
        ArchiveColumn::long("captured_ns", |row: &Row| number(row, |host| Some(host.newest.frame.captured_ns)))
            .required(),
        ArchiveColumn::long("received_ns", |row: &Row| number(row, |host| Some(host.newest.received_ns)))
            .required()
            .statistics(),
        ArchiveColumn::text("epoch", |row: &Row| fact(row, |host| host.newest.frame.key.epoch.to_string())).required(),
        ArchiveColumn::long("seq", |row: &Row| number(row, |host| i64::try_from(host.newest.frame.key.seq).ok()))
            .required(),
        ArchiveColumn::long("processes", |row: &Row| count(row, |facts| facts.processes)).required(),
        ArchiveColumn::long("files", |row: &Row| count(row, |facts| facts.files)).required(),
        ArchiveColumn::long("sockets", |row: &Row| count(row, |facts| facts.sockets)).required(),
        ArchiveColumn::integer("danger_level", |row: &Row| {
            Some(row.host.as_ref().map_or(0, |host| host.facts.danger_level.into()))
        })
        .required(),
        ArchiveColumn::text("psad", |row: &Row| fact(row, |host| host.facts.psad.clone())).required(),
        ArchiveColumn::flag("bye", |row: &Row| Some(row.host.as_ref().is_some_and(|host| host.newest.frame.bye)))
            .required(),
        // A start reads only these columns, `partition` and `complete_until_ns`; the other columns are for SQL queries.
        ArchiveColumn::text("state", |row: &Row| Some(row.state.clone().unwrap_or_default())).required(),
        ArchiveColumn::text("archived_offsets", |row: &Row| row.offsets.clone()),
    ]
}
