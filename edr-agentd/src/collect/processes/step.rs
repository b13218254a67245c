//! Where a reading thread is, for the one that watches it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a thread is reading of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Stat,
    Status,
    Cmdline,
    Links,
    Files,
    Maps,
    Hash,
    Other,
}

impl Step {
    const ALL: [Self; 8] =
        [Self::Stat, Self::Status, Self::Cmdline, Self::Links, Self::Files, Self::Maps, Self::Hash, Self::Other];

    /// The field of the row that it fills.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Status => "status",
            Self::Cmdline => "argv",
            Self::Links => "links",
            Self::Files => "files",
            Self::Maps => "mapped",
            Self::Hash => "sha256",
            Self::Other => "other",
        }
    }

    /// The kernel may have to wait for the memory map or for the storage of *that* process: `cmdline` and `maps` take
    /// its mmap_lock and page its memory in, hashing reads its executable. The rest is kept in kernel memory, and
    /// answered at once but for one case: while execve(2) waits for a file system that does not answer, Linux 6.18 holds
    /// back `stat`, `io` and the links of that process, too (SECURITY.md).
    pub(super) fn may_hang(self) -> bool {
        matches!(self, Self::Cmdline | Self::Maps | Self::Hash)
    }
}

/// Written by the reading thread, read by the watching one.
#[derive(Debug, Default)]
pub(super) struct Progress {
    beats: AtomicU64,
    step: AtomicU8,
}

impl Progress {
    /// One more thing came back.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// A step begins.
    pub(super) fn at(&self, step: Step) {
        self.step.store(step as u8, Ordering::Relaxed);
        self.beat();
    }

    /// How many things came back, and the step that is going on.
    pub(super) fn look(&self) -> (u64, Step) {
        let step = usize::from(self.step.load(Ordering::Relaxed));
        (self.beats.load(Ordering::Relaxed), Step::ALL.get(step).copied().unwrap_or(Step::Other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_seen_as_itself() {
        let progress = Progress::default();
        for (beats, step) in Step::ALL.into_iter().enumerate() {
            progress.at(step);
            assert_eq!(progress.look(), (beats as u64 + 1, step));
        }
    }
}
