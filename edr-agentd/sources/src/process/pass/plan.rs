//! The plan of a pass: which processes, with which limits.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use edr_wire::limits::PROCESSES_MAX;
use edr_wire::snapshot::GapReason;
use procfs::{FromBufReadSI as _, KernelStats};

use super::super::ProcessSettings;
use super::super::file::{each_number, open_folder, read_file};
use super::super::files::ListLimits;
use super::super::previous::Turn;
use super::super::row::{PassContext, RunCounters};
use super::super::schedstat::{Schedstat, parse_schedstat};
use super::super::users::AccountNames;
use crate::common::clock::{boottime, nanos};
use crate::common::errno::reason;
use crate::common::{GapCollector, proc_files};
use crate::tick::Budget;

/// Bytes of the files of a row, twice the bytes of 4,096 files with ordinary paths.
const ROW_BYTES_MAX: usize = 1 << 20;

/// The task of one pass, fixed before the pass begins.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The pids of the moment, sorted.
    pub(super) pids: Vec<u32>,
    pub(super) context: Arc<PassContext>,
    pub(super) turn: Turn,
    pub(super) interval: Duration,
}

/// Makes the plan of each pass.
#[derive(Debug)]
pub(super) struct Planner {
    proc: Arc<OwnedFd>,
    settings: ProcessSettings,
    users: AccountNames,
    groups: AccountNames,
    boot_time_ns: Option<i64>,
    /// The part of all processes that the last pass read although they did not run.
    slice: u32,
    /// This thread's run time at the last pass.
    own_schedstat: Option<Schedstat>,
}

impl Planner {
    pub(super) fn new(proc: Arc<OwnedFd>, settings: ProcessSettings) -> Self {
        Self {
            proc,
            users: AccountNames::new(settings.passwd.clone()),
            groups: AccountNames::new(settings.group.clone()),
            settings,
            boot_time_ns: None,
            slice: 0,
            own_schedstat: None,
        }
    }

    /// Returns the plan of the next pass.
    pub(super) fn plan(&mut self, budget: &Budget, gaps: &mut GapCollector) -> Plan {
        let slices = slices(budget.reread_interval, self.settings.interval);
        self.slice = (self.slice + 1) % slices;
        Plan {
            pids: self.list(gaps),
            context: Arc::new(self.context(gaps)),
            turn: Turn {
                slice: self.slice,
                slices,
                now_ns: nanos(boottime()),
                age_ns_max: nanos(budget.reread_interval),
            },
            interval: self.settings.interval,
        }
    }

    /// The pids of the moment, sorted.
    fn list(&self, gaps: &mut GapCollector) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut buf = vec![mem::MaybeUninit::uninit(); 32 << 10];
        let listed = open_folder(self.proc.as_fd(), c".")
            .and_then(|folder| each_number(&folder, &mut buf, |pid| pids.push(pid)));
        if let Err(errno) = listed {
            let error = errno.into();
            gaps.add("processes", None, b"", reason(&error), &format!("list processes: {error}"));
        }
        pids.sort_unstable();
        let beyond = keep_both_ends(&mut pids, PROCESSES_MAX);
        if beyond > 0 {
            let detail = format!("{beyond} processes beyond {PROCESSES_MAX}");
            gaps.add("processes", None, b"", GapReason::TooLong, &detail);
        }
        pids
    }

    fn context(&mut self, gaps: &mut GapCollector) -> PassContext {
        for (names, path, field) in [
            (&mut self.users, &self.settings.passwd, b"user".as_slice()),
            (&mut self.groups, &self.settings.group, b"group"),
        ] {
            if let Err(error) = names.refresh() {
                let detail = format!("read {}: {error}", path.display());
                gaps.add("processes", None, field, reason(&error), &detail);
            }
        }
        if self.boot_time_ns.is_none() {
            match self.read_boot_time() {
                Ok(boot_time_ns) => self.boot_time_ns = Some(boot_time_ns),
                Err(error) => {
                    let detail = format!("read the boot time: {error}");
                    gaps.add("processes", None, b"start_time_ns", reason(&error), &detail);
                }
            }
        }
        PassContext {
            users: self.users.clone(),
            groups: self.groups.clone(),
            boot_time_ns: self.boot_time_ns.unwrap_or(0),
            limits: ListLimits { files: self.settings.files_per_process_max, bytes: ROW_BYTES_MAX },
            schedstat: self.counting(),
        }
    }

    /// Whether the kernel counts how much threads run: this very thread ran since the last tick, so its numbers must
    /// have moved. A kernel without the counters says `0 0 0` (`CONFIG_SCHED_INFO`).
    fn counting(&mut self) -> RunCounters {
        let mut buf = [0; 128];
        let now = read_file(self.proc.as_fd(), c"thread-self/schedstat", &mut buf)
            .ok()
            .and_then(|text| parse_schedstat(text).ok())
            .filter(|own| *own != Schedstat::default());
        let before = mem::replace(&mut self.own_schedstat, now);
        match (before, now) {
            (_, None) => RunCounters::No,
            (Some(before), Some(now)) if now.run_ns != before.run_ns && now.timeslices != before.timeslices => {
                RunCounters::Yes
            }
            _ => RunCounters::Unproven,
        }
    }

    /// `btime` of `/proc/stat`. Read once: it moves by a second when the clock is adjusted, and with it the start time
    /// of every process would.
    fn read_boot_time(&self) -> io::Result<i64> {
        let mut text = Vec::new();
        proc_files::read(&self.proc, "stat", &mut text)?;
        let stat = KernelStats::from_buf_read(text.as_slice(), procfs::current_system_info())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        i64::try_from(stat.btime.saturating_mul(1_000_000_000))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Keeps the lowest and the highest pids: processes that began early, and new processes. Returns the number of the
/// others. The kernel allows no more than 4,194,304 pids.
fn keep_both_ends(pids: &mut Vec<u32>, max: usize) -> usize {
    let beyond = pids.len().saturating_sub(max);
    if beyond > 0 {
        pids.drain(max / 2..max / 2 + beyond);
    }
    beyond
}

/// Number of passes within which every row is read.
fn slices(reread_interval: Duration, interval: Duration) -> u32 {
    let interval_ns = interval.as_nanos().max(1);
    u32::try_from(reread_interval.as_nanos() / interval_ns).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_processes_the_first_and_the_newest_are_read() {
        let mut pids: Vec<u32> = (1..=100).collect();
        assert_eq!((keep_both_ends(&mut pids, 100), pids.len()), (0, 100));
        assert_eq!(keep_both_ends(&mut pids, 10), 90);
        assert_eq!(pids, [1, 2, 3, 4, 5, 96, 97, 98, 99, 100]);
        assert_eq!(keep_both_ends(&mut pids, 100), 0);
    }
}
