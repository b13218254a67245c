//! Writes `frames`: rows and positions in one commit, or neither.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltalake::arrow::datatypes::Schema;
use deltalake::checkpoints::create_checkpoint_from_table_url_and_cleanup;
use deltalake::kernel::transaction::CommitData;
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{BlindDeltaTable, DeltaTableError};

use super::log::{self as table_log, Entry, Known};
use super::{ArchiveError, FRAMES, PartitionName, Row, durable, rows};

/// Log entries between two checkpoints, and so the most entries that a reader has to apply.
const CHECKPOINT_COMMITS: u32 = 100;
/// Idle time after which a handle reads the table again before a commit. Reading the table is cheaper than applying all
/// entries since, and entries are kept for an hour only.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// The writer of `frames`: the only handle to read and commit positions.
pub struct Frames {
    path: PathBuf,
    log_store: LogStoreRef,
    /// Version of the table reached by this handle, by the last reload or the handle's own last commit. All log entries
    /// up to this version were checked for positions moved by other writers.
    version: u64,
    /// When `version` was reached.
    since: Instant,
    /// The table at `version`, for reading positions; discarded by a commit and loaded again on demand.
    state: Option<DeltaTableState>,
    /// Schema and properties of the table, for writing data files.
    template: BlindDeltaTable,
    /// Positions read or committed by this writer, and not moved by any other writer since.
    positions: BTreeMap<PartitionName, Option<i64>>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("positions", &self.positions)
            .finish_non_exhaustive()
    }
}

/// A successful commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Version of the table.
    pub version: u64,
}

impl Frames {
    /// Opens the table in the archive's folder; creates the table when missing.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        let path = archive.join(FRAMES);
        let table =
            super::open_or_create(&path, rows::columns(), "receive_day", rows::STATS_COLUMNS, CHECKPOINT_COMMITS)
                .await?;
        let log_store = table.log_store();
        let template = BlindDeltaTable::try_new_with_log_store(Arc::clone(&log_store))
            .await
            .map_err(ArchiveError::store("open", &path))?;
        let state = table.snapshot().map_err(ArchiveError::store("open", &path))?.clone();
        let (version, since) = (state.version(), Instant::now());
        Ok(Self { log_store, version, since, state: Some(state), template, positions: BTreeMap::new(), path })
    }

    /// Discards all positions and reads the table again, after a commit was refused or failed with an unknown result.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn reload(&mut self) -> Result<(), ArchiveError> {
        self.positions.clear();
        let failed = |error| ArchiveError::store("read", &self.path)(error);
        let state = DeltaTableState::try_new(&self.log_store, None).await.map_err(failed)?;
        self.template = BlindDeltaTable::try_new_with_log_store(Arc::clone(&self.log_store)).await.map_err(failed)?;
        (self.version, self.since) = (state.version(), Instant::now());
        self.state = Some(state);
        Ok(())
    }

    /// Reads the table again and discards the positions moved by other writers.
    async fn refresh(&mut self) -> Result<(), ArchiveError> {
        let before = std::mem::take(&mut self.positions);
        self.reload().await?;
        for (partition, position) in before {
            if self.position(&partition).await? != position {
                self.positions.remove(&partition);
            }
        }
        Ok(())
    }

    /// Returns the offset after the last archived record of a partition, as of this handle's version; `None` when
    /// nothing was archived.
    ///
    /// # Errors
    /// When the table's log cannot be read.
    pub async fn position(&mut self, partition: &PartitionName) -> Result<Option<i64>, ArchiveError> {
        let failed = ArchiveError::store("read positions of", &self.path);
        let read = async {
            // Loads this handle's version, even if outdated: later entries were not checked yet.
            if self.state.is_none() {
                self.state = Some(DeltaTableState::try_new(&self.log_store, Some(self.version)).await?);
            }
            match &self.state {
                Some(state) => state.transaction_version(&self.log_store, partition.app_id()).await,
                None => Ok(None),
            }
        };
        let found = read.await.map_err(failed)?;
        self.positions.insert(partition.clone(), found);
        Ok(found)
    }

    /// Returns the newest generation of a partition and its position; the first generation and `None` when nothing was
    /// archived.
    ///
    /// # Errors
    /// When the table's log cannot be read.
    pub async fn newest(&mut self, first: &PartitionName) -> Result<(PartitionName, Option<i64>), ArchiveError> {
        let mut newest = (first.clone(), self.position(first).await?);
        while newest.1.is_some() {
            let next = PartitionName { generation: newest.0.generation + 1, ..first.clone() };
            match self.position(&next).await? {
                None => break,
                found => newest = (next, found),
            }
        }
        Ok(newest)
    }

    /// Returns the positions that this writer read or committed.
    pub fn known(&self) -> &BTreeMap<PartitionName, Option<i64>> {
        &self.positions
    }

    /// Commits rows together with the next position of each partition of the rows.
    ///
    /// # Errors
    /// [`ArchiveError::Fenced`] when another writer moved one of the positions: nothing was committed, and
    /// [`Frames::reload`] makes the current positions readable. [`ArchiveError::Store`] when the store failed: the
    /// commit may have succeeded in spite of the failure; a reload shows the result.
    pub async fn append(
        &mut self,
        rows: &[Row],
        positions: &BTreeMap<PartitionName, i64>,
    ) -> Result<Appended, ArchiveError> {
        positions.iter().try_for_each(|(partition, &next)| self.check(partition, next))?;
        let mut actions = Vec::new();
        if !rows.is_empty() {
            let adds = self.write(rows).await.map_err(ArchiveError::store("write records to", &self.path))?;
            durable::sync_files(&self.path, &adds).await.map_err(|error| self.io("flush data files of", &error))?;
            actions.extend(adds.into_iter().map(Action::Add));
        }
        let transactions =
            positions.iter().map(|(partition, &next)| Transaction::new(partition.app_id(), next)).collect();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec!["receive_day".to_owned()]),
            predicate: None,
        };
        let commit = CommitData::new(actions, operation, Default::default(), transactions);
        let own: BTreeSet<String> = positions.keys().map(PartitionName::app_id).collect();
        let mut entry = Entry::Gone;
        if self.since.elapsed() < IDLE_MAX {
            entry = self.enter(Known::Earlier, &commit, &own).await?;
        }
        if entry == Entry::Gone {
            self.refresh().await?;
            positions.iter().try_for_each(|(partition, &next)| self.check(partition, next))?;
            entry = self.enter(Known::JustRead, &commit, &own).await?;
        }
        let failed = |cause: String| ArchiveError::Store { operation: "commit to", table: self.path.clone(), cause };
        let (version, moved) = match entry {
            Entry::Written { version, moved } => (version, moved),
            Entry::Refused { app_id } => return Err(refused(positions, &app_id)),
            Entry::Changed => return Err(failed("its schema or protocol was changed meanwhile".to_owned())),
            Entry::Gone => return Err(failed("its log was summed up meanwhile".to_owned())),
            Entry::Doubtful { version } => {
                return Err(failed(format!(
                    "a checkpoint came before entry {version}; the table tells whether it counts"
                )));
            }
        };
        (self.version, self.since) = (version, Instant::now());
        self.state = None;
        for (partition, &next) in positions {
            self.positions.insert(partition.clone(), Some(next));
        }
        // This handle is now past the commits of other writers and would no longer detect a conflict: forget the moved
        // positions.
        self.positions.retain(|partition, _| !moved.contains(&partition.app_id()));
        durable::sync_version(&self.path, version).await.map_err(|error| self.io("flush the log of", &error))?;
        self.checkpoint(version).await;
        Ok(Appended { version })
    }

    async fn enter(&self, known: Known, commit: &CommitData, own: &BTreeSet<String>) -> Result<Entry, ArchiveError> {
        table_log::append(&self.log_store, &self.path, (self.version, known), commit, own)
            .await
            .map_err(ArchiveError::store("commit to", &self.path))
    }

    /// Fails unless this writer knows the position of the partition and the new position is higher.
    fn check(&self, partition: &PartitionName, next: i64) -> Result<(), ArchiveError> {
        match self.positions.get(partition) {
            Some(Some(from)) if next <= *from => {
                Err(ArchiveError::Backwards { partition: partition.to_string(), from: *from, to: next })
            }
            Some(_) => Ok(()),
            None => Err(ArchiveError::Fenced {
                partition: partition.to_string(),
                expected: "not its own".to_owned(),
                found: "of another collector, or was never read".to_owned(),
            }),
        }
    }

    /// Every [`CHECKPOINT_COMMITS`] versions, writes a checkpoint and removes log entries older than an hour, so that
    /// readers need not apply all entries.
    async fn checkpoint(&self, version: u64) {
        if !version.is_multiple_of(CHECKPOINT_COMMITS.into()) {
            return;
        }
        let table = self.log_store.root_url().clone();
        if let Err(error) = create_checkpoint_from_table_url_and_cleanup(table, version, Some(true), None).await {
            edr_daemon::limited!(log::Level::Warn, "sum up the log of {}: {error}", self.path.display());
        }
    }

    async fn write(&self, rows: &[Row]) -> Result<Vec<Add>, DeltaTableError> {
        let mut writer =
            RecordBatchWriter::for_blind_appends(&self.template)?.with_writer_properties(writer_properties()?);
        let schema: Arc<Schema> = writer.arrow_schema();
        writer.write(rows::batch(rows, schema)?).await?;
        writer.flush().await
    }

    fn io(&self, operation: &'static str, error: &std::io::Error) -> ArchiveError {
        ArchiveError::Store { operation, table: self.path.clone(), cause: error.to_string() }
    }
}

fn refused(positions: &BTreeMap<PartitionName, i64>, app_id: &str) -> ArchiveError {
    let partition = positions.keys().find(|partition| partition.app_id() == app_id);
    ArchiveError::Fenced {
        partition: partition.map_or_else(|| app_id.to_owned(), ToString::to_string),
        expected: "where this one begins".to_owned(),
        found: "moved by a commit that came first".to_owned(),
    }
}

/// Returns the Parquet settings: zstd throughout. Bodies are compressed already; dictionaries or statistics of bodies
/// and hashes would only cost.
fn writer_properties() -> Result<WriterProperties, DeltaTableError> {
    Ok(WriterProperties::builder()
        .set_created_by(format!("edr-collectd {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_column_dictionary_enabled("record".into(), false)
        .set_column_dictionary_enabled("raw_hash".into(), false)
        .set_column_statistics_enabled("record".into(), EnabledStatistics::None)
        .set_column_statistics_enabled("raw_hash".into(), EnabledStatistics::None)
        .set_column_statistics_enabled("key".into(), EnabledStatistics::None)
        .build())
}
