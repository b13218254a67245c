//! Declarations of tables, and the opening of a declared table.

use std::path::Path;
use std::time::Duration;

use deltalake::kernel::StructField;
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTable, DeltaTableError};

use super::{ArchiveColumn, ArchiveTable, exists, mend, unloaded};
use crate::ArchiveError;

/// How a table is stored.
#[derive(Debug, Clone, Copy)]
pub struct TableStorage {
    /// Folder of the table in the archive.
    pub folder: &'static str,
    /// The column whose values divide the table into folders, and into the parts that can be replaced.
    pub partition_column: &'static str,
    /// Log entries between two checkpoints, and so about the most entries that a reader has to apply.
    pub checkpoint_commits: u32,
    /// Time between two searches for unused files.
    pub vacuum_interval: Duration,
}

/// How long log entries below a checkpoint and unused files stay: readers of older versions have this long to finish.
const KEPT: &str = "interval 1 hour";

/// A table with rows of type `R`: how the table is stored, and the columns in order.
#[derive(Debug)]
pub struct TableDeclaration<R> {
    /// How the table is stored.
    pub storage: TableStorage,
    /// The columns. A column may be added later, at the end, if null is allowed.
    pub columns: Vec<ArchiveColumn<R>>,
}

impl<R> TableDeclaration<R> {
    /// Opens the table in the archive's folder. Creates the table when missing, and adds columns that an older version
    /// of the program did not declare.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(self, archive: &Path) -> Result<ArchiveTable<R>, ArchiveError> {
        let path = archive.join(self.storage.folder);
        let io = |operation, error: &std::io::Error| ArchiveError::Store {
            operation,
            table: path.clone(),
            cause: error.to_string(),
        };
        std::fs::create_dir_all(&path).map_err(|error| io("make the folder", &error))?;
        put_aside_newest_entry(&path).map_err(|error| io("look into", &error))?;
        let table = match exists(&path).await? {
            true => {
                put_aside_checkpoints(&path).await;
                if let Some(cause) = mend::newest_checkpoint_damage(&path) {
                    return Err(ArchiveError::Store { operation: "open", table: path, cause });
                }
                self.add_columns(&path).await?
            }
            false => self.create(&path).await?,
        };
        ArchiveTable::new(self, path, &table).await
    }

    /// Opens the table only if there is one, and changes nothing.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn existing(self, archive: &Path) -> Result<Option<ArchiveTable<R>>, ArchiveError> {
        let path = archive.join(self.storage.folder);
        if !exists(&path).await? {
            return Ok(None);
        }
        let table = load(&path).await?;
        ArchiveTable::new(self, path, &table).await.map(Some)
    }

    async fn create(&self, path: &Path) -> Result<DeltaTable, ArchiveError> {
        let statistics = self.columns.iter().filter(|column| column.has_statistics).map(ArchiveColumn::name);
        let statistics: Vec<&str> = statistics.collect();
        let properties = [
            ("delta.checkpointInterval", self.storage.checkpoint_commits.to_string()),
            ("delta.logRetentionDuration", KEPT.to_owned()),
            ("delta.deletedFileRetentionDuration", KEPT.to_owned()),
            match statistics.is_empty() {
                true => ("delta.dataSkippingNumIndexedCols", "0".to_owned()),
                false => ("delta.dataSkippingStatsColumns", statistics.join(",")),
            },
        ];
        let created = CreateBuilder::new()
            .with_log_store(unloaded(path)?.log_store())
            .with_columns(self.columns.iter().map(|column| column.field.clone()))
            .with_partition_columns([self.storage.partition_column])
            .with_configuration(properties.map(|(key, value)| (key, Some(value))))
            .await;
        match created {
            Ok(table) => Ok(table),
            // Another collector created the table first.
            Err(error) => load(path).await.map_err(|_| ArchiveError::store("make", path)(error)),
        }
    }

    async fn add_columns(&self, path: &Path) -> Result<DeltaTable, ArchiveError> {
        let failed = |error| ArchiveError::store("add columns to", path)(error);
        let table = load(path).await?;
        let missing = self.missing(&table).map_err(failed)?;
        if missing.is_empty() {
            return Ok(table);
        }
        let is_essential = |field: &StructField| {
            let column = self.columns.iter().find(|column| column.name() == field.name);
            !field.nullable || column.is_some_and(|column| column.is_essential)
        };
        if let Some(field) = missing.iter().find(|field| is_essential(field)) {
            let cause =
                format!("column {} is missing, and older rows have no value: move the archive away", field.name);
            return Err(ArchiveError::Store { operation: "open", table: path.to_owned(), cause });
        }
        match table.add_columns().with_fields(missing).await {
            Ok(table) => Ok(table),
            Err(error) => {
                // Another collector may have added the columns first.
                let table = load(path).await?;
                if self.missing(&table).map_err(failed)?.is_empty() { Ok(table) } else { Err(failed(error)) }
            }
        }
    }

    /// Returns the declared columns that the table does not have.
    fn missing(&self, table: &DeltaTable) -> Result<Vec<StructField>, DeltaTableError> {
        let schema = table.snapshot()?.schema();
        let missing = self.columns.iter().filter(|column| schema.field(column.name()).is_none());
        Ok(missing.map(|column| column.field.clone()).collect())
    }
}

async fn load(path: &Path) -> Result<DeltaTable, ArchiveError> {
    let mut table = unloaded(path)?;
    match table.load().await {
        Ok(()) => Ok(table),
        Err(error) => Err(unreadable("open", path, error).await),
    }
}

/// Returns the error for a table that cannot be read, with the damaged file of the log and the remedy.
pub(crate) async fn unreadable(operation: &'static str, path: &Path, error: DeltaTableError) -> ArchiveError {
    let table = path.to_owned();
    let diagnosis = tokio::task::spawn_blocking(move || mend::diagnose(&table)).await.ok().flatten();
    let cause = diagnosis.map_or_else(|| error.to_string(), |diagnosis| format!("{diagnosis} ({error})"));
    ArchiveError::Store { operation, table: path.to_owned(), cause }
}

/// Puts a damaged newest entry of the log aside.
pub(super) fn put_aside_newest_entry(path: &Path) -> std::io::Result<()> {
    if let Some((name, damage)) = mend::put_aside_newest_entry(path)? {
        ::log::warn!(
            "{}: log entry {name} is damaged ({damage}) and is put aside; its records come again from Kafka",
            path.display()
        );
    }
    Ok(())
}

/// Puts the damaged checkpoints of a table aside.
pub(super) async fn put_aside_checkpoints(path: &Path) {
    let table = path.to_owned();
    let aside = tokio::task::spawn_blocking(move || mend::put_aside_checkpoints(&table)).await;
    match aside {
        Ok(Ok(aside)) => {
            for (name, damage) in &aside {
                ::log::warn!("{}: {name} is damaged ({damage}) and is put aside", path.display());
            }
        }
        Ok(Err(error)) => ::log::warn!("{}: put damaged checkpoints aside: {error}", path.display()),
        Err(error) => ::log::warn!("{}: put damaged checkpoints aside: {error}", path.display()),
    }
}
