//! Where a reading thread is, for the one that watches it.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::collect::watched::Beats;

/// What a thread is reading of a process.
///
/// Each of these may hang, and hangs with others that the kernel answers under the same lock ([`Step::kin`]). Seen on
/// Linux 6.18, with a process inside an execve(2) whose file system does not answer: `stat`, `io`, `maps` and every
/// magic link wait; `status`, `cgroup`, `schedstat` and the listing of descriptors do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Open,
    Stat,
    Status,
    Cgroup,
    Io,
    Links,
    Files,
    Cmdline,
    Maps,
    Hash,
}

impl Step {
    pub(super) const ALL: [Self; 10] = [
        Self::Open,
        Self::Stat,
        Self::Status,
        Self::Cgroup,
        Self::Io,
        Self::Links,
        Self::Files,
        Self::Cmdline,
        Self::Maps,
        Self::Hash,
    ];

    /// The field of the row that it fills.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Stat => "stat",
            Self::Status => "status",
            Self::Cgroup => "cgroup",
            Self::Io => "io",
            Self::Links => "links",
            Self::Files => "files",
            Self::Cmdline => "argv",
            Self::Maps => "mapped",
            Self::Hash => "sha256",
        }
    }

    /// What is not read any more of a process one of whose reads hangs here.
    pub(super) fn kin(self) -> Steps {
        match self {
            // The kernel answers these from its own memory. What hangs although it never should is not touched again.
            Self::Open | Self::Status | Self::Cgroup => Steps::ALL,
            // What execve(2) holds back.
            Self::Stat | Self::Io | Self::Links | Self::Files => Steps::HELD_BACK,
            // What takes the map of the process's memory, or pages it in.
            Self::Cmdline | Self::Maps => Steps::of(&[Self::Cmdline, Self::Maps]),
            // What reads the executable from its storage.
            Self::Hash => Steps::of(&[Self::Hash]),
        }
    }
}

/// Some of the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps(u16);

impl Steps {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self::of(&Step::ALL);
    /// All but what the kernel answers whatever the process does: `status` and `cgroup`.
    pub(super) const HELD_BACK: Self =
        Self::of(&[Step::Stat, Step::Io, Step::Links, Step::Files, Step::Cmdline, Step::Maps, Step::Hash]);

    pub(super) const fn of(steps: &[Step]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < steps.len() {
            set |= 1 << steps[at] as u16;
            at += 1;
        }
        Self(set)
    }

    pub(super) fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub(super) fn has(self, step: Step) -> bool {
        self.0 & Self::of(&[step]).0 != 0
    }
}

/// Written by the reading thread, read by the watching one.
#[derive(Debug, Default)]
pub(super) struct Progress {
    beats: Beats,
    step: AtomicU8,
}

impl Progress {
    /// One more thing came back.
    pub(super) fn beat(&self) {
        self.beats.beat();
    }

    /// A step begins.
    pub(super) fn at(&self, step: Step) {
        self.step.store(step as u8, Ordering::Relaxed);
        self.beat();
    }

    /// How many things came back, and the step that is going on.
    pub(super) fn look(&self) -> (u64, Step) {
        let step = usize::from(self.step.load(Ordering::Relaxed));
        (self.beats.count(), Step::ALL.get(step).copied().unwrap_or(Step::Open))
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
            assert!(Steps::of(&[step]).has(step) && Steps::ALL.has(step) && !Steps::NONE.has(step));
            assert!(step.kin().has(step), "what hung is not read again");
        }
        assert!(!Steps::HELD_BACK.has(Step::Status) && !Step::Cmdline.kin().has(Step::Links));
    }
}
