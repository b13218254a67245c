//! Repairs a table's log after a power cut or a failing disk, where nothing is lost by the repair.
//!
//! - A newest log entry that is no entry is put aside: a power cut came between the creation and the content of the
//!   file. The position goes back with the entry, and Kafka still has the records.
//! - A checkpoint that cannot be read is put aside when the log before the checkpoint is whole. A checkpoint only sums
//!   up entries.
//!
//! Nothing is deleted: a file put aside has another name in the same folder. Any other damage is named with its remedy.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::contained::contain;

/// The file that names the newest checkpoint, so that readers need not list the log.
const LAST_CHECKPOINT: &str = "_last_checkpoint";

/// The files of a table's log.
struct LogFiles {
    table: PathBuf,
    log: PathBuf,
    /// Versions with an entry.
    entries: BTreeSet<u64>,
    /// Versions with a checkpoint, and the names of all checkpoint files.
    checkpoints: BTreeSet<(u64, String)>,
}

impl LogFiles {
    fn list(table: &Path) -> io::Result<Self> {
        let log = table.join("_delta_log");
        let (mut entries, mut checkpoints) = (BTreeSet::new(), BTreeSet::new());
        let files = match std::fs::read_dir(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            listed => Some(listed?),
        };
        for file in files.into_iter().flatten() {
            let name = file?.file_name().to_string_lossy().into_owned();
            let Some((number, kind)) = name.split_once('.') else { continue };
            let Some(version) = number.parse().ok().filter(|_| number.len() == 20) else { continue };
            match kind {
                "json" => _ = entries.insert(version),
                kind if kind.starts_with("checkpoint") && kind.ends_with(".parquet") => {
                    checkpoints.insert((version, name));
                }
                _ => {}
            }
        }
        Ok(Self { table: table.to_owned(), log, entries, checkpoints })
    }

    /// Returns why the entry of a version is damaged, if so.
    fn entry_damage(&self, version: u64) -> Option<String> {
        let path = self.log.join(entry_name(version));
        let is_file = || std::fs::metadata(&path).map(|facts| facts.is_file());
        let text = contain(&self.table, &path).and_then(|()| is_file()).and_then(|is_file| match is_file {
            true => std::fs::read(&path),
            false => Err(io::Error::other("it is no regular file")),
        });
        let text = match text {
            Ok(text) => text,
            Err(error) => return Some(error.to_string()),
        };
        let mut lines = text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).peekable();
        if lines.peek().is_none() {
            return Some("it is empty".to_owned());
        }
        let is_action =
            |line: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
        let wrong = lines.find(|(_, line)| !is_action(line));
        wrong.map(|(at, _)| format!("line {} is no JSON object", at + 1))
    }

    /// Returns why a checkpoint file is damaged, if so. A panic of the Parquet reader counts as damage.
    fn checkpoint_damage(&self, name: &str) -> Option<String> {
        let path = self.log.join(name);
        let read = || -> Result<(), String> {
            contain(&self.table, &path).map_err(|error| error.to_string())?;
            let file = File::open(&path).map_err(|error| error.to_string())?;
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
            for batch in builder.build().map_err(|error| error.to_string())? {
                batch.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
            Ok(result) => result.err(),
            Err(_) => Some("the content makes the Parquet reader fail".to_owned()),
        }
    }

    /// Returns true when the log is whole without the checkpoints from this version on: an earlier checkpoint, or the
    /// first entry, and every entry since.
    fn is_whole_before(&self, version: u64) -> bool {
        let earlier =
            self.checkpoints.iter().rev().find(|(earlier, _)| *earlier < version).map(|(version, _)| *version);
        let first = earlier.map_or(0, |earlier| earlier + 1);
        self.entries.last().is_some_and(|&newest| (first..=newest).all(|version| self.entries.contains(&version)))
    }

    fn put_aside(&self, name: &str, ending: &str) -> io::Result<()> {
        std::fs::rename(self.log.join(name), self.log.join(format!("{name}.{ending}")))
    }
}

fn entry_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// Puts a damaged newest entry aside, unless the entry is the only one. Returns the name and the damage.
pub(super) fn put_aside_newest_entry(table: &Path) -> io::Result<Option<(String, String)>> {
    let files = LogFiles::list(table)?;
    let Some(&newest) = files.entries.last() else { return Ok(None) };
    let Some(damage) = files.entry_damage(newest) else { return Ok(None) };
    // The first entry makes the table; only an empty one was never in use.
    if newest == 0 && std::fs::metadata(files.log.join(entry_name(0)))?.len() > 0 {
        return Ok(None);
    }
    files.put_aside(&entry_name(newest), "torn")?;
    Ok(Some((entry_name(newest), damage)))
}

/// Puts damaged checkpoints aside whose table can be read without them. Returns the names with the damage. Reads the
/// newest whole checkpoint, and the damaged ones after it.
pub(super) fn put_aside_checkpoints(table: &Path) -> io::Result<Vec<(String, String)>> {
    let files = LogFiles::list(table)?;
    let mut aside = Vec::new();
    for (version, name) in files.checkpoints.iter().rev() {
        let Some(damage) = files.checkpoint_damage(name) else { break };
        if files.is_whole_before(*version) {
            files.put_aside(name, "damaged")?;
            aside.push((name.clone(), damage));
        }
    }
    let hint = files.log.join(LAST_CHECKPOINT);
    let is_damaged = std::fs::read(&hint).is_ok_and(|text| serde_json::from_slice::<serde_json::Value>(&text).is_err());
    if hint.exists() && (is_damaged || !aside.is_empty()) {
        files.put_aside(LAST_CHECKPOINT, "damaged")?;
        aside.push((LAST_CHECKPOINT.to_owned(), "it names a damaged checkpoint, or none".to_owned()));
    }
    Ok(aside)
}

/// Returns why the newest checkpoint is damaged, if so, by its footer alone. The newest entries can be read without
/// the checkpoint, so not everything fails at once.
pub(crate) fn newest_checkpoint_damage(table: &Path) -> Option<String> {
    let files = LogFiles::list(table).ok()?;
    let (_, name) = files.checkpoints.last()?;
    let path = files.log.join(name);
    let opened = contain(table, &path).and_then(|()| File::open(&path)).map_err(|error| error.to_string());
    let damage = opened
        .and_then(|file| ParquetRecordBatchReaderBuilder::try_new(file).map(|_| ()).map_err(|error| error.to_string()));
    let damage = damage.err()?;
    Some(diagnose(table).unwrap_or_else(|| format!("{} is damaged: {damage}", path.display())))
}

/// Returns what is damaged in a log that cannot be read, and what to do; `None` when nothing is found.
pub(crate) fn diagnose(table: &Path) -> Option<String> {
    let files = LogFiles::list(table).ok()?;
    let is_usable = |(_, name): &&(u64, String)| files.checkpoint_damage(name).is_none();
    let checkpoint = files.checkpoints.iter().rev().find(is_usable).map(|(version, _)| *version);
    let first = checkpoint.map_or(0, |version| version + 1);
    let newest = files.entries.last().copied().unwrap_or(0);
    let damage = |version: u64| match files.entries.contains(&version) {
        true => Some((entry_name(version), files.entry_damage(version)?)),
        false => Some((entry_name(version), "it is missing".to_owned())),
    };
    let damaged_entry = || (first..=newest).find_map(damage);
    let damaged_checkpoint =
        || files.checkpoints.iter().rev().find_map(|(_, name)| Some((name.clone(), files.checkpoint_damage(name)?)));
    let (name, damage) = damaged_entry().or_else(damaged_checkpoint)?;
    let file = files.log.join(name);
    Some(format!(
        "{} is damaged: {damage}. A start of edr-collectd repairs what can be repaired; otherwise restore the file \
         from a backup, or move the folder {} away: a start makes a new table of the records that Kafka still has",
        file.display(),
        table.display()
    ))
}
