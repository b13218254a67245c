//! The rows of the tick before, as bytes, and what must stay the same for them to be taken over.

use std::ops::Range;

use edr_wire::ProcessKey;
use edr_wire::snapshot::Reread;

use super::missed::Miss;
use super::row::{Memory, Told};

/// Rows of one tick, by pid.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// All rows one after the other.
    bytes: Vec<u8>,
    processes: Vec<Process>,
}

/// One process of the tick before.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) memory: Memory,
    /// When it was read, `CLOCK_BOOTTIME` ns.
    pub(super) read_at_ns: u64,
    /// Where its row is.
    pub(super) row: Range<usize>,
    /// What its row lacks: the gaps of every snapshot that the row is in.
    pub(super) missed: Vec<Miss>,
    /// What other sources need to know of it.
    pub(super) told: Told,
}

impl Remembered {
    /// The process that had this pid.
    pub(super) fn find(&self, pid: u32) -> Option<&Process> {
        let place = self.processes.binary_search_by_key(&pid, |process| process.pid).ok()?;
        self.processes.get(place)
    }

    /// The bytes of its row.
    pub(super) fn row(&self, process: &Process) -> &[u8] {
        self.bytes.get(process.row.clone()).unwrap_or_default()
    }

    /// Puts the next tick in the place of this one.
    pub(super) fn replace(&mut self, processes: Vec<Process>, bytes: &[u8]) {
        self.processes = processes;
        self.bytes.clear();
        // A host that shrinks gives its memory back.
        if self.bytes.capacity() > 2 * bytes.len() + (1 << 20) {
            self.bytes.shrink_to(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets everything: the next tick reads every process.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whose turn it is to be read although it did not run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) slice: u32,
    pub(super) slices: u32,
    /// `CLOCK_BOOTTIME` ns.
    pub(super) now_ns: u64,
    /// Age that no row reaches; it counts when ticks were missed.
    pub(super) age_ns_max: u64,
}

impl Turn {
    /// Whether the row of a process must be read anew.
    pub(super) fn has_come(&self, process: &Process) -> bool {
        let key = ProcessKey { pid: process.pid, start_ticks: process.memory.start_ticks };
        Reread::slice_of(key, self.slices) == self.slice
            || self.now_ns.saturating_sub(process.read_at_ns) >= self.age_ns_max
    }
}
