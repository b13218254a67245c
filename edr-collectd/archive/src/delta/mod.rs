//! Delta tables: opening, writing with positions, reading and upkeep, the same for every table.
//!
//! A table is a [`TableDeclaration`]: how the table is stored, and the columns with the value of each column for a row.
//!
//! Promises:
//! - **The position moves in the commit of the data** (Delta `txn` action, one per Kafka partition). A crash at any
//!   moment leaves both or neither.
//! - **Two writers of one partition: one commit wins.** A position is committed through the same handle that read the
//!   position. The handle remembers the last version seen in the table's log. Later entries of other writers are
//!   examined before the handle writes an entry; when another writer moved the position, the commit is refused
//!   ([`log`]). A handle that was idle for minutes reads the table again first, because log entries are kept for an
//!   hour only.
//! - **Nothing outside of a table's folder is opened**, whatever the table's log names ([`contained`]).
//! - **A damaged data file is one gap**: named, while all other files are read ([`damage`]).
//! - **A commit never does upkeep.** [`Upkeep`] writes checkpoints, removes old log entries and removes unused files; a
//!   task of its own runs the upkeep of all tables.

pub mod catalogue;
mod column;
mod contained;
mod damage;
mod declaration;
mod durable;
pub(crate) mod engine;
pub(crate) mod log;
pub(crate) mod mend;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
pub(crate) mod values;

use std::path::Path;
use std::sync::Arc;

pub use column::ArchiveColumn;
pub use damage::{Damage, DamagedFile};
pub(crate) use declaration::unreadable;
pub use declaration::{TableDeclaration, TableStorage};
use deltalake::{DeltaTable, DeltaTableBuilder};
pub use table::{Appended, ArchiveTable};
pub use upkeep::Upkeep;

use crate::ArchiveError;

/// Returns true when this folder holds a table.
pub(crate) async fn exists(path: &Path) -> Result<bool, ArchiveError> {
    // The store would create a missing folder when asked for the table.
    if !path.join("_delta_log").is_dir() {
        return Ok(false);
    }
    unloaded(path)?.verify_deltatable_existence().await.map_err(ArchiveError::store("look for", path))
}

/// Returns a handle of the table in this folder, without reading the table.
pub(crate) fn unloaded(path: &Path) -> Result<DeltaTable, ArchiveError> {
    let failed = |error| ArchiveError::store("open", path)(error);
    let url = deltalake::ensure_table_uri(path.to_string_lossy()).map_err(failed)?;
    let store = Arc::new(contained::ContainedStore::new(path));
    DeltaTableBuilder::from_url(url.clone())
        .and_then(|builder| builder.with_storage_backend(store, url).build())
        .map_err(failed)
}
