//! Data files that cannot be read. A damaged file is a gap: named with its rows, while all other files are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deltalake::kernel::LogicalFileView;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use deltalake::parquet::file::metadata::PageIndexPolicy;
use edr_model::time_text;
use serde::Deserialize;

use super::contained::contain;
use super::engine::PANIC;

/// Damaged files that are remembered. Any further one is looked for again by each query.
const FILES_MAX: usize = 10_000;
/// Time after which a damaged file is read again although it looks the same: a disk may have recovered.
const RETRY: Duration = Duration::from_secs(600);
/// Rows in memory at once while a file is checked.
const CHECK_ROWS: usize = 8;
/// Bytes kept of the text of a reason, which may quote a file.
const REASON_BYTES_MAX: usize = 200;

/// A data file of the archive that cannot be read, and its rows, as far as the table's log has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// Path of the file in the archive's folder, or as the table's log has it.
    pub path: String,
    /// Why the file cannot be read.
    pub reason: String,
    /// Number of rows.
    pub rows: Option<u64>,
    /// When the first and the last record were received, ns since the epoch.
    pub received_ns: Option<RangeInclusive<i64>>,
    /// The least and the greatest host id.
    pub hosts: Option<(String, String)>,
}

impl DamagedFile {
    /// Returns true when the file may have rows of the host.
    pub fn may_have(&self, host_id: &str) -> bool {
        // A long greatest value may be cut.
        let is_above = |most: &str| most < host_id.get(..most.len()).unwrap_or(host_id);
        self.hosts.as_ref().is_none_or(|(least, most)| least.as_str() <= host_id && !is_above(most))
    }
}

impl fmt::Display for DamagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows {
            Some(rows) => write!(f, "{rows} rows")?,
            None => f.write_str("rows")?,
        }
        match &self.hosts {
            Some((least, most)) if least == most => write!(f, " of host {least}")?,
            Some((least, most)) => write!(f, " of hosts from {least} to {most}")?,
            None => f.write_str(" of unknown hosts")?,
        }
        if let Some(received) = &self.received_ns {
            write!(f, ", received from {} to {} UTC,", time_text(*received.start()), time_text(*received.end()))?;
        }
        write!(f, " are missing: {} cannot be read: {}", self.path, self.reason)
    }
}

/// Values of a file from the table's log.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FileStatistics {
    #[serde(rename = "minValues")]
    least: FileValues,
    #[serde(rename = "maxValues")]
    most: FileValues,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FileValues {
    received_ns: Option<i64>,
    host_id: Option<String>,
}

/// The state of a file: changes with a repair or replacement; `None` for a missing file.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let facts = std::fs::symlink_metadata(path).ok()?;
    Some((facts.ino(), facts.len(), facts.mtime_nsec() ^ facts.mtime(), facts.ctime_nsec() ^ facts.ctime()))
}

#[derive(Debug)]
struct Entry {
    file: DamagedFile,
    stamp: Stamp,
    since: Instant,
}

/// A data file in a scan.
#[derive(Debug, Clone)]
pub(super) struct ScannedFile {
    /// Path in the table's folder; when the file lies elsewhere, the path in the file system.
    pub(super) path: String,
    /// Length by the table's log, in bytes.
    pub(super) bytes: u64,
}

/// The damaged files found so far, of all tables of an archive.
#[derive(Debug, Default)]
pub struct Damage(Mutex<BTreeMap<PathBuf, BTreeMap<String, Entry>>>);

impl Damage {
    fn tables(&self) -> MutexGuard<'_, BTreeMap<PathBuf, BTreeMap<String, Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the damaged files.
    pub fn files(&self) -> Vec<DamagedFile> {
        self.tables().values().flat_map(|files| files.values().map(|entry| entry.file.clone())).collect()
    }

    /// Returns the known damaged ones among these files of a table. A file that changed since, or was found damaged
    /// long ago, is no longer known as damaged.
    pub(super) fn known(&self, table: &Path, files: &[ScannedFile]) -> BTreeSet<String> {
        let mut tables = self.tables();
        let Some(known) = tables.get_mut(table).filter(|known| !known.is_empty()) else { return BTreeSet::new() };
        let mut damaged = BTreeSet::new();
        for file in files {
            let Some(entry) = known.get(&file.path) else { continue };
            if entry.stamp == stamp(&table.join(&file.path)) && entry.since.elapsed() < RETRY {
                damaged.insert(file.path.clone());
            } else {
                known.remove(&file.path);
            }
        }
        damaged
    }

    /// Returns true when this file of a table is known as damaged.
    pub(crate) fn is_known(&self, table: &Path, path: &str) -> bool {
        self.tables().get(table).is_some_and(|known| known.contains_key(path))
    }

    /// Notes a damaged file of a table; `view` has the values of the file in the table's log.
    pub(super) fn note(&self, table: &Path, view: &LogicalFileView, reason: &str) {
        let statistics: FileStatistics =
            view.stats().and_then(|stats| serde_json::from_str(&stats).ok()).unwrap_or_default();
        let FileStatistics { least, most } = statistics;
        let path = view.path();
        let folder = table.file_name().unwrap_or_default().to_string_lossy();
        let file = DamagedFile {
            path: cut(edr_wire::visible(format!("{folder}/{path}").as_bytes())),
            reason: cut(edr_wire::visible(reason.as_bytes())),
            rows: view.num_records().and_then(|rows| u64::try_from(rows).ok()),
            received_ns: least.received_ns.zip(most.received_ns).map(|(first, last)| first..=last),
            hosts: least.host_id.zip(most.host_id).map(|(least, most)| (visible(&least), visible(&most))),
        };
        let mut tables = self.tables();
        let known = tables.entry(table.to_owned()).or_default();
        if known.len() < FILES_MAX || known.contains_key(path.as_ref()) {
            let stamp = stamp(&table.join(path.as_ref()));
            known.insert(path.into_owned(), Entry { file, stamp, since: Instant::now() });
        }
    }

    /// Forgets the damaged files that the table no longer has.
    pub(crate) fn retain(&self, table: &Path, is_in_table: impl Fn(&str) -> bool) {
        if let Some(known) = self.tables().get_mut(table) {
            known.retain(|path, _| is_in_table(path));
        }
    }
}

/// A host id is text of the table's log.
fn visible(text: &str) -> String {
    cut(edr_wire::visible(text.as_bytes()))
}

fn cut(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Reads these columns of each file of a table, and returns the files that cannot be read, with the
/// reason. Threads that may block do the reading, and a panic of the Parquet reader is a reason, too.
pub(super) async fn examine(table: &Path, files: &[ScannedFile], columns: &[String]) -> BTreeMap<String, String> {
    let mut damaged = BTreeMap::new();
    for file in files {
        let (folder, wanted, columns) = (table.to_owned(), file.clone(), columns.to_owned());
        let read = tokio::task::spawn_blocking(move || read(&folder, &wanted, &columns)).await;
        let reason = match read {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => reason,
            Err(_) => PANIC.to_owned(),
        };
        damaged.insert(file.path.clone(), reason);
    }
    damaged
}

fn read(table: &Path, file: &ScannedFile, columns: &[String]) -> Result<(), String> {
    let path = table.join(&file.path);
    contain(table, &path).map_err(|error| error.to_string())?;
    let opened = File::open(&path).map_err(|error| error.to_string())?;
    let bytes = opened.metadata().map_err(|error| error.to_string())?.len();
    if bytes != file.bytes {
        return Err(format!("it has {bytes} bytes instead of {}", file.bytes));
    }
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(opened, options);
    let builder = builder.map_err(|error| error.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
    let rows = builder.with_projection(mask).with_batch_size(CHECK_ROWS).build().map_err(|error| error.to_string())?;
    for batch in rows {
        batch.map_err(|error| error.to_string())?;
    }
    Ok(())
}
