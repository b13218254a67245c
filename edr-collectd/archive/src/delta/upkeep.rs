//! Upkeep of tables: checkpoints, removal of old log entries, and vacuums (the removal of unused data files).
//!
//! Commits never do upkeep. Several collectors may do the upkeep of a table at the same time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::checkpoints::{cleanup_metadata, create_checkpoint};
use deltalake::operations::vacuum::{Clock, VacuumMode};
use tokio::time::Instant;

use super::{TableStorage, durable, exists, log, unloaded};
use crate::ArchiveError;

/// The upkeep of a table.
#[derive(Debug)]
pub struct Upkeep {
    storage: TableStorage,
    path: PathBuf,
    vacuum_at: Instant,
}

impl Upkeep {
    /// Makes the upkeep of a table of the archive. The first vacuum is due after the table's interval.
    pub fn new(archive: &Path, storage: TableStorage) -> Self {
        let vacuum_at = Instant::now() + storage.vacuum_interval;
        Self { storage, path: archive.join(storage.folder), vacuum_at }
    }

    /// Writes a checkpoint and vacuums the table when due.
    ///
    /// # Errors
    /// When the store fails. The same work is due again at the next call; a vacuum is due after the table's interval.
    pub async fn run(&mut self) -> Result<(), ArchiveError> {
        if !exists(&self.path).await? {
            return Ok(());
        }
        self.sum_up().await?;
        if Instant::now() >= self.vacuum_at {
            self.vacuum_at = Instant::now() + self.storage.vacuum_interval;
            self.vacuum(None).await?;
        }
        Ok(())
    }

    /// Writes a checkpoint at the newest multiple of the table's interval, unless there is one, and removes the log
    /// entries before an earlier checkpoint that are older than an hour. Readers then need not apply all entries.
    async fn sum_up(&self) -> Result<(), ArchiveError> {
        let failed = |error| ArchiveError::store("sum up the log of", &self.path)(error);
        let ends = log::ends(&self.path).await.map_err(|error| failed(error.into()))?;
        let interval = u64::from(self.storage.checkpoint_commits);
        let due = ends.entry.map_or(0, |newest| newest - newest % interval);
        if due == 0 || ends.checkpoint.is_some_and(|checkpoint| checkpoint >= due) {
            return Ok(());
        }
        let mut table = unloaded(&self.path)?;
        let sum_up = async {
            table.load_version(due).await?;
            create_checkpoint(&table, None).await?;
            // The entries are removed from the disk only after the checkpoint is on the disk.
            durable::sync_checkpoint(&self.path, due).await?;
            cleanup_metadata(&table, None).await.map(|_| ())
        };
        sum_up.await.map_err(failed)
    }

    /// Removes data files unused for an hour: replaced files, and files of commits that were never made.
    pub(crate) async fn vacuum(&self, clock: Option<Arc<dyn Clock>>) -> Result<(), ArchiveError> {
        // Full mode also removes files without any entry.
        let mut vacuum = unloaded(&self.path)?.vacuum().with_mode(VacuumMode::Full);
        if let Some(clock) = clock {
            vacuum = vacuum.with_clock(clock);
        }
        vacuum.await.map(|_| ()).map_err(ArchiveError::store("vacuum", &self.path))
    }
}
