//! The steps of reading a process, and which steps hang together.

/// A step of reading a process.
///
/// Each step may hang, together with all steps answered by the kernel under the same lock ([`Step::kin`]). Seen on
/// Linux 6.18, with a process inside an execve(2) from a hanging file system: `stat`, `io`, `maps` and every magic link
/// wait; `status`, `cgroup`, `schedstat` and the listing of descriptors do not.
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

impl From<Step> for u8 {
    fn from(step: Step) -> Self {
        step as Self
    }
}

impl Step {
    const ALL: [Self; 10] = [
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

    /// The step with this number.
    pub(super) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Open)
    }

    /// The file behind a step whose hang costs a process its row.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Cgroup => "cgroup",
            _ => "",
        }
    }

    /// The steps left out of a process after a hang in this step.
    pub(super) fn kin(self) -> Steps {
        match self {
            // The kernel answers these steps from its own memory. After a hang here no read is safe.
            Self::Open | Self::Status | Self::Cgroup => Steps::ALL,
            // Held back by execve(2).
            Self::Stat | Self::Io | Self::Links | Self::Files => Steps::HELD_BACK,
            // The locked memory map of the process, or a page fault.
            Self::Cmdline | Self::Maps => Steps::MEMORY,
            // Reads the executable from its storage.
            Self::Hash => Steps::HASH,
        }
    }
}

/// A set of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps(u16);

impl Steps {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self::of(&Step::ALL);
    pub(super) const MEMORY: Self = Self::of(&[Step::Cmdline, Step::Maps]);
    pub(super) const HASH: Self = Self::of(&[Step::Hash]);
    /// All steps except `status` and `cgroup`, which the kernel always answers.
    pub(super) const HELD_BACK: Self =
        Self::of(&[Step::Stat, Step::Io, Step::Links, Step::Files, Step::Cmdline, Step::Maps, Step::Hash]);

    const fn of(steps: &[Step]) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_converts_to_its_number_and_is_left_out_after_a_hang() {
        for step in Step::ALL {
            assert_eq!(Step::of(step.into()), step);
            assert!(Steps::of(&[step]).has(step) && Steps::ALL.has(step) && !Steps::NONE.has(step));
            assert!(step.kin().has(step));
        }
        assert!(!Steps::HELD_BACK.has(Step::Status) && !Step::Cmdline.kin().has(Step::Links));
    }
}
