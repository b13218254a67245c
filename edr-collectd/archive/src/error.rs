//! Failures of the archive.

use std::path::{Path, PathBuf};

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
    pub(crate) fn store(operation: &'static str, table: &Path) -> impl FnOnce(deltalake::DeltaTableError) -> Self {
        let table = table.to_owned();
        move |error| Self::Store { operation, table, cause: error.to_string() }
    }
}
