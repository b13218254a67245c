//! The outline of a process: a row from `status` and `cgroup` alone.
//!
//! The kernel answers both from its own memory, in every state of the process. Both lack the start time, so
//! `start_ticks` of an outline is 0.

use std::os::fd::{AsFd, BorrowedFd};

use edr_wire::snapshot::{GapReason, Process};

use super::super::cgroup::parse_cgroup;
use super::super::file::{open_place, read_file};
use super::super::number::{Name, decimal};
use super::super::status::parse_status;
use super::super::step::Step;
use super::fit::TextHistory;
use super::{Memory, PassContext, ReadTask, RowOutcome, RowReader};
use crate::common::owner::Owner;

/// The fields missing in an outline, by their names in [`Process::incomplete`].
const LACKS: [&str; 9] = ["argv", "cwd", "exe", "files", "io", "loginuid", "mapped", "namespaces", "root"];

/// Facts in `status` that a whole row takes from `stat`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outline {
    comm: Vec<u8>,
    state: u8,
    ppid: u32,
    threads: u32,
    /// `None` before Linux 6.8.
    kernel_thread: Option<bool>,
}

/// Parses the beginning of `status` (proc_pid_status(5)).
fn parse_outline(status: &[u8]) -> Outline {
    let mut outline = Outline::default();
    for line in status.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let value = line[colon + 1..].strip_prefix(b"\t").unwrap_or_default();
        let number = || decimal(value).and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        match &line[..colon] {
            b"Name" => outline.comm = unescaped(value),
            b"State" => outline.state = value.first().copied().unwrap_or(b'?'),
            b"PPid" => outline.ppid = number(),
            b"Threads" => outline.threads = number(),
            b"Kthread" => outline.kernel_thread = Some(value == b"1"),
            _ => {}
        }
    }
    outline
}

/// The kernel writes a newline as `\n` and a backslash as `\\`.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(&other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
    plain
}

impl RowReader {
    /// The owner of a process, and true if the process waits for storage now; `None` when the process is gone.
    pub(in super::super) fn owner(&mut self, pid: u32) -> Option<(Owner, bool)> {
        let dir = open_place(self.proc.as_fd(), Name::of(pid).as_c_str()).ok()?;
        self.progress.at(Step::Status);
        let text = read_file(dir.as_fd(), c"status", &mut self.buf).ok()?;
        // The row reports a malformed status. The owner is an unknown user then.
        let _ = parse_status(text, &mut self.status);
        let waits = parse_outline(text).state == b'D';
        self.progress.at(Step::Cgroup);
        let cgroup = read_file(dir.as_fd(), c"cgroup", &mut self.buf).unwrap_or_default();
        Some((Owner::new(self.status.uids[0], &parse_cgroup(cgroup).path.0), waits))
    }

    /// The owner of the process read last.
    pub(in super::super) fn owner_of_row(&self) -> Option<Owner> {
        let is_known = self.row.uids[0] != u32::MAX;
        is_known.then(|| Owner::new(self.row.uids[0], &self.row.cgroup.0))
    }

    /// Reads `status` and `cgroup` into the row.
    pub(super) fn read_outline(&mut self, task: &ReadTask, dir: BorrowedFd<'_>, context: &PassContext) -> RowOutcome {
        self.progress.at(Step::Status);
        let outline = match read_file(dir, c"status", &mut self.buf) {
            Ok(text) => parse_outline(text),
            Err(errno) => return self.unreadable("status", errno),
        };
        self.memory = Memory::unknown();
        self.texts = TextHistory::default();
        self.row = Process {
            pid: task.pid,
            ppid: outline.ppid,
            comm: outline.comm.as_slice().into(),
            state: char::from(outline.state),
            threads: outline.threads,
            kernel_thread: outline.kernel_thread.unwrap_or(false),
            ..Process::default()
        };
        self.read_status(dir, context);
        self.progress.at(Step::Cgroup);
        let mut cgroup = std::mem::take(&mut self.cgroup);
        self.put_cgroup(read_file(dir, c"cgroup", &mut cgroup));
        self.cgroup = cgroup;
        if !self.grant(task).is_listed {
            return RowOutcome::Unlisted;
        }
        self.missed.because(
            "stat",
            GapReason::Stuck,
            "reads of this process, or of too many processes, hang or take too long",
        );
        self.row.incomplete.extend(LACKS.map(str::to_owned));
        if outline.kernel_thread.is_none() {
            self.row.incomplete.push("kernel_thread".to_owned());
        }
        self.settle_missed(task);
        RowOutcome::Row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_imitate_another_line() {
        let text =
            b"Name:\ta\\nState:\\tR\\\\n\nUmask:\t0022\nState:\tD (disk sleep)\nPPid:\t7\nThreads:\t3\nKthread:\t0\n";
        let outline = Outline {
            comm: b"a\nState:\\tR\\n".to_vec(),
            state: b'D',
            ppid: 7,
            threads: 3,
            kernel_thread: Some(false),
        };
        let found = parse_outline(text);
        // The kernel escapes only newline and backslash; a tab is printed unchanged.
        assert_eq!((found.state, found.ppid, found.threads, found.kernel_thread), (outline.state, 7, 3, Some(false)));
        assert_eq!(unescaped(b"a\\nb\\\\n\\"), b"a\nb\\n\\");
        assert_eq!(parse_outline(b"Name\nPPid:\tx\n"), Outline::default());
    }
}
