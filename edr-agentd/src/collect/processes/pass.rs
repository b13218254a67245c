//! One pass over all processes, on a thread that may be given up.
//!
//! A read below `/proc/PID` can wait for ever: for the memory map of a process that hangs, for a page on a dead network
//! file system. So the reading is done by one helper thread, and the caller watches that it moves. A thread that does
//! not come back is left behind with its process, another one goes on with the rest; when the first does come back, it
//! ends. At most two are left behind; after that nothing that may hang is read until one of them is back.
//!
//! In the normal case this costs one hand-over a tick and two uncontended locks a process, together under 0.1 % of a
//! full read. Results are put in place under the lock, so what a thread given up brings home late goes nowhere.

use std::hash::RandomState;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, mem, thread};

use edr_wire::ProcessKey;
use edr_wire::limits::PROCESSES_MAX;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::time::{ClockId, clock_gettime};

use super::file::{PseudoDevices, each_number, open_folder, read_file};
use super::files::Limits;
use super::hash::Hashes;
use super::remembered::{Process, Remembered, Turn};
use super::row::{Context, Counting, Outcome, RowReader, Task, Tools};
use super::schedstat::{Schedstat, parse_schedstat};
use super::step::{Progress, Step};
use super::users::Names;
use super::{ProcessSettings, ReadCost};
use crate::collect::Gaps;
use crate::errno::reason;

/// Threads left behind at most.
const STUCK_MAX: usize = 2;
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
}

#[derive(Debug)]
struct Worker {
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    tools: Tools,
    state: Mutex<State>,
    changed: Condvar,
    cpu_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pass: Option<Pass>,
    /// The thread whose work counts; every other one ends when it comes back.
    active: u64,
    stuck: Vec<Stuck>,
    /// The tick before.
    before: Remembered,
    closing: bool,
}

/// A thread left behind.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    worker: u64,
    pid: u32,
    step: Step,
}

#[derive(Debug)]
struct Pass {
    pids: Vec<u32>,
    next: usize,
    done: bool,
    context: Arc<Context>,
    turn: Turn,
    rows: Rows,
    /// Bytes of `rows` before this pass.
    rows_start: usize,
    rows_bytes_soft: usize,
    gaps: Gaps,
    processes: Vec<Process>,
    out_of_turn: Vec<u32>,
    read: u64,
    carried: u64,
    /// Rows without their files, and processes without a row, for want of room.
    short: u64,
    unlisted: u64,
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
            cpu_ns: AtomicU64::new(0),
        });
        let interval_ns = settings.interval.as_nanos().max(1);
        let slices = u32::try_from(settings.reread_interval.as_nanos() / interval_ns).unwrap_or(u32::MAX).max(1);
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
        })
    }

    pub(super) fn cost(&self) -> ReadCost {
        self.cost
    }

    pub(super) fn run(&mut self, rows: &mut Rows, gaps: &mut Gaps) -> Reread {
        let begun = Instant::now();
        let pids = self.list(gaps);
        let context = Arc::new(self.context(gaps));
        let now_ns = boottime_ns();
        self.slice = (self.slice + 1) % self.slices;
        let age_ns_max = u64::try_from(self.settings.reread_interval.as_nanos()).unwrap_or(u64::MAX);
        let turn = Turn { slice: self.slice, slices: self.slices, now_ns, age_ns_max };
        self.shared.tools.hashes.lock().unwrap_or_else(PoisonError::into_inner).start_pass(self.slices.into());
        let mut pass = self.work_through(Pass {
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
            short: 0,
            unlisted: 0,
        });
        self.finish(&mut pass);
        (*rows, *gaps) = (pass.rows, pass.gaps);
        self.cost = ReadCost {
            cpu_ns: self.shared.cpu_ns.swap(0, Ordering::Relaxed),
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
        let stat = openat(&*self.shared.tools.proc, c"stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let reader = io::BufReader::new(std::fs::File::from(stat));
        let stat = <procfs::KernelStats as procfs::FromBufReadSI>::from_buf_read(reader, procfs::current_system_info())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        i64::try_from(stat.btime.saturating_mul(1_000_000_000))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Has the pass done by the helper thread, and sees to it that it ends.
    fn work_through(&mut self, pass: Pass) -> Pass {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        state.pass = Some(pass);
        if let Some(reader) = self.ensure_worker(&mut state) {
            drop(state);
            shared.work(self.workers_ever, reader, true);
            state = shared.lock();
        }
        shared.changed.notify_all();
        let mut last = None;
        loop {
            let (guard, timeout) = shared
                .changed
                .wait_timeout_while(state, self.settings.stuck_after, |state| !state.is_done())
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if !timeout.timed_out() {
                break;
            }
            let Some(worker) = &self.worker else { break };
            let (beats, step) = worker.progress.look();
            let moved = last.replace(beats) != Some(beats);
            if moved {
                continue;
            }
            if !self.leave_behind(&mut state, step) {
                break;
            }
            last = None;
        }
        state.pass.take().unwrap_or_else(|| unreachable!("only this function takes the pass"))
    }

    /// Gives the active thread up. Returns false when there can be no other one.
    fn leave_behind(&mut self, state: &mut State, step: Step) -> bool {
        let worker = state.active;
        let room = state.stuck.len() < STUCK_MAX;
        let Some(pass) = &mut state.pass else { return false };
        let pid = pass.pids.get(pass.next).copied().unwrap_or(0);
        if !room || !step.may_hang() {
            let detail = format!("no answer for {} ms", self.settings.stuck_after.as_millis());
            pass.gaps.add("processes", Some(pid), step.field().as_bytes(), GapReason::Stuck, &detail);
        }
        if !room {
            for pid in &pass.pids[pass.next + 1..] {
                pass.gaps.add("processes", Some(*pid), b"", GapReason::Stuck, "a third read hangs");
            }
            return false;
        }
        if !step.may_hang() {
            pass.next += 1; // else the process is read once more, without that step
        }
        state.stuck.push(Stuck { worker, pid, step });
        // The thread is not joined: it is in the kernel, and ends by itself when the kernel lets it go.
        self.worker = None;
        self.ensure_worker(state).is_none()
    }

    /// Makes sure that a thread works on the pass. Where no thread can be had (a limit on tasks) the caller gets what
    /// it needs to do the work itself, then without protection against reads that hang.
    fn ensure_worker(&mut self, state: &mut State) -> Option<RowReader> {
        if self.worker.as_ref().is_some_and(|worker| !worker.thread.is_finished()) {
            return None;
        }
        self.workers_ever += 1;
        let id = self.workers_ever;
        state.active = id;
        let progress = Arc::new(Progress::default());
        let new_reader = || RowReader::new(&self.shared.tools, &self.settings, Arc::clone(&progress));
        let (shared, reader) = (Arc::clone(&self.shared), new_reader());
        let thread = thread::Builder::new().name("edr-processes".to_owned());
        match thread.spawn(move || shared.work(id, reader, false)) {
            Ok(thread) => {
                self.worker = Some(Worker { progress, thread });
                None
            }
            Err(error) => {
                if let Some(pass) = &mut state.pass {
                    let detail = format!("start a thread that may hang: {error}");
                    pass.gaps.add("processes", None, b"", reason(&error), &detail);
                }
                self.worker = None;
                Some(new_reader())
            }
        }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        let is_idle = state.pass.is_none();
        drop(state);
        self.shared.changed.notify_all();
        if let Some(worker) = self.worker.take().filter(|_| is_idle) {
            // An error is the panic of that thread, which has been reported where it happened.
            let _ = worker.thread.join();
        }
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.pass.as_ref().is_none_or(|pass| pass.done)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the helper thread does: one process after the other, until it is given up or the reader is closed; or
    /// `only_this_pass`.
    fn work(&self, id: u64, mut reader: RowReader, only_this_pass: bool) {
        let mut cpu_before = thread_cpu_ns();
        let mut state = self.lock();
        loop {
            if state.closing || state.active != id {
                state.stuck.retain(|stuck| stuck.worker != id);
                return;
            }
            let Some((task, context)) = state.next_process() else {
                if !state.is_done() {
                    let cpu_now = thread_cpu_ns();
                    self.cpu_ns.fetch_add(cpu_now.saturating_sub(cpu_before), Ordering::Relaxed);
                    if let Some(pass) = &mut state.pass {
                        pass.done = true;
                    }
                    self.changed.notify_all();
                }
                if only_this_pass {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                cpu_before = thread_cpu_ns();
                continue;
            };
            drop(state);
            let outcome = reader.read(&task, &context);
            state = self.lock();
            if state.active == id {
                state.put(&task, outcome, &mut reader);
            }
        }
    }
}

impl State {
    /// The next process to look at.
    fn next_process(&mut self) -> Option<(Task, Arc<Context>)> {
        let pass = self.pass.as_mut().filter(|pass| !pass.done)?;
        loop {
            let pid = *pass.pids.get(pass.next)?;
            let used = pass.rows.byte_len() - pass.rows_start;
            let mut known = self.stuck.iter().filter(|stuck| stuck.pid == pid);
            let is_stuck = known.clone().next().is_some();
            if used > pass.rows_bytes_soft + ROWS_BYTES_BEYOND {
                pass.unlisted += 1;
            } else if known.clone().count() < STUCK_MAX && known.all(|stuck| stuck.step.may_hang()) {
                let short = used > pass.rows_bytes_soft;
                let counts = pass.context.schedstat == Counting::Yes;
                let before = self.before.find(pid).filter(|process| counts && !short && !pass.turn.has_come(process));
                let task = Task {
                    pid,
                    before: before.map(|process| process.memory),
                    careful: is_stuck || self.stuck.len() >= STUCK_MAX,
                    short,
                };
                return Some((task, Arc::clone(&pass.context)));
            } else {
                // What hangs although it never should is not touched again while it hangs.
                pass.gaps.add("processes", Some(pid), b"", GapReason::Stuck, "an earlier read of it hangs");
            }
            pass.next += 1;
        }
    }

    /// Puts a result in its place.
    fn put(&mut self, task: &Task, outcome: Outcome, reader: &mut RowReader) {
        let Some(pass) = &mut self.pass else { return };
        let pid = task.pid;
        pass.next += 1;
        let start = pass.rows.byte_len();
        let (missed, read_at_ns) = match (outcome, self.before.find(pid)) {
            (Outcome::Unchanged, Some(before)) => {
                pass.rows.push_encoded(self.before.row(before));
                pass.carried += 1;
                (before.missed.clone(), before.read_at_ns)
            }
            _ => {
                if outcome == Outcome::Row {
                    pass.rows.push_encoded(&reader.encoded);
                    pass.read += 1;
                    pass.short += u64::from(task.short);
                    let key = ProcessKey { pid, start_ticks: reader.memory.start_ticks };
                    if Reread::slice_of(key, pass.turn.slices) != pass.turn.slice {
                        pass.out_of_turn.push(pid);
                    }
                }
                (reader.missed.drain().collect(), pass.turn.now_ns)
            }
        };
        for miss in &missed {
            let source = if matches!(miss.field, "files" | "fdinfo" | "path") { "files" } else { "processes" };
            pass.gaps.add(source, Some(pid), miss.field.as_bytes(), miss.reason, &miss.detail);
        }
        if matches!(outcome, Outcome::Row | Outcome::Unchanged) {
            let row = start - pass.rows_start..pass.rows.byte_len() - pass.rows_start;
            pass.processes.push(Process { pid, memory: reader.memory, read_at_ns, row, missed });
        }
    }
}

fn boottime_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
