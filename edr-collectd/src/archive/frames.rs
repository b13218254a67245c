//! Writing `frames`: rows and positions in one commit, or neither.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::arrow::datatypes::Schema;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Transaction};
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};

use super::{ArchiveError, FRAMES, PartitionName, Row, durable, rows};

/// Log entries between two checkpoints: a reader applies at most so many.
const CHECKPOINT_COMMITS: u32 = 100;
/// Commits of other writers that may come in between before one of ours gives up and is tried again.
const COMMIT_RETRIES: usize = 15;

/// The writer of `frames`. Holds the one table handle from which positions are read and through which they are
/// committed.
pub struct Frames {
    path: PathBuf,
    log_store: LogStoreRef,
    /// State of the table as this handle knows it: of the last reload, or of its own last commit.
    state: DeltaTableState,
    /// Where the schema and the properties of the table come from when files are written.
    template: DeltaTable,
    /// Positions this writer read or left. One that the table contradicts belongs to another writer.
    positions: BTreeMap<PartitionName, Option<i64>>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("path", &self.path).field("positions", &self.positions).finish_non_exhaustive()
    }
}

/// A commit that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Version of the table.
    pub version: u64,
}

impl Frames {
    /// Opens the table in the archive's folder; makes it when there is none.
    ///
    /// # Errors
    /// When the folder cannot be used or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        let path = archive.join(FRAMES);
        let table =
            super::open_or_create(&path, rows::columns(), "receive_day", rows::STATS_COLUMNS, CHECKPOINT_COMMITS)
                .await?;
        let state = table.snapshot().map_err(ArchiveError::store("open", &path))?.clone();
        Ok(Self { log_store: table.log_store(), state, template: table, positions: BTreeMap::new(), path })
    }

    /// Forgets all positions and reads the table anew: after a commit was refused or its fate is not known.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn reload(&mut self) -> Result<(), ArchiveError> {
        self.positions.clear();
        self.state =
            DeltaTableState::try_new(&self.log_store, None).await.map_err(ArchiveError::store("read", &self.path))?;
        Ok(())
    }

    /// The offset after the last archived record of a partition, as this handle sees it; `None` when there is none.
    ///
    /// # Errors
    /// When the table's log cannot be read.
    pub async fn position(&mut self, partition: &PartitionName) -> Result<Option<i64>, ArchiveError> {
        let found = self.found(partition).await?;
        self.positions.insert(partition.clone(), found);
        Ok(found)
    }

    /// The newest generation of a partition that has a position, with that position.
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

    /// The positions this writer read or left.
    pub fn known(&self) -> &BTreeMap<PartitionName, Option<i64>> {
        &self.positions
    }

    /// Commits rows together with the position after them, for each partition they came from.
    ///
    /// # Errors
    /// [`ArchiveError::Fenced`] when another writer moved one of the positions: nothing was committed, and
    /// [`Frames::reload`] gives the right ones. [`ArchiveError::Store`] when the store failed: the commit may have been
    /// made all the same, which a reload tells.
    pub async fn append(
        &mut self,
        rows: &[Row],
        positions: &BTreeMap<PartitionName, i64>,
    ) -> Result<Appended, ArchiveError> {
        for (partition, &next) in positions {
            self.check(partition, next).await?;
        }
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
        let properties =
            CommitProperties::default().with_application_transactions(transactions).with_max_retries(COMMIT_RETRIES);
        let commit = CommitBuilder::from(properties).with_actions(actions).build(
            Some(&self.state),
            Arc::clone(&self.log_store),
            operation,
        );
        let finalized = match commit.await {
            Ok(finalized) => finalized,
            Err(error) if is_fenced(&error) => return Err(self.fenced(positions, &error)),
            Err(error) => return Err(ArchiveError::store("commit to", &self.path)(error)),
        };
        durable::sync_version(&self.path, finalized.version())
            .await
            .map_err(|error| self.io("flush the log of", &error))?;
        self.state = finalized.snapshot();
        for (partition, &next) in positions {
            self.positions.insert(partition.clone(), Some(next));
        }
        Ok(Appended { version: finalized.version() })
    }

    /// The position of a partition must be the one this writer read or left, and must move forward.
    async fn check(&self, partition: &PartitionName, next: i64) -> Result<(), ArchiveError> {
        let found = self.found(partition).await?;
        let show = |position: Option<i64>| position.map_or_else(|| "none".to_owned(), |offset| offset.to_string());
        match self.positions.get(partition) {
            Some(expected) if *expected == found => {}
            expected => {
                return Err(ArchiveError::Fenced {
                    partition: partition.to_string(),
                    expected: expected.map_or_else(|| "not its own".to_owned(), |expected| show(*expected)),
                    found: show(found),
                });
            }
        }
        match found {
            Some(from) if next <= from => {
                Err(ArchiveError::Backwards { partition: partition.to_string(), from, to: next })
            }
            _ => Ok(()),
        }
    }

    async fn found(&self, partition: &PartitionName) -> Result<Option<i64>, ArchiveError> {
        self.state
            .transaction_version(&self.log_store, partition.app_id())
            .await
            .map_err(ArchiveError::store("read positions of", &self.path))
    }

    async fn write(&self, rows: &[Row]) -> Result<Vec<deltalake::kernel::Add>, DeltaTableError> {
        let mut writer = RecordBatchWriter::for_table(&self.template)?.with_writer_properties(writer_properties()?);
        let schema: Arc<Schema> = writer.arrow_schema();
        writer.write(rows::batch(rows, schema)?).await?;
        writer.flush().await
    }

    fn fenced(&self, positions: &BTreeMap<PartitionName, i64>, error: &DeltaTableError) -> ArchiveError {
        let names: Vec<String> = positions.keys().map(ToString::to_string).collect();
        ArchiveError::Fenced {
            partition: names.join(", "),
            expected: "what it read".to_owned(),
            found: error.to_string(),
        }
    }

    fn io(&self, operation: &'static str, error: &std::io::Error) -> ArchiveError {
        ArchiveError::Store { operation, table: self.path.clone(), cause: error.to_string() }
    }
}

/// Whether a commit was refused since another writer's came first.
fn is_fenced(error: &DeltaTableError) -> bool {
    matches!(error, DeltaTableError::Transaction { source: TransactionError::CommitConflict(_) })
}

/// zstd throughout. Bodies are compressed already and dictionaries or statistics of them would only cost.
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
