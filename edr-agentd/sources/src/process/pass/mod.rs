//! The passes over all processes, one a tick.
//!
//! A pass has three parts: [`plan`] decides what to read, [`walk`] reads one process after the other, and
//! [`Passes::run`] hands the result to the tick.
//!
//! The walk runs on a thread that may be abandoned ([`crate::common::hung`]). Then another thread goes on: with the
//! same process, without the steps that hang, and with the rest. While nothing hangs this costs one hand-over a tick
//! (20 µs) and one uncontended lock a process (10 ns): 0.01 % of a full read of 490 processes.

mod plan;
mod result;
mod walk;

use std::hash::RandomState;
use std::io;
use std::path::Path;
use std::sync::Arc;

use edr_wire::snapshot::{Reread, Rows};
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, openat};

use self::plan::Planner;
use self::walk::SharedWalk;
use super::ProcessSettings;
use super::file::PseudoDevices;
use super::hash::Hashes;
use super::row::{RowReader, Tools};
use crate::common::GapCollector;
use crate::common::errno::reason;
use crate::common::hung::policy::{PROCESS_THREADS_MAX, pass_time};
use crate::common::hung::{AbandonableThread, NoAnswer};
use crate::tick::{RowCount, Tick};

/// Largest number of files a row may list: below the elements that a reader of the wire accepts in one row.
const FILES_MAX: usize = 16_384;
/// Ticks between two repeated passes: five minutes.
const REPEAT_PASSES: u64 = 30;

/// The passes over `/proc`, one a tick.
#[derive(Debug)]
pub(super) struct Passes {
    planner: Planner,
    tools: Tools,
    settings: ProcessSettings,
    thread: AbandonableThread,
    /// Lent to the reading thread; `None` after that thread was abandoned.
    reader: Option<RowReader>,
    walk: SharedWalk,
    /// Number of ticks, and the first tick whose pass may be repeated.
    passes: u64,
    repeat_from: u64,
}

impl Passes {
    pub(super) fn open(proc_root: &Path, mut settings: ProcessSettings) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = Arc::new(openat(CWD, proc_root, flags, Mode::empty())?);
        settings.files_per_process_max = settings.files_per_process_max.clamp(1, FILES_MAX);
        let tools = Tools {
            proc,
            devices: PseudoDevices::find(),
            hashes: Arc::new(Mutex::new(Hashes::new(settings.hash))),
            room: Arc::default(),
            redactor: settings.redactor.clone(),
            hasher: RandomState::new(),
        };
        Ok(Self {
            planner: Planner::new(Arc::clone(&tools.proc), settings.clone()),
            walk: SharedWalk::new(&tools.room),
            tools,
            thread: AbandonableThread::new("edr-processes", PROCESS_THREADS_MAX)
                .with_hung_after(settings.hung_after)
                .beating(&settings.heartbeat),
            settings,
            reader: None,
            passes: 0,
            repeat_from: 0,
        })
    }

    /// Reads every process. A pass in which the demands grew beyond the free room is repeated, with the demands that it
    /// measured: otherwise a process read late would lose its lists although there is room. Seldom: whoever changes the
    /// demands all the time doubles no cost.
    pub(super) fn run(&mut self, tick: &mut Tick) -> RowCount {
        let mut gaps = std::mem::take(&mut tick.gaps);
        let mut count = self.run_once(tick);
        self.passes += 1;
        if self.passes >= self.repeat_from && self.tools.room.lock().has_grown() {
            self.repeat_from = self.passes + REPEAT_PASSES;
            (tick.gaps, tick.rows.processes) = (GapCollector::default(), Rows::default());
            count = self.run_once(tick);
        }
        gaps.append(&mut tick.gaps);
        tick.gaps = gaps;
        count
    }

    fn run_once(&mut self, tick: &mut Tick) -> RowCount {
        let plan = self.planner.plan(&tick.budget, &mut tick.gaps);
        let turn = plan.turn;
        self.tools.hashes.lock().start_pass(turn.slices.into());
        let bytes_max = tick.budget.process_rows_bytes_soft as u64;
        self.tools.room.lock().start(bytes_max, plan.pids.len() as u64, pass_time(plan.interval));
        self.thread.start_round();
        self.walk.lock().start(plan, std::mem::take(&mut tick.rows.processes));
        self.complete();

        let mut walk = self.walk.lock();
        let mut result = walk.finish("too many reads hang");
        walk.remember(&mut result);
        let room = self.tools.room.lock();
        room.report(&mut result.gaps);
        self.tools.hashes.lock().report(room.names(), &mut result.gaps);
        result.inhabitants.names = room.names().clone();
        drop(room);
        let produced = RowCount { rows: result.rows.len(), carried: result.carried };
        tick.rows.processes = result.rows;
        tick.gaps.append(&mut result.gaps);
        tick.reread = Reread { slice: turn.slice, slices: turn.slices, out_of_turn: result.out_of_turn };
        (tick.inhabitants, tick.access) = (result.inhabitants, result.access);
        produced
    }

    /// Completes the walk, by as many threads as needed.
    fn complete(&mut self) {
        // Threads that panic make room at once, so their number is limited here.
        for _ in 0..PROCESS_THREADS_MAX {
            let attempt = self.walk.lock().attempt();
            let mut reader = self.reader.take().unwrap_or_else(|| RowReader::new(&self.tools, &self.settings));
            let walk = self.walk.clone();
            let answer = self.thread.run(move |progress| {
                walk.go_on(attempt, &mut reader, progress);
                reader
            });
            match answer {
                Ok(reader) => {
                    self.reader = Some(reader);
                    return;
                }
                Err(NoAnswer::Abandoned(abandoned)) => self.walk.lock().abandon(abandoned),
                Err(NoAnswer::NoThread(error)) => {
                    self.go_on_without_thread(&error);
                    return;
                }
                Err(NoAnswer::Full(_)) => return,
            }
        }
    }

    /// Reads on the caller's own thread, without protection, while nothing hangs: a limit on tasks allows no thread.
    fn go_on_without_thread(&self, error: &io::Error) {
        let mut walk = self.walk.lock();
        let detail = format!("start a thread that may hang: {error}");
        walk.result.gaps.add("processes", None, b"", reason(error), &detail);
        let (attempt, nothing_hangs) = (walk.attempt(), walk.hung_reads.abandoned() == 0);
        drop(walk);
        if nothing_hangs {
            let mut reader = RowReader::new(&self.tools, &self.settings);
            self.walk.go_on(attempt, &mut reader, &Arc::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::room::Room;
    use super::super::step::Step;
    use super::walk::Walk;
    use super::*;
    use crate::common::hung::{AbandonedThread, JobProgress, ReadPosition};
    use crate::common::owner::Owner;
    use crate::tick::Budget;

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
        walk.result.processes.iter().map(|process| process.pid).collect()
    }

    /// A pass that has just begun.
    fn begun(passes: &mut Passes) -> SharedWalk {
        let plan = passes.planner.plan(&Budget::default(), &mut GapCollector::default());
        passes.walk.lock().start(plan, Rows::default());
        passes.walk.clone()
    }

    #[test]
    fn a_pass_that_spent_its_time_reads_outlines() {
        let (_proc, mut passes) = passes();
        let mut reader = RowReader::new(&passes.tools, &passes.settings);
        // The owner used up the share of the time, or not.
        for (spent_s, is_used_up, rows) in [
            (9, true, vec![]),
            (11, false, vec![]),
            (11, true, vec![1, 2, 3]),
            (29, false, vec![]),
            (31, false, vec![1, 2, 3]),
        ] {
            let (walk, progress) = (begun(&mut passes), Arc::new(JobProgress::default()));
            passes.tools.room.lock().start(1 << 20, 3, Duration::from_secs(20));
            if is_used_up {
                passes.tools.room.lock().take_time(Owner::new(7, b"/"), 0, 60_000_000);
            }
            progress.set_spent(Duration::from_secs(spent_s));
            walk.go_on(0, &mut reader, &progress);
            assert_eq!(pids(&walk.lock()), rows, "{spent_s}: `stat` is missing, so no whole row can be read");
        }
    }

    #[test]
    fn an_owner_who_used_up_the_time_costs_nobody_else_a_whole_row() {
        let mut room = Room::default();
        let (slow, other) = (Owner::new(7, b"/"), Owner::new(8, b"/"));
        for _ in 0..3 {
            room.start(1 << 20, 3, Duration::from_secs(20));
            room.take_time(slow, 90_000_000, 15_000_000);
            assert!(!room.has_used_time(other));
            room.take_time(slow, 0, 3_000_000);
            assert!(room.has_used_time(slow) && !room.has_used_time(other));
            room.take_time(other, 1_000_000, 1_000_000);
        }
        let mut gaps = GapCollector::default();
        room.report(&mut gaps);
        assert!(
            gaps.take().iter().any(|gap| gap.field.as_ref() == b"time: uid 7" && gap.detail.starts_with("alarm: "))
        );
    }

    #[test]
    fn the_results_of_an_abandoned_thread_are_discarded() {
        let (_proc, mut passes) = passes();
        let (walk, progress) = (begun(&mut passes), Arc::new(JobProgress::default()));
        progress.set_spent(Duration::from_secs(60));
        let hung = AbandonedThread::new(ReadPosition { pid: 1, step: Step::Stat.into() }, String::new(), &progress);
        walk.lock().abandon(hung);
        let mut reader = RowReader::new(&passes.tools, &passes.settings);
        walk.go_on(0, &mut reader, &progress);
        assert_eq!(walk.with(1, |walk| pids(walk)), Some(vec![]));
        walk.go_on(1, &mut reader, &progress);
        assert_eq!(walk.with(1, |walk| pids(walk)), Some(vec![1, 2, 3]));
        assert_eq!(walk.with(0, |walk| pids(walk)), None);
        walk.lock().finish("");
        let next = begun(&mut passes);
        next.go_on(1, &mut reader, &progress);
        assert!(pids(&next.lock()).is_empty(), "a late thread of an earlier pass");
    }

    #[test]
    fn a_process_is_left_behind_only_where_nothing_of_it_is_safe() {
        for (step, left_behind) in [(Step::Cmdline, false), (Step::Status, true)] {
            let (_proc, mut passes) = passes();
            let (walk, thread) = (begun(&mut passes), Arc::new(JobProgress::default()));
            walk.lock().abandon(AbandonedThread::new(
                ReadPosition { pid: 1, step: step.into() },
                "hung".to_owned(),
                &thread,
            ));
            let progress = Arc::new(JobProgress::default());
            progress.set_spent(Duration::from_secs(60));
            walk.go_on(1, &mut RowReader::new(&passes.tools, &passes.settings), &progress);
            let mut walk = walk.lock();
            assert_eq!(pids(&walk).contains(&1), !left_behind);
            let gaps = walk.result.gaps.take();
            assert_eq!(gaps.iter().any(|gap| gap.pid == Some(1) && gap.detail == "hung"), left_behind, "{gaps:?}");
        }
    }

    #[test]
    fn processes_that_a_pass_did_not_reach_are_named() {
        let (_proc, mut passes) = passes();
        let mut result = begun(&mut passes).lock().finish("too many reads hang");
        let gaps = result.gaps.take();
        assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), 3, "{gaps:?}");
        assert_eq!(result.inhabitants.unknown, [1, 2, 3]);
    }
}
