//! Processes and their open files.
//!
//! Promises: a row for every process present, with exactly the facts shown by the kernel; facts that could not be read
//! are named in the row and in the gaps; a process that ends meanwhile is normal. A read that never returns costs one
//! thread and the facts of the read. Equal facts give equal bytes.
//!
//! This module knows nothing of snapshots, frames or the clock: `start_ticks` is the identity, and wall-clock times
//! derive from the boot time, read once.
//!
//! Each file parser is a pure function over bytes, one source file per kernel file; `row` and `files` read, `pass`
//! walks over all processes, and `hung_reads` limits the damage of hung reads.

mod cgroup;
mod cmdline;
mod degraded;
mod fdinfo;
mod file;
mod files;
mod hash;
mod hung_reads;
mod io;
mod link;
mod maps;
mod missed;
mod number;
mod pass;
mod previous;
mod room;
mod row;
mod schedstat;
mod stat;
mod status;
mod step;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edr_wire::limits::FILES_PER_PROCESS_MAX;

pub use self::degraded::degraded;
pub use self::hash::HashSettings;
use self::pass::Passes;
use crate::common::cost::CallCounter;
use crate::common::heartbeat::Heartbeat;
use crate::common::hung::policy::HUNG_AFTER;
use crate::redact::Redactor;
use crate::tick::{RowCount, Source, Tick};

/// Limits and switches.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// Maximum number of open files listed per process, 1 to 16,384; the total count is exact.
    pub files_per_process_max: usize,
    /// Time between two readings.
    pub interval: Duration,
    /// True when mapped files are read.
    pub mapped: bool,
    /// Limits on the hashing of executables; `None` turns hashing off.
    pub hash: Option<HashSettings>,
    /// Replaces secrets in command lines; `None` leaves command lines unchanged.
    pub redactor: Option<Arc<Redactor>>,
    /// Beats some times within `hung_after`: the reading of a large or starved host takes longer than any watchdog
    /// waits.
    pub heartbeat: Arc<Heartbeat>,
    /// Maximum time of a read in the kernel before its thread is abandoned.
    pub hung_after: Duration,
    /// Names of users (passwd(5)).
    pub passwd: PathBuf,
    /// Names of groups (group(5)).
    pub group: PathBuf,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            files_per_process_max: FILES_PER_PROCESS_MAX,
            interval: Duration::from_secs(10),
            mapped: true,
            hash: Some(HashSettings::default()),
            redactor: Redactor::with_random_key().map(Arc::new),
            heartbeat: Arc::default(),
            hung_after: HUNG_AFTER,
            passwd: PathBuf::from("/etc/passwd"),
            group: PathBuf::from("/etc/group"),
        }
    }
}

/// Reads `/proc/PID` of every process.
#[derive(Debug)]
pub struct ProcessReader {
    passes: Passes,
}

impl ProcessReader {
    /// Opens `proc_root` (`/proc`).
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn open(proc_root: &Path, settings: ProcessSettings) -> std::io::Result<Self> {
        Ok(Self { passes: Passes::open(proc_root, settings)? })
    }
}

impl Source for ProcessReader {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn call_counter(&self) -> CallCounter {
        CallCounter::Source
    }

    /// Adds one row per process, sorted by pid; the processes of each network namespace; the right to see descriptors.
    fn read(&mut self, tick: &mut Tick) -> RowCount {
        self.passes.run(tick)
    }
}

/// Error: bytes that do not match the manual page of their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{file}: no {expected}")]
struct MalformedFile {
    file: &'static str,
    expected: &'static str,
}

fn malformed(file: &'static str, expected: &'static str) -> MalformedFile {
    MalformedFile { file, expected }
}
