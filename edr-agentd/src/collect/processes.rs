//! Processes and their open files. (skeleton: the signature is fixed)
use std::io;
use std::path::Path;

use edr_wire::snapshot::{Reread, Rows};

use super::Gaps;

/// Limits and switches.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// Open files listed of one process.
    pub files_per_process_max: usize,
}

/// Reads `/proc/PID` of every process.
#[derive(Debug)]
pub struct ProcessReader {}

impl ProcessReader {
    /// Opens `proc_root` (`/proc`).
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(_proc_root: &Path, _settings: ProcessSettings) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Pushes one row per process, sorted by pid.
    pub fn read(&mut self, _rows: &mut Rows, _gaps: &mut Gaps) -> Reread {
        Reread { slice: 0, slices: 1 }
    }
}
