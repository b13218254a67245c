//! The passes over all processes, one a tick.
//!
//! A pass is one walk ([`walk`]) by a thread that may be abandoned ([`crate::collect::hung`]). Then another thread goes
//! on: with the same process, without the steps that hang, and with the rest.
//!
//! While nothing hangs this costs one hand-over a tick (20 µs) and one uncontended lock a process (10 ns): 0.01 % of a
//! full read of 490 processes.

mod walk;

use std::hash::RandomState;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem};

use edr_wire::limits::PROCESSES_MAX;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use procfs::{FromBufReadSI as _, KernelStats};
use rustix::fs::{CWD, Mode, OFlags, openat};

use self::walk::{Found, Plan, SharedWalk, Walk};
use super::access::Access;
use super::file::{PseudoDevices, each_number, open_folder, read_file};
use super::files::Limits;
use super::hash::Hashes;
use super::hung_reads::HungReads;
use super::remembered::{Remembered, Turn};
use super::row::{Context, Counting, RowReader, Tools};
use super::schedstat::{Schedstat, parse_schedstat};
use super::users::Names;
use super::{ProcessSettings, ReadCost};
use crate::clock::{boottime, nanos};
use crate::collect::hung::policy::PROCESS_THREADS_MAX;
use crate::collect::hung::{AbandonableThread, NoAnswer};
use crate::collect::{Gaps, Inhabitants, calls, proc_files};
use crate::errno::reason;

/// Largest number of files a row may list: below the elements that a reader of the wire accepts in one row.
const FILES_MAX: usize = 16_384;

/// Bytes of one row's files, before anything had to be cut: 4,096 files of ordinary paths have half of it.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Each level halves the limits on one process's files.
const LEVEL_MAX: u32 = 8;
/// Bytes of rows, beyond `rows_bytes_soft`, from which on a process is counted and not listed.
const ROWS_BYTES_BEYOND: usize = 3 << 20;

/// The passes over `/proc`, one a tick.
#[derive(Debug)]
pub(super) struct Passes {
    tools: Tools,
    settings: ProcessSettings,
    thread: AbandonableThread,
    /// Lent to the reading thread; `None` after that thread was abandoned.
    reader: Option<RowReader>,
    hung_reads: HungReads,
    /// The tick before.
    before: Remembered,
    users: Names,
    groups: Names,
    boot_time_ns: Option<i64>,
    slice: u32,
    slices: u32,
    level: u32,
    own_schedstat: Option<Schedstat>,
    cost: ReadCost,
    inhabitants: Inhabitants,
    access: Access,
}

impl Passes {
    pub(super) fn open(proc_root: &Path, mut settings: ProcessSettings) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = Arc::new(openat(CWD, proc_root, flags, Mode::empty())?);
        settings.files_per_process_max = settings.files_per_process_max.clamp(1, FILES_MAX);
        Ok(Self {
            tools: Tools {
                proc,
                devices: PseudoDevices::find(),
                hashes: Arc::new(Mutex::new(Hashes::new(settings.hash))),
                redactor: settings.redactor.clone(),
                hasher: RandomState::new(),
            },
            thread: AbandonableThread::new("edr-processes", PROCESS_THREADS_MAX)
                .with_hung_after(settings.hung_after)
                .beating(&settings.heartbeat),
            reader: None,
            hung_reads: HungReads::default(),
            before: Remembered::default(),
            users: Names::new(settings.passwd.clone()),
            groups: Names::new(settings.group.clone()),
            boot_time_ns: None,
            slice: 0,
            slices: slices(&settings),
            level: 0,
            own_schedstat: None,
            cost: ReadCost::default(),
            inhabitants: Inhabitants::default(),
            access: Access::default(),
            settings,
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
        let (begun, lent) = (Instant::now(), calls::so_far());
        let plan = self.plan(gaps);
        self.tools.hashes.lock().unwrap_or_else(PoisonError::into_inner).start_pass(self.slices.into());
        self.hung_reads.start_pass();
        self.thread.start_round();
        let mut inhabitants = mem::take(&mut self.inhabitants);
        inhabitants.clear();
        let found = Found {
            rows_start: rows.byte_len(),
            rows: mem::take(rows),
            gaps: mem::take(gaps),
            processes: Vec::with_capacity(plan.pids.len()),
            inhabitants,
            access: Access::of(rustix::process::geteuid().as_raw()),
            ..Found::default()
        };
        let walk = SharedWalk::new(plan, mem::take(&mut self.hung_reads), mem::take(&mut self.before), found);
        let Walk { hung_reads, before, mut found, .. } = self.complete(&walk);
        (self.hung_reads, self.before) = (hung_reads, before);
        self.remember(&mut found);
        (*rows, *gaps) = (found.rows, found.gaps);
        (self.inhabitants, self.access) = (found.inhabitants, found.access);
        self.cost = ReadCost {
            cpu_ns: (calls::so_far() - lent).cpu_ns,
            wall_ns: nanos(begun.elapsed()),
            read: found.read,
            carried: found.carried,
        };
        Reread { slice: self.slice, slices: self.slices, out_of_turn: found.out_of_turn }
    }

    /// Has the walk completed by as many threads as that takes.
    fn complete(&mut self, walk: &Arc<SharedWalk>) -> Walk {
        let mut attempt = 0;
        loop {
            let mut reader = self.reader.take().unwrap_or_else(|| RowReader::new(&self.tools, &self.settings));
            let for_thread = Arc::clone(walk);
            let answer = self.thread.run(move |progress| {
                for_thread.go_on(attempt, &mut reader, progress);
                reader
            });
            match answer {
                Ok(reader) => self.reader = Some(reader),
                Err(NoAnswer::Abandoned(abandoned)) => {
                    walk.with(attempt, |walk| walk.abandon(abandoned));
                    attempt += 1;
                    // Threads that panic make room at once, so their number is limited here.
                    if attempt < PROCESS_THREADS_MAX {
                        continue;
                    }
                }
                Err(NoAnswer::NoThread(error)) => {
                    let detail = format!("start a thread that may hang: {error}");
                    let nothing_hangs = walk.with(attempt, |walk| {
                        walk.found.gaps.add("processes", None, b"", reason(&error), &detail);
                        walk.hung_reads.abandoned() == 0
                    });
                    // A limit on tasks. The caller reads without protection, while nothing hangs.
                    if nothing_hangs == Some(true) {
                        let mut reader = RowReader::new(&self.tools, &self.settings);
                        walk.go_on(attempt, &mut reader, &Arc::default());
                    }
                }
                Err(NoAnswer::Full(_)) => {}
            }
            let mut walk = walk.take().unwrap_or_else(|| unreachable!("only this function takes the walk"));
            walk.give_up("too many reads hang");
            return walk;
        }
    }

    /// Remembers the rows for the next tick, and decides how much of a process the next tick may list.
    fn remember(&mut self, found: &mut Found) {
        let used = found.rows.byte_len() - found.rows_start;
        let level = if found.short + found.unlisted > 0 {
            (self.level + 1).min(LEVEL_MAX)
        } else if used < self.settings.rows_bytes_soft / 3 {
            self.level.saturating_sub(1)
        } else {
            self.level
        };
        if found.short > 0 {
            let detail = format!("{} rows list no files: no room in the snapshot", found.short);
            found.gaps.add("files", None, b"files", GapReason::TooLong, &detail);
        }
        if found.unlisted > 0 {
            let detail = format!("{} processes without a row: no room in the snapshot", found.unlisted);
            found.gaps.add("processes", None, b"", GapReason::TooLong, &detail);
        }
        if level == self.level {
            self.before.replace(mem::take(&mut found.processes), &found.rows.bytes()[found.rows_start..]);
        } else {
            self.level = level;
            self.before.clear();
        }
    }

    fn plan(&mut self, gaps: &mut Gaps) -> Plan {
        let pids = self.list(gaps);
        let context = Arc::new(self.context(gaps));
        self.slice = (self.slice + 1) % self.slices;
        let turn = Turn {
            slice: self.slice,
            slices: self.slices,
            now_ns: nanos(boottime()),
            age_ns_max: nanos(self.settings.reread_interval),
        };
        let (rows_bytes_soft, interval) = (self.settings.rows_bytes_soft, self.settings.interval);
        Plan { pids, context, turn, rows_bytes_soft, interval }
    }

    /// The pids of the moment, sorted.
    fn list(&self, gaps: &mut Gaps) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut buf = vec![mem::MaybeUninit::uninit(); 32 << 10];
        let mut beyond = 0_u64;
        let listed = open_folder(self.tools.proc.as_fd(), c".").and_then(|folder| {
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
        let now = read_file(self.tools.proc.as_fd(), c"thread-self/schedstat", &mut buf)
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
        proc_files::read(&self.tools.proc, "stat", &mut text)?;
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

#[cfg(test)]
mod tests {
    use super::super::step::Step;
    use super::*;
    use crate::collect::hung::{Abandoned, Place, Progress};

    /// Three processes of which the outline can be read.
    fn passes() -> (tempfile::TempDir, Passes) {
        let proc = tempfile::tempdir().unwrap();
        for pid in 1..=3 {
            let folder = proc.path().join(pid.to_string());
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("status"), "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\n").unwrap();
            std::fs::write(folder.join("cgroup"), "0::/\n").unwrap();
        }
        let passes = Passes::open(proc.path(), ProcessSettings::default()).unwrap();
        (proc, passes)
    }

    fn pids(walk: &Walk) -> Vec<u32> {
        walk.found.processes.iter().map(|process| process.pid).collect()
    }

    fn walk(passes: &mut Passes) -> Arc<SharedWalk> {
        let plan = passes.plan(&mut Gaps::default());
        SharedWalk::new(plan, HungReads::default(), Remembered::default(), Found::default())
    }

    #[test]
    fn a_pass_that_spent_its_time_reads_outlines() {
        let (_proc, mut passes) = passes();
        let mut reader = RowReader::new(&passes.tools, &passes.settings);
        for (spent_s, rows) in [(19, vec![]), (21, vec![1, 2, 3])] {
            let (walk, progress) = (walk(&mut passes), Arc::new(Progress::default()));
            progress.set_spent(Duration::from_secs(spent_s));
            walk.go_on(0, &mut reader, &progress);
            assert_eq!(pids(&walk.take().unwrap()), rows, "`stat` is missing: no whole row can be read");
        }
    }

    #[test]
    fn the_results_of_an_abandoned_thread_are_discarded() {
        let (_proc, mut passes) = passes();
        let (walk, progress) = (walk(&mut passes), Arc::new(Progress::default()));
        progress.set_spent(Duration::from_secs(60));
        let hung = Abandoned::new(Place { pid: 1, step: Step::Stat.into() }, String::new(), &progress);
        walk.with(0, |walk| walk.abandon(hung));
        let mut reader = RowReader::new(&passes.tools, &passes.settings);
        walk.go_on(0, &mut reader, &progress);
        assert_eq!(walk.with(1, |walk| pids(walk)), Some(vec![]));
        walk.go_on(1, &mut reader, &progress);
        assert_eq!(walk.with(1, |walk| pids(walk)), Some(vec![1, 2, 3]));
        assert_eq!(walk.with(0, |walk| pids(walk)), None);
    }

    #[test]
    fn a_process_is_left_behind_only_where_nothing_of_it_is_safe() {
        for (step, left_behind) in [(Step::Cmdline, false), (Step::Status, true)] {
            let (_proc, mut passes) = passes();
            let (walk, thread) = (walk(&mut passes), Arc::new(Progress::default()));
            let hung = Abandoned::new(Place { pid: 1, step: step.into() }, "hung".to_owned(), &thread);
            walk.with(0, |walk| walk.abandon(hung));
            let progress = Arc::new(Progress::default());
            progress.set_spent(Duration::from_secs(60));
            walk.go_on(1, &mut RowReader::new(&passes.tools, &passes.settings), &progress);
            let mut walk = walk.take().unwrap();
            assert_eq!(pids(&walk).contains(&1), !left_behind);
            let gaps = walk.found.gaps.take();
            assert_eq!(gaps.iter().any(|gap| gap.pid == Some(1) && gap.detail == "hung"), left_behind, "{gaps:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_pass_that_is_given_up_is_named() {
        let (_proc, mut passes) = passes();
        let mut walk = walk(&mut passes).take().unwrap();
        walk.give_up("too many reads hang");
        let gaps = walk.found.gaps.take();
        assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), 3, "{gaps:?}");
        assert_eq!(walk.found.inhabitants.unknown, [1, 2, 3]);
    }
}
