//! The encoded rows of the previous tick, and the facts that must be unchanged before a row is taken over.

use std::ops::Range;

use edr_wire::ProcessKey;
use edr_wire::snapshot::Reread;

use super::missed::MissedFact;
use super::room::RowSize;
use super::row::{Memory, ProcessFacts, TextHistory};

/// Rows of one tick, by pid.
#[derive(Debug, Default)]
pub(super) struct PreviousRows {
    /// All rows in order.
    bytes: Vec<u8>,
    processes: Vec<ProcessRecord>,
}

/// A process of the previous tick.
#[derive(Debug, Clone)]
pub(super) struct ProcessRecord {
    pub(super) pid: u32,
    pub(super) memory: Memory,
    /// Time of the last read, `CLOCK_BOOTTIME` ns.
    pub(super) read_at_ns: u64,
    /// Place of the row in the bytes; empty for a process without a row.
    pub(super) row: Range<usize>,
    pub(super) size: RowSize,
    pub(super) texts: TextHistory,
    /// Time of the last whole read, µs.
    pub(super) time_us: u64,
    /// Facts missing in the row: the gaps of every snapshot with the row.
    pub(super) missed: Vec<MissedFact>,
    /// Facts of the process for other sources.
    pub(super) facts: ProcessFacts,
}

impl ProcessRecord {
    /// Identity within a boot: pid and start.
    pub(super) fn key(&self) -> (u32, u64) {
        (self.pid, self.memory.start_ticks)
    }
}

impl PreviousRows {
    /// The process that had this pid in the previous tick.
    pub(super) fn find(&self, pid: u32) -> Option<&ProcessRecord> {
        let place = self.processes.binary_search_by_key(&pid, |process| process.pid).ok()?;
        self.processes.get(place)
    }

    /// The bytes of a process's row.
    pub(super) fn row(&self, process: &ProcessRecord) -> &[u8] {
        self.bytes.get(process.row.clone()).unwrap_or_default()
    }

    /// Replaces the previous tick by the next.
    pub(super) fn replace(&mut self, processes: Vec<ProcessRecord>, bytes: &[u8]) {
        self.processes = processes;
        self.bytes.clear();
        // Frees memory on a host with fewer processes than before.
        if self.bytes.capacity() > 2 * bytes.len() + (1 << 20) {
            self.bytes.shrink_to(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }
}

/// Decides which processes are read although they did not run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turn {
    pub(super) slice: u32,
    pub(super) slices: u32,
    /// `CLOCK_BOOTTIME` ns.
    pub(super) now_ns: u64,
    /// Maximum age of a row; only reached after missed ticks.
    pub(super) age_ns_max: u64,
}

impl Turn {
    /// True when the row of a process must be read anew.
    pub(super) fn has_come(&self, process: &ProcessRecord) -> bool {
        let key = ProcessKey { pid: process.pid, start_ticks: process.memory.start_ticks };
        Reread::slice_of(key, self.slices) == self.slice
            || self.now_ns.saturating_sub(process.read_at_ns) >= self.age_ns_max
    }
}
