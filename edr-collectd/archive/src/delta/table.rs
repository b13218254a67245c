//! A table: rows and positions are written in one commit, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use deltalake::kernel::transaction::CommitData;
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{BlindDeltaTable, DeltaTable, DeltaTableError};

use super::declaration::{put_aside_checkpoints, put_aside_newest_entry, unreadable};
use super::log::{self as table_log, Claim, Conflict, Entry, Freshness};
use super::{TableDeclaration, column, durable};
use crate::{ArchiveError, PartitionName};

/// Idle time after which a handle reads the table again before a commit. Reading the table is cheaper than applying all
/// entries since, and entries are kept for an hour only.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Largest age of a data file when its log entry is written. A vacuum removes files without an entry after an hour.
const UNCOMMITTED_MAX: Duration = Duration::from_secs(600);

/// A handle of a table with rows of type `R`: the only handle to read and commit positions.
pub struct ArchiveTable<R> {
    declaration: TableDeclaration<R>,
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

impl<R> std::fmt::Debug for ArchiveTable<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveTable")
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
    /// Values that the type of their column cannot hold, written as null.
    pub left_out: usize,
}

/// Data files without a log entry.
struct WrittenFiles {
    adds: Vec<Add>,
    left_out: usize,
    /// When the writing began, by both clocks: one stands still while the machine sleeps, the other can be set.
    begin: (Instant, SystemTime),
}

impl WrittenFiles {
    fn age(&self) -> Duration {
        self.begin.0.elapsed().max(self.begin.1.elapsed().unwrap_or_default())
    }
}

impl<R> ArchiveTable<R> {
    pub(super) async fn new(
        declaration: TableDeclaration<R>,
        path: PathBuf,
        table: &DeltaTable,
    ) -> Result<Self, ArchiveError> {
        let log_store = table.log_store();
        let failed = |error| ArchiveError::store("open", &path)(error);
        let template = BlindDeltaTable::try_new_with_log_store(Arc::clone(&log_store)).await.map_err(failed)?;
        let state = table.snapshot().map_err(failed)?.clone();
        let (version, since) = (state.version(), Instant::now());
        let (state, positions) = (Some(state), BTreeMap::new());
        Ok(Self { declaration, path, log_store, version, since, state, template, positions })
    }

    /// Returns the table's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the table for a scan, which reads the newest version.
    pub(crate) fn newest_version(&self) -> DeltaTable {
        DeltaTable::new(Arc::clone(&self.log_store))
    }

    /// Discards all positions and reads the table again, after a commit was refused or failed with an unknown result.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn reload(&mut self) -> Result<(), ArchiveError> {
        self.positions.clear();
        let failed = |error| ArchiveError::store("read", &self.path)(error);
        let state = match DeltaTableState::try_new(&self.log_store, None).await {
            Ok(state) => state,
            Err(_) => {
                put_aside_newest_entry(&self.path).map_err(|error| self.io("look into", &error))?;
                put_aside_checkpoints(&self.path).await;
                match DeltaTableState::try_new(&self.log_store, None).await {
                    Ok(state) => state,
                    Err(error) => return Err(unreadable("read", &self.path, error).await),
                }
            }
        };
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

    /// Returns the table at this handle's version, even if outdated: later entries were not checked yet.
    async fn state(&mut self) -> Result<&DeltaTableState, DeltaTableError> {
        let state = match self.state.take() {
            Some(state) => state,
            None => DeltaTableState::try_new(&self.log_store, Some(self.version)).await?,
        };
        Ok(self.state.insert(state))
    }

    /// Returns the position of a partition as of this handle's version, for `frames` the offset after the last archived
    /// record; `None` when nothing was committed.
    ///
    /// # Errors
    /// When the table's log cannot be read.
    pub async fn position(&mut self, partition: &PartitionName) -> Result<Option<i64>, ArchiveError> {
        let log_store = Arc::clone(&self.log_store);
        let found = match self.state().await {
            Ok(state) => state.transaction_version(&log_store, partition.app_id()).await,
            Err(error) => Err(error),
        };
        let found = found.map_err(ArchiveError::store("read positions of", &self.path))?;
        self.positions.insert(partition.clone(), found);
        Ok(found)
    }

    /// Returns the newest generation of a partition and its position; the first generation and `None` when nothing was
    /// committed.
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

    /// Commits rows together with the next position of each partition of the rows. Every position must grow.
    ///
    /// # Errors
    /// [`ArchiveError::Fenced`] when another writer moved one of the positions: nothing was committed, and
    /// [`ArchiveTable::reload`] makes the current positions readable. [`ArchiveError::Store`] when the store failed:
    /// the commit may have succeeded in spite of the failure; a reload shows the result.
    pub async fn append(
        &mut self,
        rows: &[R],
        positions: &BTreeMap<PartitionName, i64>,
    ) -> Result<Appended, ArchiveError> {
        positions.iter().try_for_each(|(partition, &next)| self.check(partition, next, Growth::Required))?;
        let written = self.write(rows).await?;
        let actions = written.adds.iter().cloned().map(Action::Add).collect();
        let commit = self.commit_data(SaveMode::Append, actions, positions);
        let claim = Claim { app_ids: positions.keys().map(PartitionName::app_id).collect(), ..Claim::default() };
        let mut entry = Entry::Gone;
        if self.since.elapsed() < IDLE_MAX {
            entry = self.enter(Freshness::Earlier, &written, &commit, &claim).await?;
        }
        if entry == Entry::Gone {
            self.refresh().await?;
            positions.iter().try_for_each(|(partition, &next)| self.check(partition, next, Growth::Required))?;
            entry = self.enter(Freshness::JustRead, &written, &commit, &claim).await?;
        }
        self.entered(entry, written.left_out, positions).await
    }

    /// Replaces all rows of some parts of the table, given by values of the partition column, in one commit with the
    /// positions. The rows are the state at the positions, so a position may stay the same.
    ///
    /// # Errors
    /// As [`append`](Self::append); also [`ArchiveError::Store`] when another writer changed one of the parts, or the
    /// handle was idle for long.
    pub async fn replace(
        &mut self,
        parts: BTreeSet<String>,
        rows: &[R],
        positions: &BTreeMap<PartitionName, i64>,
    ) -> Result<Appended, ArchiveError> {
        positions.iter().try_for_each(|(partition, &next)| self.check(partition, next, Growth::Optional))?;
        let column = self.declaration.storage.partition_column;
        let path = self.path.clone();
        let failed = |error| ArchiveError::store("read", &path)(error);
        let files = self.state().await.map_err(failed)?.log_data();
        let replaced = files.iter().filter(|file| {
            let values = file.partition_values_map();
            values.get(column).is_some_and(|value| value.as_ref().is_some_and(|value| parts.contains(value)))
        });
        let mut actions: Vec<Action> = replaced.map(|file| Action::Remove(file.remove_action(true))).collect();
        let written = self.write(rows).await?;
        actions.extend(written.adds.iter().cloned().map(Action::Add));
        let commit = self.commit_data(SaveMode::Overwrite, actions, positions);
        let app_ids = positions.keys().map(PartitionName::app_id).collect();
        let claim = Claim { app_ids, partition_column: column, parts };
        let entry = self.enter(Freshness::Earlier, &written, &commit, &claim).await?;
        self.entered(entry, written.left_out, positions).await
    }

    fn commit_data(
        &self,
        mode: SaveMode,
        actions: Vec<Action>,
        positions: &BTreeMap<PartitionName, i64>,
    ) -> CommitData {
        let partition_by = Some(vec![self.declaration.storage.partition_column.to_owned()]);
        let operation = DeltaOperation::Write { mode, partition_by, predicate: None };
        let transactions =
            positions.iter().map(|(partition, &next)| Transaction::new(partition.app_id(), next)).collect();
        CommitData::new(actions, operation, Default::default(), transactions)
    }

    /// Writes the log entry of a commit, unless the files are so old that a vacuum may remove them.
    async fn enter(
        &self,
        known: Freshness,
        written: &WrittenFiles,
        commit: &CommitData,
        claim: &Claim,
    ) -> Result<Entry, ArchiveError> {
        let age = written.age();
        if age > UNCOMMITTED_MAX {
            return Err(self.uncommitted(format!("its files were written {} s ago", age.as_secs())));
        }
        table_log::append(&self.log_store, &self.path, (self.version, known), commit, claim)
            .await
            .map_err(ArchiveError::store("commit to", &self.path))
    }

    /// Takes over the result of a commit.
    async fn entered(
        &mut self,
        entry: Entry,
        left_out: usize,
        positions: &BTreeMap<PartitionName, i64>,
    ) -> Result<Appended, ArchiveError> {
        let (version, moved) = match entry {
            Entry::Written { version, moved } => (version, moved),
            Entry::Refused(Conflict::Position { app_id }) => return Err(refused(positions, &app_id)),
            Entry::Refused(Conflict::Part { value }) => {
                return Err(self.uncommitted(format!("another collector changed part {value} meanwhile")));
            }
            Entry::Changed => return Err(self.uncommitted("its schema or protocol was changed meanwhile".to_owned())),
            Entry::Gone => return Err(self.uncommitted("its log was summed up meanwhile".to_owned())),
            Entry::Doubtful { version } => {
                return Err(self.uncommitted(format!(
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
        Ok(Appended { version, left_out })
    }

    /// Fails unless this writer knows the position of the partition and the new position follows.
    fn check(&self, partition: &PartitionName, next: i64, growth: Growth) -> Result<(), ArchiveError> {
        match self.positions.get(partition) {
            Some(Some(from)) if next < *from || (next == *from && growth == Growth::Required) => {
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

    /// Writes the data files of rows to disk.
    async fn write(&self, rows: &[R]) -> Result<WrittenFiles, ArchiveError> {
        let begin = (Instant::now(), SystemTime::now());
        if rows.is_empty() {
            return Ok(WrittenFiles { adds: Vec::new(), left_out: 0, begin });
        }
        let (adds, left_out) =
            self.write_files(rows).await.map_err(ArchiveError::store("write rows to", &self.path))?;
        durable::sync_files(&self.path, &adds).await.map_err(|error| self.io("flush data files of", &error))?;
        Ok(WrittenFiles { adds, left_out, begin })
    }

    async fn write_files(&self, rows: &[R]) -> Result<(Vec<Add>, usize), DeltaTableError> {
        let mut writer =
            RecordBatchWriter::for_blind_appends(&self.template)?.with_writer_properties(self.writer_properties()?);
        let (batch, left_out) = column::batch(&self.declaration.columns, rows, writer.arrow_schema())?;
        writer.write(batch).await?;
        Ok((writer.flush().await?, left_out))
    }

    /// Returns the Parquet settings: zstd throughout. Statistics of bytes are of no use to a search.
    fn writer_properties(&self) -> Result<WriterProperties, DeltaTableError> {
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("edr-collectd {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
        for column in &self.declaration.columns {
            if column.is_incompressible {
                properties = properties.set_column_dictionary_enabled(column.name().into(), false);
            }
            if column.is_bytes() {
                properties = properties.set_column_statistics_enabled(column.name().into(), EnabledStatistics::None);
            }
        }
        Ok(properties.build())
    }

    fn io(&self, operation: &'static str, error: &std::io::Error) -> ArchiveError {
        ArchiveError::Store { operation, table: self.path.clone(), cause: error.to_string() }
    }

    fn uncommitted(&self, cause: String) -> ArchiveError {
        ArchiveError::Store { operation: "commit to", table: self.path.clone(), cause }
    }
}

/// Requirement on the new position of a partition: higher than the old position, or not lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    Required,
    Optional,
}

fn refused(positions: &BTreeMap<PartitionName, i64>, app_id: &str) -> ArchiveError {
    let partition = positions.keys().find(|partition| partition.app_id() == app_id);
    ArchiveError::Fenced {
        partition: partition.map_or_else(|| app_id.to_owned(), ToString::to_string),
        expected: "where this one begins".to_owned(),
        found: "moved by a commit that came first".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_old_on_a_machine_that_sleeps_and_under_a_clock_that_is_set_back() {
        let hours = Duration::from_secs(7_200);
        let written = |begin| WrittenFiles { adds: Vec::new(), left_out: 0, begin };
        assert!(written((Instant::now(), SystemTime::now() - hours)).age() >= hours);
        assert!(written((Instant::now(), SystemTime::now() + hours)).age() < UNCOMMITTED_MAX);
    }
}
