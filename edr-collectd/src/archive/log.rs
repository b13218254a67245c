//! The log of a Delta table, one entry a version: written by its number, or not at all.
//!
//! delta-rs commits through a snapshot that knows every file of the table and brings it up to date after each commit: 0.45 ms
//! a file in a development build, 190 ms after 400 commits and eight seconds after a day of them. An append needs none of
//! that: it needs the number of the next version, and to know what those did who were faster.

use std::collections::BTreeSet;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitData, TransactionError};
use deltalake::logstore::{CommitOrBytes, LogStoreRef};
use serde::Deserialize;

/// Commits of others that may come in between before ours gives up.
const OTHERS_MAX: usize = 1_000;

/// How an append ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It is this version. These positions were moved by others in the versions before it; none of them is ours.
    Written { version: u64, moved: BTreeSet<String> },
    /// Others moved one of its own positions first: it was not written.
    Refused { app_id: String },
    /// Others changed what the table is: it must be read anew first.
    Changed,
}

/// An action of somebody else's entry, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    txn: Option<Txn>,
    #[serde(rename = "metaData")]
    metadata: Option<serde::de::IgnoredAny>,
    protocol: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Txn {
    #[serde(rename = "appId")]
    app_id: String,
}

/// Writes an entry after version `known`, behind those of others that moved none of the positions in `own`.
pub(super) async fn append(
    store: &LogStoreRef,
    known: u64,
    commit: &CommitData,
    own: &BTreeSet<String>,
) -> Result<Entry, DeltaTableError> {
    let bytes = commit.get_bytes()?;
    let mut moved = BTreeSet::new();
    for version in (known + 1..).take(OTHERS_MAX) {
        match store.write_commit_entry(version, CommitOrBytes::LogBytes(bytes.clone()), Default::default()).await {
            Ok(()) => return Ok(Entry::Written { version, moved }),
            Err(TransactionError::VersionAlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(theirs) = store.read_commit_entry(version).await? else { return Ok(Entry::Changed) };
        for line in theirs.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line)
                .map_err(|error| DeltaTableError::generic(format!("log entry {version}: {error}")))?;
            if line.metadata.is_some() || line.protocol.is_some() {
                return Ok(Entry::Changed);
            }
            if let Some(txn) = line.txn {
                if own.contains(&txn.app_id) {
                    return Ok(Entry::Refused { app_id: txn.app_id });
                }
                moved.insert(txn.app_id);
            }
        }
    }
    Err(DeltaTableError::generic(format!("{OTHERS_MAX} commits of others came in between")))
}
