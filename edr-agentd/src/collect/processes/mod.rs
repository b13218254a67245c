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

mod access;
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
mod remembered;
mod row;
mod schedstat;
mod stat;
mod status;
mod step;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edr_wire::limits::{FILES_PER_PROCESS_MAX, RAW_BYTES_SOFT};
use edr_wire::snapshot::{Reread, Rows};

pub use self::access::Access;
pub use self::degraded::degraded;
pub use self::hash::HashSettings;
use super::hung::policy::HUNG_AFTER;
use super::{Gaps, Inhabitants};
use crate::heartbeat::Heartbeat;
use crate::redact::Redactor;

/// Limits and switches.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// Maximum number of open files listed per process, 1 to 16,384; the total count is exact.
    pub files_per_process_max: usize,
    /// Time between two readings.
    pub interval: Duration,
    /// Maximum age of a row, even of a process that never runs. With a value of at most `interval` every row is read at
    /// every tick.
    pub reread_interval: Duration,
    /// True when mapped files are read.
    pub mapped: bool,
    /// Limits on the hashing of executables; `None` turns hashing off.
    pub hash: Option<HashSettings>,
    /// Replaces secrets in command lines; `None` leaves command lines unchanged.
    pub redactor: Option<Arc<Redactor>>,
    /// Bytes of rows at which a row lists no files, and the limits on one process's lists shrink in the next tick. The
    /// rest of a snapshot's 24 MiB is for the other sources.
    pub rows_bytes_soft: usize,
    /// Beats some times within `hung_after`: the reading of a large or starved host takes longer than any watchdog waits.
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
            reread_interval: Duration::from_secs(60),
            mapped: true,
            hash: Some(HashSettings::default()),
            redactor: Redactor::with_random_key().map(Arc::new),
            rows_bytes_soft: RAW_BYTES_SOFT - (6 << 20),
            heartbeat: Arc::default(),
            hung_after: HUNG_AFTER,
            passwd: PathBuf::from("/etc/passwd"),
            group: PathBuf::from("/etc/group"),
        }
    }
}

/// Cost of the last reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// CPU time of the reading threads, ns. The caller's CPU clock does not include these threads. Their system calls
    /// are counted as the caller's.
    pub cpu_ns: u64,
    /// Wall-clock time, ns.
    pub wall_ns: u64,
    /// Processes read.
    pub read: u64,
    /// Processes whose row was taken over from the previous tick.
    pub carried: u64,
}

/// Reads `/proc/PID` of every process.
#[derive(Debug)]
pub struct ProcessReader {
    pass: pass::Passes,
}

impl ProcessReader {
    /// Opens `proc_root` (`/proc`).
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn open(proc_root: &Path, settings: ProcessSettings) -> std::io::Result<Self> {
        Ok(Self { pass: pass::Passes::open(proc_root, settings)? })
    }

    /// Pushes one row per process, sorted by pid.
    pub fn read(&mut self, rows: &mut Rows, gaps: &mut Gaps) -> Reread {
        self.pass.run(rows, gaps)
    }

    /// From the next reading on no row is older; see [`ProcessSettings::reread_interval`].
    pub fn set_reread_interval(&mut self, reread_interval: Duration) {
        self.pass.set_reread_interval(reread_interval);
    }

    /// The processes of each network namespace, from the last [`ProcessReader::read`].
    pub fn inhabitants(&self) -> &Inhabitants {
        self.pass.inhabitants()
    }

    /// The right to see descriptors, from the last [`ProcessReader::read`].
    pub fn access(&self) -> Access {
        self.pass.access()
    }

    /// The cost of the last [`ProcessReader::read`].
    pub fn cost(&self) -> ReadCost {
        self.pass.cost()
    }
}

/// Error: bytes that do not match the manual page of their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{file}: no {expected}")]
struct Malformed {
    file: &'static str,
    expected: &'static str,
}

fn malformed(file: &'static str, expected: &'static str) -> Malformed {
    Malformed { file, expected }
}
