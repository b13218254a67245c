//! One pass over all processes, on a thread that may be given up.
//!
//! A read below `/proc/PID` can wait for ever: for the memory map of a process that hangs, for a page on a dead network
//! file system. So the reading is done by one helper thread, and the caller watches that it moves. A thread that does
//! not come back is left behind with its process, another one goes on with the rest; when the first does come back, it
//! ends. At most two are left behind; after that nothing that may hang is read until one of them is back.
//!
//! In the normal case this costs one hand-over a tick and two uncontended locks a process, together under 0.1 % of a
//! full read. Results are put in place under the lock, so what a thread given up brings home late goes nowhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, mem, thread};

use edr_wire::limits::PROCESSES_MAX;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::time::{ClockId, clock_gettime};

use super::file::{PseudoDevices, each_number, open_folder};
use super::row::{Context, Outcome, RowReader};
use super::step::{Progress, Step};
use super::users::Names;
use super::{ProcessSettings, ReadCost};
use crate::collect::Gaps;
use crate::errno::reason;

/// Threads left behind at most.
const STUCK_MAX: usize = 2;
/// Largest number of files a row may list: below the elements that a reader of the wire accepts in one row.
const FILES_MAX: usize = 16_384;

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
    cost: ReadCost,
}

#[derive(Debug)]
struct Worker {
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    proc: Arc<OwnedFd>,
    devices: PseudoDevices,
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
    rows: Rows,
    gaps: Gaps,
    read: u64,
}

impl Passes {
    pub(super) fn open(proc_root: &Path, mut settings: ProcessSettings) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = Arc::new(openat(CWD, proc_root, flags, Mode::empty())?);
        settings.files_per_process_max = settings.files_per_process_max.clamp(1, FILES_MAX);
        let (users, groups) = (Names::new(settings.passwd.clone()), Names::new(settings.group.clone()));
        let shared = Arc::new(Shared {
            proc,
            devices: PseudoDevices::find(),
            state: Mutex::default(),
            changed: Condvar::new(),
            cpu_ns: AtomicU64::new(0),
        });
        let cost = ReadCost::default();
        Ok(Self { shared, settings, worker: None, workers_ever: 0, users, groups, boot_time_ns: None, cost })
    }

    pub(super) fn cost(&self) -> ReadCost {
        self.cost
    }

    pub(super) fn run(&mut self, rows: &mut Rows, gaps: &mut Gaps) -> Reread {
        let begun = Instant::now();
        let pids = self.list(gaps);
        let context = Arc::new(self.context(gaps));
        let pass = Pass { pids, next: 0, done: false, context, rows: mem::take(rows), gaps: mem::take(gaps), read: 0 };
        let finished = self.work_through(pass);
        (*rows, *gaps) = (finished.rows, finished.gaps);
        self.cost = ReadCost {
            cpu_ns: self.shared.cpu_ns.swap(0, Ordering::Relaxed),
            wall_ns: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
            read: finished.read,
            carried: 0,
        };
        Reread { slice: 0, slices: 1 }
    }

    /// The pids of the moment, sorted.
    fn list(&self, gaps: &mut Gaps) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut buf = vec![mem::MaybeUninit::uninit(); 32 << 10];
        let mut beyond = 0_u64;
        let listed = open_folder(self.shared.proc.as_fd(), c".").and_then(|folder| {
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
        Context { users: self.users.clone(), groups: self.groups.clone(), boot_time_ns: self.boot_time_ns.unwrap_or(0) }
    }

    /// `btime` of `/proc/stat`. Read once: it moves by a second when the clock is adjusted, and with it the start time
    /// of every process would.
    fn read_boot_time(&self) -> io::Result<i64> {
        let stat = openat(&*self.shared.proc, c"stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
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
        let detail = format!("no answer for {} ms", self.settings.stuck_after.as_millis());
        pass.gaps.add("processes", Some(pid), step.field().as_bytes(), GapReason::Stuck, &detail);
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
        let new_reader = || {
            RowReader::new(Arc::clone(&self.shared.proc), self.shared.devices, &self.settings, Arc::clone(&progress))
        };
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
            let Some((pid, context, careful)) = state.next_process() else {
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
            let outcome = reader.read(pid, &context, careful);
            state = self.lock();
            if state.active == id {
                state.put(pid, outcome, &mut reader);
            }
        }
    }
}

impl State {
    /// The next process to read, and whether with care.
    fn next_process(&mut self) -> Option<(u32, Arc<Context>, bool)> {
        let pass = self.pass.as_mut().filter(|pass| !pass.done)?;
        loop {
            let pid = *pass.pids.get(pass.next)?;
            let mut known = self.stuck.iter().filter(|stuck| stuck.pid == pid);
            let careful = self.stuck.len() >= STUCK_MAX || known.clone().next().is_some();
            // What hangs although it never should is not touched again while it hangs.
            if known.clone().count() < STUCK_MAX && known.all(|stuck| stuck.step.may_hang()) {
                return Some((pid, Arc::clone(&pass.context), careful));
            }
            pass.gaps.add("processes", Some(pid), b"", GapReason::Stuck, "an earlier read of it hangs");
            pass.next += 1;
        }
    }

    /// Puts a result in its place.
    fn put(&mut self, pid: u32, outcome: Outcome, reader: &mut RowReader) {
        let Some(pass) = &mut self.pass else { return };
        pass.next += 1;
        for miss in reader.missed.drain() {
            let source = if matches!(miss.field, "files" | "fdinfo" | "path") { "files" } else { "processes" };
            pass.gaps.add(source, Some(pid), miss.field.as_bytes(), miss.reason, &miss.detail);
        }
        if outcome == Outcome::Row {
            pass.rows.push(&reader.row);
            pass.read += 1;
        }
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
