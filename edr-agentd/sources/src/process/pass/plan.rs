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
use super::result::PassResult;
use crate::common::clock::{boottime, nanos};
use crate::common::errno::reason;
use crate::common::{GapCollector, proc_files};
use crate::tick::Budget;

/// Bytes of one row's files, before anything had to be cut: 4,096 files of ordinary paths have half of it.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Each level halves the limits on one process's files.
const LEVEL_MAX: u32 = 8;

/// The task of one pass, fixed before the pass begins.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The pids of the moment, sorted.
    pub(super) pids: Vec<u32>,
    pub(super) context: Arc<PassContext>,
    pub(super) turn: Turn,
    pub(super) rows_bytes_soft: usize,
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
    /// The size of one process's lists; see [`LEVEL_MAX`].
    level: u32,
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
            level: 0,
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
            rows_bytes_soft: budget.process_rows_bytes_soft,
            interval: self.settings.interval,
        }
    }

    /// Decides how much of a process the next pass may list. Returns true when the limits stay, so that rows may be
    /// carried.
    pub(super) fn keeps_limits(&mut self, result: &PassResult, rows_bytes_soft: usize) -> bool {
        let level = if result.short + result.unlisted > 0 {
            (self.level + 1).min(LEVEL_MAX)
        } else if result.rows.byte_len() < rows_bytes_soft / 3 {
            self.level.saturating_sub(1)
        } else {
            self.level
        };
        mem::replace(&mut self.level, level) == level
    }

    /// The pids of the moment, sorted.
    fn list(&self, gaps: &mut GapCollector) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut buf = vec![mem::MaybeUninit::uninit(); 32 << 10];
        let mut beyond = 0_u64;
        let listed = open_folder(self.proc.as_fd(), c".").and_then(|folder| {
            each_number(&folder, &mut buf, |pid| {
                if pids.len() < PROCESSES_MAX {
                    pids.push(pid);
                } else {
                    beyond += 1;
                }
            })
        });
        if let Err(errno) = listed {
            let error = errno.into();
            gaps.add("processes", None, b"", reason(&error), &format!("list processes: {error}"));
        }
        if beyond > 0 {
            let detail = format!("{beyond} processes beyond {PROCESSES_MAX}");
            gaps.add("processes", None, b"", GapReason::TooLong, &detail);
        }
        pids.sort_unstable();
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
            limits: ListLimits {
                files: (self.settings.files_per_process_max >> self.level).max(1),
                bytes: ROW_BYTES_MAX >> self.level,
            },
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

/// Number of passes within which every row is read.
fn slices(reread_interval: Duration, interval: Duration) -> u32 {
    let interval_ns = interval.as_nanos().max(1);
    u32::try_from(reread_interval.as_nanos() / interval_ns).unwrap_or(u32::MAX).max(1)
}
