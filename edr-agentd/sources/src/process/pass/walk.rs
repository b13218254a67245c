//! The walk over all processes, one after the other.
//!
//! The walk is shared by the reading thread and the caller. Only the thread of the current attempt adds results, so a
//! late result of an abandoned thread is discarded.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_wire::ProcessKey;
use edr_wire::snapshot::{GapReason, Reread, Rows};
use parking_lot::{Mutex, MutexGuard};

use super::super::hung_reads::HungReads;
use super::super::previous::{PreviousRows, ProcessRecord};
use super::super::room::Room;
use super::super::row::{Netns, PassContext, ReadTask, RowOutcome, RowReader, RunCounters};
use super::super::step::{Step, Steps};
use super::plan::Plan;
use super::result::PassResult;
use crate::common::DescriptorAccess;
use crate::common::hung::policy::{is_late, is_scarce};
use crate::common::hung::{AbandonedThread, JobProgress};
use crate::common::owner::Owner;

/// The walk, shared by the caller and the reading threads. Clones share the walk.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedWalk(Arc<Mutex<Walk>>);

/// The state of the walk, and the facts kept from one pass to the next.
#[derive(Debug, Default)]
pub(super) struct Walk {
    plan: Plan,
    /// Position in [`Plan::pids`].
    next: usize,
    /// Grows with each abandoned thread and at the end of each pass. Only the thread that was started with this number
    /// may change the walk.
    attempt: u64,
    pub(super) hung_reads: HungReads,
    /// The rows of the previous pass.
    previous: PreviousRows,
    room: Arc<Mutex<Room>>,
    pub(super) result: PassResult,
}

/// The next process to read.
struct NextProcess {
    task: ReadTask,
    context: Arc<PassContext>,
    /// The row of the tick before was not whole.
    is_doubtful: bool,
    /// The owner decides what is read: reads of some owner hang.
    needs_owner: bool,
}

impl SharedWalk {
    /// A walk that counts its rows in `room`.
    pub(super) fn new(room: &Arc<Mutex<Room>>) -> Self {
        Self(Arc::new(Mutex::new(Walk { room: Arc::clone(room), ..Walk::default() })))
    }

    /// The walk, for the caller.
    pub(super) fn lock(&self) -> MutexGuard<'_, Walk> {
        self.0.lock()
    }

    /// Changes the walk, for a reading thread. Does nothing and returns `None` after another attempt has begun.
    pub(super) fn with<T>(&self, attempt: u64, change: impl FnOnce(&mut Walk) -> T) -> Option<T> {
        let mut walk = self.lock();
        (walk.attempt == attempt).then(|| change(&mut walk))
    }

    /// Reads the processes that are left, until another attempt begins.
    pub(super) fn go_on(&self, attempt: u64, reader: &mut RowReader, progress: &Arc<JobProgress>) {
        reader.progress = Arc::clone(progress);
        let mut next = self.with(attempt, |walk| walk.next_task(progress));
        while let Some(Some(NextProcess { mut task, context, mut is_doubtful, needs_owner })) = next {
            progress.begin(task.pid);
            let begun = Instant::now();
            if needs_owner && let Some((owner, waits)) = reader.owner(task.pid) {
                is_doubtful |= waits;
                let left_out = self.with(attempt, |walk| walk.left_out(task.pid, owner, is_doubtful, progress));
                let Some(left_out) = left_out else { return };
                task.left_out = task.left_out.with(left_out);
            }
            let outcome = reader.read(&task, &context);
            next = self.with(attempt, |walk| {
                walk.put(&task, outcome, reader, begun.elapsed());
                walk.next_task(progress)
            });
        }
    }
}

impl Walk {
    /// Begins a pass. The rows go into `rows`, so that their memory is used again.
    pub(super) fn start(&mut self, plan: Plan, mut rows: Rows) {
        rows.clear();
        self.hung_reads.start_pass();
        self.result = PassResult {
            rows,
            processes: Vec::with_capacity(plan.pids.len()),
            access: DescriptorAccess::of(rustix::process::geteuid().as_raw()),
            ..PassResult::default()
        };
        (self.plan, self.next) = (plan, 0);
    }

    /// The number of the current attempt.
    pub(super) fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Ends the pass, and records the rest of the processes as not read. Later results are discarded.
    pub(super) fn finish(&mut self, detail: &str) -> PassResult {
        while let Some(pid) = self.plan.pids.get(self.next) {
            self.skip(*pid, "", detail);
        }
        self.attempt += 1;
        mem::take(&mut self.result)
    }

    /// Keeps the rows for the next pass.
    pub(super) fn remember(&mut self, result: &mut PassResult) {
        self.previous.replace(mem::take(&mut result.processes), result.rows.bytes());
    }

    /// Begins the next attempt, after a thread was abandoned. The process is read once more without the steps that
    /// hang, or gets no row when these are all steps.
    pub(super) fn abandon(&mut self, abandoned: AbandonedThread) {
        let (pid, step) = (abandoned.place.pid, Step::of(abandoned.place.step));
        self.attempt += 1;
        if step.kin() == Steps::ALL && self.plan.pids.get(self.next) == Some(&pid) {
            self.skip(pid, step.field(), &abandoned.detail);
        }
        self.hung_reads.add(abandoned);
    }

    /// The steps to leave out of a process of `owner`.
    fn left_out(&mut self, pid: u32, owner: Owner, is_doubtful: bool, progress: &JobProgress) -> Steps {
        let hung = self.hung_reads.left_out(pid, owner, is_doubtful);
        let is_out_of_time = is_scarce(progress.spent(), self.plan.interval) && self.room.lock().has_used_time(owner);
        if is_out_of_time { hung.with(Steps::HELD_BACK) } else { hung }
    }

    fn next_task(&mut self, progress: &JobProgress) -> Option<NextProcess> {
        loop {
            let pid = *self.plan.pids.get(self.next)?;
            let mut left_out = self.hung_reads.of(pid);
            if is_late(progress.spent(), self.plan.interval) {
                left_out = left_out.with(Steps::HELD_BACK);
            }
            if left_out == Steps::ALL {
                self.skip(pid, "", "an earlier read of it hangs");
            } else {
                let counts = self.plan.context.schedstat == RunCounters::Yes;
                let previous = self.previous.find(pid);
                let unchanged = previous.filter(|process| {
                    counts && !self.plan.turn.has_come(process) && self.room.lock().keeps(&process.size, process.key())
                });
                return Some(NextProcess {
                    task: ReadTask {
                        pid,
                        before: unchanged.map(|process| process.memory),
                        known: previous.map(|process| (process.memory.start_ticks, process.texts)),
                        left_out,
                    },
                    context: Arc::clone(&self.plan.context),
                    is_doubtful: !previous.is_some_and(|process| process.memory.is_whole()),
                    needs_owner: !self.hung_reads.is_empty() || is_scarce(progress.spent(), self.plan.interval),
                });
            }
        }
    }

    /// Leaves a process without a row because of a read that hangs.
    fn skip(&mut self, pid: u32, field: &str, detail: &str) {
        self.result.gaps.add("processes", Some(pid), field.as_bytes(), GapReason::Stuck, detail);
        self.result.inhabitants.add_unknown(pid);
        self.next += 1;
    }

    /// Adds the result of a process.
    fn put(&mut self, task: &ReadTask, outcome: RowOutcome, reader: &mut RowReader, time: Duration) {
        let (pid, result, turn) = (task.pid, &mut self.result, &self.plan.turn);
        self.next += 1;
        if let Some(step) = reader.progress.take_slow(pid) {
            self.hung_reads.add_slow(pid, Step::of(step), reader.owner_of_row());
        }
        let start = result.rows.byte_len();
        let (missed, read_at_ns, facts) = match (outcome, self.previous.find(pid)) {
            (RowOutcome::Unchanged, Some(process)) => {
                if process.size.is_listed {
                    result.rows.push_encoded(self.previous.row(process));
                    result.carried += 1;
                }
                (reader.size, reader.texts) = (process.size, process.texts);
                (process.missed.clone(), process.read_at_ns, process.facts)
            }
            _ => {
                if outcome == RowOutcome::Row {
                    result.rows.push_encoded(&reader.encoded);
                    let key = ProcessKey { pid, start_ticks: reader.memory.start_ticks };
                    if Reread::slice_of(key, turn.slices) != turn.slice {
                        result.out_of_turn.push(pid);
                    }
                }
                let facts = reader.process_facts();
                (reader.missed.drain().collect(), turn.now_ns, facts)
            }
        };
        for miss in &missed {
            let source = if matches!(miss.field, "files" | "fdinfo" | "path") { "files" } else { "processes" };
            result.gaps.add(source, Some(pid), miss.field.as_bytes(), miss.reason, &miss.detail);
        }
        match outcome {
            RowOutcome::Gone => {}
            RowOutcome::Unreadable => result.inhabitants.add_unknown(pid),
            RowOutcome::Row | RowOutcome::Unchanged | RowOutcome::Unlisted => {
                let mut room = self.room.lock();
                room.take(&reader.size);
                let taken_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let time_us = match self.previous.find(pid) {
                    Some(process) if task.left_out.has(Step::Stat) => process.time_us,
                    _ => taken_us,
                };
                room.take_time(reader.size.owner, time_us, taken_us);
                if outcome != RowOutcome::Unchanged {
                    room.learn(reader.size.owner, &reader.row.cgroup.0);
                }
                match facts.netns {
                    Netns::Is(netns) => result.inhabitants.add_of(netns, pid, reader.size.owner),
                    Netns::Unknown => result.inhabitants.add_unknown(pid),
                    Netns::None => {}
                }
                result.access.note(pid, facts.uid, facts.files);
                let row = start..result.rows.byte_len();
                let (memory, size, texts) = (reader.memory, reader.size, reader.texts);
                result.processes.push(ProcessRecord {
                    pid,
                    memory,
                    read_at_ns,
                    row,
                    size,
                    texts,
                    time_us,
                    missed,
                    facts,
                });
            }
        }
    }
}
