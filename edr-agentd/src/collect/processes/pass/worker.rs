//! The thread that reads, and the one that watches it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use edr_wire::ProcessKey;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use rustix::time::{ClockId, clock_gettime};

use super::super::remembered::{Process, Remembered, Turn};
use super::super::row::{Context, Counting, Outcome, RowReader, Task, Tools};
use super::super::step::{Progress, Step};
use super::{Passes, ROWS_BYTES_BEYOND, STUCK_MAX};
use crate::collect::{Calls, Gaps, calls};
use crate::errno::reason;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) progress: Arc<Progress>,
    pub(super) thread: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tools: Tools,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pass: Option<Pass>,
    /// The thread whose work counts; every other one ends when it comes back.
    pub(super) active: u64,
    pub(super) stuck: Vec<Stuck>,
    /// The tick before.
    pub(super) before: Remembered,
    pub(super) closing: bool,
}

/// A thread left behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) worker: u64,
    pub(super) pid: u32,
    pub(super) step: Step,
}

#[derive(Debug)]
pub(super) struct Pass {
    pub(super) pids: Vec<u32>,
    pub(super) next: usize,
    pub(super) done: bool,
    pub(super) context: Arc<Context>,
    pub(super) turn: Turn,
    pub(super) rows: Rows,
    /// Bytes of `rows` before this pass.
    pub(super) rows_start: usize,
    pub(super) rows_bytes_soft: usize,
    pub(super) gaps: Gaps,
    pub(super) processes: Vec<Process>,
    pub(super) out_of_turn: Vec<u32>,
    pub(super) read: u64,
    pub(super) carried: u64,
    /// What the thread that finished it took for it.
    pub(super) cpu_ns: u64,
    pub(super) calls: Calls,
    /// Rows without their files, and processes without a row, for want of room.
    pub(super) short: u64,
    pub(super) unlisted: u64,
}

impl Passes {
    /// Has the pass done by the helper thread, and sees to it that it ends.
    pub(super) fn work_through(&mut self, pass: Pass) -> Pass {
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
                self.settings.heartbeat.beat();
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
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the helper thread does: one process after the other, until it is given up or the reader is closed; or
    /// `only_this_pass`.
    fn work(&self, id: u64, mut reader: RowReader, only_this_pass: bool) {
        let mut before = (thread_cpu_ns(), calls::so_far());
        let mut state = self.lock();
        loop {
            if state.closing || state.active != id {
                state.stuck.retain(|stuck| stuck.worker != id);
                return;
            }
            let Some((task, context)) = state.next_process() else {
                if !state.is_done() {
                    if let Some(pass) = &mut state.pass {
                        pass.done = true;
                        // The caller's own thread has counted its calls already.
                        if !only_this_pass {
                            pass.cpu_ns = thread_cpu_ns().saturating_sub(before.0);
                            pass.calls = calls::so_far() - before.1;
                        }
                    }
                    self.changed.notify_all();
                }
                if only_this_pass {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                before = (thread_cpu_ns(), calls::so_far());
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

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
