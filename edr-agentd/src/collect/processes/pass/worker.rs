//! The thread that reads, and the one that watches it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use edr_wire::ProcessKey;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use rustix::time::{ClockId, clock_gettime};

use super::super::access::Access;
use super::super::remembered::{Process, Remembered, Turn};
use super::super::row::{Context, Counting, Netns, Outcome, RowReader, Task, Tools};
use super::super::step::{Progress, Step, Steps};
use super::super::suspects::{LEFT_BEHIND_MAX, Lost, Suspects};
use super::{Passes, ROWS_BYTES_BEYOND};
use crate::collect::{Calls, Gaps, Inhabitants, calls};
use crate::errno::reason;

/// Looks at the reading thread within the time after which it is given up: a thread that hangs is found out no later
/// than one and a half of that time after it began to.
const LOOKS: u32 = 4;
/// And one that moves, in the same step of the same process, after twice that time.
const SLOW_LOOKS: u32 = 2 * LOOKS;

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
    pub(super) suspects: Suspects,
    /// Of the pass that runs, or ran last.
    pub(super) number: u64,
    /// The tick before.
    pub(super) before: Remembered,
    pub(super) closing: bool,
}

#[derive(Debug)]
pub(super) struct Pass {
    /// Tells this pass from the others: what belongs to an earlier one has no place in it.
    pub(super) number: u64,
    pub(super) begun: Instant,
    /// A pass that takes longer reads only what waits for no process from then on.
    pub(super) late_after: Duration,
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
    pub(super) lost: Lost,
    pub(super) inhabitants: Inhabitants,
    pub(super) access: Access,
}

/// The next process to look at.
struct Next {
    pass: u64,
    task: Task,
    context: Arc<Context>,
    /// Whose it is must be known first: reads of others hang.
    wary: bool,
    /// Its row of the tick before is whole.
    read_well: bool,
    lost: Lost,
}

/// How a pass goes on without the thread that hangs.
enum Onward {
    /// Another thread does the rest.
    Another,
    /// Not at all: there is none to be had, or too many hang.
    Over,
}

impl Passes {
    /// Has the pass done by the helper thread, and sees to it that it ends.
    pub(super) fn work_through(&mut self, mut pass: Pass) -> Pass {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        state.number = pass.number;
        if state.suspects.left_behind() >= LEFT_BEHIND_MAX {
            pass.give_up();
            return pass;
        }
        state.pass = Some(pass);
        if let Some(reader) = self.ensure_worker(&mut state) {
            if state.suspects.left_behind() > 0 {
                // Whoever made those hang would have the caller, too.
                let mut pass = state.pass.take().unwrap_or_else(|| unreachable!("it was put there"));
                pass.give_up();
                return pass;
            }
            drop(state);
            shared.work(self.workers_ever, reader, true);
            state = shared.lock();
        }
        shared.changed.notify_all();
        let (mut last, mut quiet, mut last_reading, mut same) = (None, 0, None, 0);
        loop {
            let (guard, timeout) = shared
                .changed
                .wait_timeout_while(state, self.settings.stuck_after / LOOKS, |state| !state.is_done())
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if !timeout.timed_out() {
                break;
            }
            let Some(worker) = &self.worker else { break };
            let (beats, step) = worker.progress.look();
            let reading = (state.pass.as_ref().map(|pass| pass.next), step);
            // One process takes long: what it gives comes just in time for never being quiet.
            same = if last_reading.replace(reading) == Some(reading) { same + 1 } else { 0 };
            if last.replace(beats) != Some(beats) {
                quiet = 0;
                self.settings.heartbeat.beat();
            } else {
                quiet += 1;
            }
            if quiet < LOOKS && same < SLOW_LOOKS {
                continue;
            }
            match self.leave_behind(&mut state, step) {
                Onward::Another => (last, quiet, last_reading, same) = (None, 0, None, 0),
                Onward::Over => break,
            }
        }
        state.pass.take().unwrap_or_else(|| unreachable!("only this function takes the pass"))
    }

    /// Gives the active thread up.
    fn leave_behind(&mut self, state: &mut State, step: Step) -> Onward {
        let worker = state.active;
        let Some(pass) = &mut state.pass else { return Onward::Over };
        let pid = pass.pids.get(pass.next).copied().unwrap_or(0);
        state.suspects.add(worker, pid, step);
        pass.lost.hangs += 1;
        // The thread is not joined: it is in the kernel, and ends by itself when the kernel lets it go.
        self.worker = None;
        if step.kin() == Steps::ALL {
            let detail = format!("no answer for {} ms", self.settings.stuck_after.as_millis());
            pass.gaps.add("processes", Some(pid), step.field().as_bytes(), GapReason::Stuck, &detail);
            pass.inhabitants.add_unknown(pid);
            pass.next += 1;
        } // else the process is read once more, without what hangs
        if state.suspects.left_behind() < LEFT_BEHIND_MAX && self.ensure_worker(state).is_none() {
            return Onward::Another;
        }
        if let Some(pass) = &mut state.pass {
            pass.give_up();
        }
        Onward::Over
    }

    /// Makes sure that a thread works on the pass. Where no thread can be had (a limit on tasks) the caller gets what
    /// it needs to do the work itself, then without protection against reads that hang: only while none does.
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
                let pass = state.number;
                state.suspects.came_back(id, pass);
                return;
            }
            let Some(next) = state.next_process() else {
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
            let mut task = next.task;
            if next.wary {
                let owner = reader.owner(task.pid);
                state = self.lock();
                if state.active != id {
                    continue;
                }
                if let Some(owner) = owner {
                    task.avoid = task.avoid.with(state.suspects.avoid(task.pid, owner, next.read_well, next.lost));
                }
                drop(state);
            }
            let outcome = reader.read(&task, &next.context);
            state = self.lock();
            // A thread given up may come back in a later pass.
            let is_active = state.active == id;
            let State { pass, before, suspects, .. } = &mut *state;
            if let Some(pass) = pass.as_mut().filter(|pass| is_active && pass.number == next.pass) {
                if let Some(step) = reader.slow.take() {
                    pass.lost.slow += 1;
                    suspects.add_slow(pass.number, task.pid, step, reader.owner_of_row());
                }
                pass.put(&task, outcome, &mut reader, before);
            }
        }
    }
}

impl State {
    fn next_process(&mut self) -> Option<Next> {
        let pass = self.pass.as_mut().filter(|pass| !pass.done)?;
        loop {
            let pid = *pass.pids.get(pass.next)?;
            let used = pass.rows.byte_len() - pass.rows_start;
            let mut avoid = self.suspects.of(pid);
            if pass.begun.elapsed() > pass.late_after {
                avoid = avoid.with(Steps::HELD_BACK);
            }
            if used > pass.rows_bytes_soft + ROWS_BYTES_BEYOND {
                pass.unlisted += 1;
            } else if avoid == Steps::ALL {
                pass.gaps.add("processes", Some(pid), b"", GapReason::Stuck, "an earlier read of it hangs");
            } else {
                let short = used > pass.rows_bytes_soft;
                let counts = pass.context.schedstat == Counting::Yes;
                let before = self.before.find(pid);
                let unchanged = before.filter(|process| counts && !short && !pass.turn.has_come(process));
                let task = Task { pid, before: unchanged.map(|process| process.memory), avoid, short };
                return Some(Next {
                    pass: pass.number,
                    task,
                    context: Arc::clone(&pass.context),
                    wary: !self.suspects.is_empty() || pass.lost != Lost::default(),
                    read_well: before.is_some_and(|process| process.memory.is_whole()),
                    lost: pass.lost,
                });
            }
            pass.inhabitants.add_unknown(pid);
            pass.next += 1;
        }
    }
}

impl Pass {
    /// Names what is still to be read as not read.
    fn give_up(&mut self) {
        for pid in &self.pids[self.next.min(self.pids.len())..] {
            self.gaps.add("processes", Some(*pid), b"", GapReason::Stuck, "too many reads hang");
            self.inhabitants.add_unknown(*pid);
        }
        self.next = self.pids.len();
    }

    /// Puts a result in its place.
    fn put(&mut self, task: &Task, outcome: Outcome, reader: &mut RowReader, before: &Remembered) {
        let pid = task.pid;
        self.next += 1;
        let start = self.rows.byte_len();
        let (missed, read_at_ns, told) = match (outcome, before.find(pid)) {
            (Outcome::Unchanged, Some(process)) => {
                self.rows.push_encoded(before.row(process));
                self.carried += 1;
                (process.missed.clone(), process.read_at_ns, process.told)
            }
            _ => {
                if outcome == Outcome::Row {
                    self.rows.push_encoded(&reader.encoded);
                    self.read += 1;
                    self.short += u64::from(task.short);
                    let key = ProcessKey { pid, start_ticks: reader.memory.start_ticks };
                    if Reread::slice_of(key, self.turn.slices) != self.turn.slice {
                        self.out_of_turn.push(pid);
                    }
                }
                let told = reader.told();
                (reader.missed.drain().collect(), self.turn.now_ns, told)
            }
        };
        for miss in &missed {
            let source = if matches!(miss.field, "files" | "fdinfo" | "path") { "files" } else { "processes" };
            self.gaps.add(source, Some(pid), miss.field.as_bytes(), miss.reason, &miss.detail);
        }
        match outcome {
            Outcome::Gone => {}
            Outcome::Unreadable => self.inhabitants.add_unknown(pid),
            Outcome::Row | Outcome::Unchanged => {
                match told.netns {
                    Netns::Is(netns) => self.inhabitants.add(netns, pid),
                    Netns::Unknown => self.inhabitants.add_unknown(pid),
                    Netns::None => {}
                }
                self.access.note(pid, &told);
                let row = start - self.rows_start..self.rows.byte_len() - self.rows_start;
                self.processes.push(Process { pid, memory: reader.memory, read_at_ns, row, missed, told });
            }
        }
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
