//! Reads `frames`: searches among headers (columns only), and the bytes of single records.
//!
//! Search filters use columns that exclude whole files: the folder is the day of receipt, and the table's log keeps
//! minimum and maximum of times, offsets and sequence numbers per file.

#[cfg(test)]
mod damaged;
mod files;
mod found;
mod records;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use tokio::sync::Mutex;

pub use self::files::FirstSnapshot;
pub use self::found::{Candidates, FoundFrame, SearchRank};
use crate::delta::engine::Engine;
use crate::delta::{Damage, exists, mend, unloaded, unreadable};
use crate::tables::rows::{ArchivedRow, DECLARED_COLUMNS, PART_COLUMNS, rows_of};
use crate::{ArchiveError, day_of, tables};

/// Reader of the archive. Cheap to keep; every query sees the newest version of the table.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    table: Mutex<Option<DeltaTable>>,
    engine: Engine,
}

impl Reader {
    /// Makes a reader of the archive in this folder; the folder need not exist yet.
    pub fn new(archive: &Path) -> Self {
        Self {
            path: archive.join(tables::frames::STORAGE.folder),
            table: Mutex::new(None),
            engine: Engine::new(Arc::default()),
        }
    }

    /// Returns the table without loading it: each scan reads the newest version, and only the part of the file list
    /// that the filter needs.
    async fn table(&self) -> Result<DeltaTable, ArchiveError> {
        let mut known = self.table.lock().await;
        if let Some(table) = known.as_ref() {
            return Ok(table.clone());
        }
        if !exists(&self.path).await? {
            return Err(ArchiveError::Missing(self.path.clone()));
        }
        Ok(known.insert(unloaded(&self.path)?).clone())
    }

    /// Returns the damaged files of the archive that were found so far. Their rows are missing from all answers.
    pub fn damage(&self) -> &Arc<Damage> {
        self.engine.damage()
    }

    /// Passes every row received in this span (ns since the epoch) to `take`, in no particular order. A row may come
    /// twice.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn rows(&self, span: Range<i64>, mut take: impl FnMut(ArchivedRow)) -> Result<(), ArchiveError> {
        let filter = col("receive_day")
            .gt_eq(day(day_of(span.start)))
            .and(col("receive_day").lt_eq(day(day_of(span.end))))
            .and(col("received_ns").gt_eq(lit(span.start)))
            .and(col("received_ns").lt(lit(span.end)));
        let columns = [PART_COLUMNS.as_slice(), &DECLARED_COLUMNS].concat();
        let table = self.table().await?;
        let read = async {
            let mut rows = self.engine.scan(&table, Some(filter), &columns).await?;
            while let Some(batch) = rows.next().await? {
                rows_of(&batch, &mut take)?;
            }
            Ok(())
        };
        read.await.map_err(ArchiveError::store("search", &self.path))
    }

    /// Returns when the first and the last record of each file was received (ns since the epoch), ordered by the first,
    /// from the table's log alone.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received(&self) -> Result<Vec<RangeInclusive<i64>>, ArchiveError> {
        let table = self.table().await?;
        if let Some(cause) = mend::newest_checkpoint_damage(&self.path) {
            return Err(ArchiveError::Store { operation: "read", table: self.path.clone(), cause });
        }
        let received = match files::received(&table).await {
            Ok(received) => received,
            Err(error) => return Err(unreadable("read", &self.path, error).await),
        };
        Ok(received.into_iter().map(|(first, last)| first..=last).collect())
    }

    /// Returns the number of rows of each day of receipt, from the table's log alone, without the rows of files known
    /// as damaged; `None` when the log has no number.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn rows_by_day(&self) -> Result<BTreeMap<i32, Option<u64>>, ArchiveError> {
        let table = self.table().await?;
        files::rows_by_day(&table, self.engine.damage()).await.map_err(ArchiveError::store("read", &self.path))
    }
}

fn day(days: i32) -> Expr {
    Expr::Literal(ScalarValue::Date32(Some(days)), None)
}
