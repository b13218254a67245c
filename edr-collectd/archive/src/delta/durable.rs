//! Protects the tables against a power cut. The store writes and renames files, but never flushes anything to disk; a
//! position without data would be a silent loss. So data is on disk before the log entry, and the log entry is on disk
//! before its first use.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use deltalake::kernel::Add;

/// Flushes the data files of the next commit, and their folders.
pub(super) async fn sync_files(table: &Path, adds: &[Add]) -> io::Result<()> {
    let mut paths = BTreeSet::new();
    for add in adds {
        // Partition folders have plain names (`receive_day=2026-03-10`) without percent-encoding.
        let path = table.join(&add.path);
        paths.extend(path.ancestors().take_while(|place| place.starts_with(table)).map(Path::to_path_buf));
    }
    sync(paths.into_iter().rev().collect()).await
}

/// Flushes the log entry of a version.
pub(super) async fn sync_version(table: &Path, version: u64) -> io::Result<()> {
    let log = table.join("_delta_log");
    sync(vec![log.join(format!("{version:020}.json")), log]).await
}

/// Flushes the files of a checkpoint.
pub(super) async fn sync_checkpoint(table: &Path, version: u64) -> io::Result<()> {
    let log = table.join("_delta_log");
    let prefix = format!("{version:020}.checkpoint");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&log)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            paths.push(entry.path());
        }
    }
    paths.push(log);
    sync(paths).await
}

/// Flushes files and folders in this order, on a thread that may block: on a busy disk this takes seconds.
async fn sync(paths: Vec<PathBuf>) -> io::Result<()> {
    let flush = move || paths.iter().try_for_each(|path| File::open(path)?.sync_all());
    tokio::task::spawn_blocking(flush).await.map_err(io::Error::other)?
}
