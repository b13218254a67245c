//! Progress of a job, shared by the reading thread and the watcher.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::clock::nanos;

/// A step in the reading of a process. Both numbers are 0 in a job without such parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadPosition {
    pub(crate) pid: u32,
    pub(crate) step: u8,
}

impl ReadPosition {
    fn to_number(self) -> u64 {
        u64::from(self.pid) << 8 | u64::from(self.step)
    }

    fn from_number(number: u64) -> Self {
        let [step, pid @ ..] = number.to_le_bytes();
        Self { pid: u32::from_le_bytes([pid[0], pid[1], pid[2], pid[3]]), step }
    }
}

/// Progress of a reading thread, shared with its watcher.
#[derive(Debug, Default)]
pub(crate) struct JobProgress {
    beats: AtomicU64,
    place: AtomicU64,
    /// The slow place found by the watcher; 0 for none.
    slow: AtomicU64,
    spent_ns: AtomicU64,
}

impl JobProgress {
    /// Counts one more answer of the kernel.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a process, with step 0.
    pub(crate) fn begin(&self, pid: u32) {
        self.place.store(ReadPosition { pid, step: 0 }.to_number(), Ordering::Relaxed);
        self.beat();
    }

    /// Begins a step of the process. Only the reading thread moves the place.
    pub(crate) fn at(&self, step: impl Into<u8>) {
        let place = ReadPosition { step: step.into(), ..self.look().1 };
        self.place.store(place.to_number(), Ordering::Relaxed);
        self.beat();
    }

    /// The answers counted, and the place.
    pub(super) fn look(&self) -> (u64, ReadPosition) {
        (self.beats.load(Ordering::Relaxed), ReadPosition::from_number(self.place.load(Ordering::Relaxed)))
    }

    /// Time spent in this round, as of the last look.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn set_spent(&self, spent: Duration) {
        self.spent_ns.store(nanos(spent), Ordering::Relaxed);
    }

    pub(super) fn set_slow(&self, place: ReadPosition) {
        self.slow.store(place.to_number(), Ordering::Relaxed);
    }

    /// Returns the slow step of `pid` to its first caller.
    pub(crate) fn take_slow(&self, pid: u32) -> Option<u8> {
        let slow = ReadPosition::from_number(self.slow.swap(0, Ordering::Relaxed));
        (slow.pid == pid && pid != 0).then_some(slow.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watcher_sees_every_place_and_the_reader_its_slow_steps() {
        let progress = JobProgress::default();
        progress.begin(u32::MAX);
        progress.at(7);
        let place = ReadPosition { pid: u32::MAX, step: 7 };
        assert_eq!(progress.look(), (2, place));
        progress.set_slow(place);
        assert_eq!((progress.take_slow(u32::MAX), progress.take_slow(u32::MAX)), (Some(7), None));
        progress.set_slow(place);
        assert_eq!(progress.take_slow(9), None, "another process");
    }
}
