//! One pass over all processes, on a thread that may be given up.
//!
//! A read below `/proc/PID` can wait for ever: for the memory map of a process that hangs, for a page on a dead network
//! file system. So the reading is done by one helper thread, and the caller watches that it moves. A thread that does
//! not come back is left behind with its process, another one reads the process once more without that, and goes on with
//! the rest; when the first does come back, it ends. Who makes reads hang is read with care ([`super::suspects`]).
//!
//! In the normal case this costs one hand-over a tick (20 µs) and one uncontended lock a process (10 ns): 0.01 % of a
//! full read of 490 processes. Results are put in place under the lock, so what a thread given up brings home late goes nowhere.

mod worker;

use std::hash::RandomState;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem};

use edr_wire::limits::PROCESSES_MAX;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use procfs::{FromBufReadSI as _, KernelStats};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::time::{ClockId, clock_gettime};

use self::worker::{Pass, Shared, Worker};
use super::access::Access;
use super::file::{PseudoDevices, each_number, open_folder, read_file};
use super::files::Limits;
use super::hash::Hashes;
use super::remembered::Turn;
use super::row::{Context, Counting, Tools};
use super::schedstat::{Schedstat, parse_schedstat};
use super::suspects::Lost;
use super::users::Names;
use super::{ProcessSettings, ReadCost};
use crate::collect::{Calls, Gaps, Inhabitants, calls, proc_files};
use crate::errno::reason;

/// Largest number of files a row may list: below the elements that a reader of the wire accepts in one row.
const FILES_MAX: usize = 16_384;

/// Bytes of one row's files, before anything had to be cut: 4,096 files of ordinary paths have half of it.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Time after which a pass is late: a million descriptors take a third of it. At most so long, and what the last
/// process takes, an owner of many processes that are each a little slow can hold up a snapshot.
const LATE_AFTER: Duration = Duration::from_secs(20);
/// Each level halves the limits on one process's files.
const LEVEL_MAX: u32 = 8;
/// Bytes of rows, beyond `rows_bytes_soft`, from which on a process is counted and not listed.
const ROWS_BYTES_BEYOND: usize = 3 << 20;

/// The passes over `/proc`, one a tick.
#[derive(Debug)]
pub(super) struct Passes {
    shared: Arc<Shared>,
    settings: ProcessSettings,
    worker: Option<Worker>,
    workers_ever: u64,
    users: Names,
    groups: Names,
    boot_time_ns: Option<i64>,
    slice: u32,
    slices: u32,
    level: u32,
    own_schedstat: Option<Schedstat>,
    cost: ReadCost,
    number: u64,
    inhabitants: Inhabitants,
    access: Access,
}

impl Passes {
    pub(super) fn open(proc_root: &Path, mut settings: ProcessSettings) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = Arc::new(openat(CWD, proc_root, flags, Mode::empty())?);
        settings.files_per_process_max = settings.files_per_process_max.clamp(1, FILES_MAX);
        let (users, groups) = (Names::new(settings.passwd.clone()), Names::new(settings.group.clone()));
        let shared = Arc::new(Shared {
            tools: Tools {
                proc,
                devices: PseudoDevices::find(),
                hashes: Arc::new(Mutex::new(Hashes::new(settings.hash))),
                redactor: settings.redactor.clone(),
                hasher: RandomState::new(),
            },
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let slices = slices(&settings);
        Ok(Self {
            shared,
            settings,
            worker: None,
            workers_ever: 0,
            users,
            groups,
            boot_time_ns: None,
            slice: 0,
            slices,
            level: 0,
            own_schedstat: None,
            cost: ReadCost::default(),
            number: 0,
            inhabitants: Inhabitants::default(),
            access: Access::default(),
        })
    }

    pub(super) fn cost(&self) -> ReadCost {
        self.cost
    }

    pub(super) fn inhabitants(&self) -> &Inhabitants {
        &self.inhabitants
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn set_reread_interval(&mut self, reread_interval: Duration) {
        self.settings.reread_interval = reread_interval;
        self.slices = slices(&self.settings);
    }

    pub(super) fn run(&mut self, rows: &mut Rows, gaps: &mut Gaps) -> Reread {
        let begun = Instant::now();
        let pids = self.list(gaps);
        let context = Arc::new(self.context(gaps));
        let now_ns = boottime_ns();
        self.slice = (self.slice + 1) % self.slices;
        self.number += 1;
        let age_ns_max = u64::try_from(self.settings.reread_interval.as_nanos()).unwrap_or(u64::MAX);
        let turn = Turn { slice: self.slice, slices: self.slices, now_ns, age_ns_max };
        self.shared.tools.hashes.lock().unwrap_or_else(PoisonError::into_inner).start_pass(self.slices.into());
        self.shared.lock().suspects.start_pass(self.number);
        let mut inhabitants = mem::take(&mut self.inhabitants);
        inhabitants.clear();
        let mut pass = self.work_through(Pass {
            number: self.number,
            begun,
            late_after: LATE_AFTER.max(2 * self.settings.interval),
            next: 0,
            done: false,
            context,
            turn,
            rows_start: rows.byte_len(),
            rows_bytes_soft: self.settings.rows_bytes_soft,
            rows: mem::take(rows),
            gaps: mem::take(gaps),
            processes: Vec::with_capacity(pids.len()),
            pids,
            out_of_turn: Vec::new(),
            read: 0,
            carried: 0,
            cpu_ns: 0,
            calls: Calls::default(),
            short: 0,
            unlisted: 0,
            lost: Lost::default(),
            inhabitants,
            access: Access::of(rustix::process::geteuid().as_raw()),
        });
        self.finish(&mut pass);
        (self.inhabitants, self.access) = (mem::take(&mut pass.inhabitants), pass.access);
        (*rows, *gaps) = (pass.rows, pass.gaps);
        calls::add(Calls { cpu_ns: pass.cpu_ns, ..pass.calls });
        self.cost = ReadCost {
            cpu_ns: pass.cpu_ns,
            wall_ns: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
            read: pass.read,
            carried: pass.carried,
        };
        Reread { slice: self.slice, slices: self.slices, out_of_turn: pass.out_of_turn }
    }

    /// Remembers the rows for the next tick, and decides how much of a process that one may list.
    fn finish(&mut self, pass: &mut Pass) {
        let used = pass.rows.byte_len() - pass.rows_start;
        let level = if pass.short + pass.unlisted > 0 {
            (self.level + 1).min(LEVEL_MAX)
        } else if used < self.settings.rows_bytes_soft / 3 {
            self.level.saturating_sub(1)
        } else {
            self.level
        };
        if pass.short > 0 {
            let detail = format!("{} rows list no files: no room in the snapshot", pass.short);
            pass.gaps.add("files", None, b"files", GapReason::TooLong, &detail);
        }
        if pass.unlisted > 0 {
            let detail = format!("{} processes without a row: no room in the snapshot", pass.unlisted);
            pass.gaps.add("processes", None, b"", GapReason::TooLong, &detail);
        }
        let mut state = self.shared.lock();
        if level == self.level {
            let processes = mem::take(&mut pass.processes);
            state.before.replace(processes, &pass.rows.bytes()[pass.rows_start..]);
        } else {
            self.level = level;
            state.before.clear();
        }
    }

    /// The pids of the moment, sorted.
    fn list(&self, gaps: &mut Gaps) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut buf = vec![mem::MaybeUninit::uninit(); 32 << 10];
        let mut beyond = 0_u64;
        let listed = open_folder(self.shared.tools.proc.as_fd(), c".").and_then(|folder| {
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

    fn context(&mut self, gaps: &mut Gaps) -> Context {
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
        Context {
            users: self.users.clone(),
            groups: self.groups.clone(),
            boot_time_ns: self.boot_time_ns.unwrap_or(0),
            limits: Limits {
                files: (self.settings.files_per_process_max >> self.level).max(1),
                bytes: ROW_BYTES_MAX >> self.level,
            },
            schedstat: self.counting(),
        }
    }

    /// Whether the kernel counts how much threads run: this very thread ran since the last tick, so its numbers must
    /// have moved. A kernel without the counters says `0 0 0` (`CONFIG_SCHED_INFO`).
    fn counting(&mut self) -> Counting {
        let mut buf = [0; 128];
        let now = read_file(self.shared.tools.proc.as_fd(), c"thread-self/schedstat", &mut buf)
            .ok()
            .and_then(|text| parse_schedstat(text).ok())
            .filter(|own| *own != Schedstat::default());
        let before = mem::replace(&mut self.own_schedstat, now);
        match (before, now) {
            (_, None) => Counting::No,
            (Some(before), Some(now)) if now.run_ns != before.run_ns && now.timeslices != before.timeslices => {
                Counting::Yes
            }
            _ => Counting::Unproven,
        }
    }

    /// `btime` of `/proc/stat`. Read once: it moves by a second when the clock is adjusted, and with it the start time
    /// of every process would.
    fn read_boot_time(&self) -> io::Result<i64> {
        let mut text = Vec::new();
        proc_files::read(&self.shared.tools.proc, "stat", &mut text)?;
        let stat = KernelStats::from_buf_read(text.as_slice(), procfs::current_system_info())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        i64::try_from(stat.btime.saturating_mul(1_000_000_000))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Ticks within which every row is read.
fn slices(settings: &ProcessSettings) -> u32 {
    let interval_ns = settings.interval.as_nanos().max(1);
    u32::try_from(settings.reread_interval.as_nanos() / interval_ns).unwrap_or(u32::MAX).max(1)
}

fn boottime_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
