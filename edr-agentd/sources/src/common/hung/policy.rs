//! Policy for reads that hang or are slow: every limit with its reason, and the decisions as pure functions.
//!
//! All times are **blocked time**: the time of a reading thread in a wait inside the kernel. Time in a run queue and
//! CPU time are subtracted, so an overloaded host does not look like a hung host.
//!
//! | the watcher sees | decision |
//! |---|---|
//! | no answer for `hung_after` | the thread is abandoned; until its return the read counts against the owner |
//! | answers, and one step for twice that time | the same |
//! | one step for [`PASS_SPENT_MAX`], CPU time included | the same |
//! | one step for [`SLOW_STEP`], or one process for twice that time | counts for [`SLOW_PASSES`] passes |
//! | a thread in state R | nothing: the thread runs or waits for a processor |
//!
//! | reads that count | processes with a doubtful row | every process | what is left out |
//! |---|---|---|---|
//! | of one owner ([`OF_ONE_OWNER`]) | from 2 | from 4 | for this owner: the steps that hung or were slow |
//! | threads abandoned now ([`OF_ALL`]) | from 16 | from 20 | all but `status` and `cgroup` |
//! | hung in this pass ([`OF_A_PASS`]) | from 3 | from 4 | all but `status` and `cgroup` |
//! | slow in this pass ([`OF_A_PASS`]) | from 3 | from 4 | command line, maps and hash |
//! | none, but time is scarce ([`is_scarce`]) | | of owners without time | all but `status` and `cgroup` |
//! | none, but the pass is late ([`is_late`]) | | at once | all but `status` and `cgroup` |
//!
//! A row is doubtful when the row of the previous tick was incomplete, or when the process waits for storage now.

use std::time::Duration;

use super::account::ThreadAccount;
use super::progress::ReadPosition;

/// Blocked time without an answer after which a read counts as hung. Local storage answers in milliseconds, and a
/// network file system within a second even after a lost packet. Four hangs fit a tick of 10 s.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(2);
/// Number of looks at the reading thread within `hung_after`. A look adds at most the time between two looks, so a late
/// watcher needs as many looks as a punctual watcher, and a hang is found within 9 looks (2.25 s).
const LOOKS: u32 = 8;
/// Part of the time between two looks (31 ms). A shorter job has no last look, which costs 8 system calls: a pass over
/// a small host, a namespace.
const UNMEASURED_PART: u32 = 8;
/// Blocked time after which a step is slow: a file system can answer each read just before `hung_after`. The looks miss
/// up to 250 ms at the beginning and at the end of a step, so a slow step takes 0.75 to 1.25 s.
const SLOW_STEP: Duration = Duration::from_millis(750);
/// Blocked and CPU time of a pass over the processes, divided fairly between their owners: of an owner who used up the
/// share only `status` and `cgroup` are read. A million descriptors take a third of that time.
const PASS_SPENT_MAX: Duration = Duration::from_secs(20);
/// Number of passes in which a slow read counts against its owner: five minutes of ticks.
pub(crate) const SLOW_PASSES: u64 = 30;
/// Slow reads remembered. More change no decision: four of an owner do all.
pub(crate) const SLOW_READS_MAX: usize = 64;

/// Limits on the reads of one owner. A single hang may be an accident.
const OF_ONE_OWNER: Thresholds = Thresholds { doubtful: 2, all: 4 };
/// Threads abandoned, of all owners: eight owners with two hangs each, or four owners with four.
const OF_ALL: Thresholds = Thresholds { doubtful: 16, all: 20 };
/// Reads of one pass. Four hangs of 2 s fit a tick of 10 s.
const OF_A_PASS: Thresholds = Thresholds { doubtful: 3, all: 4 };
/// Maximum number of abandoned threads of the passes over processes: the last four are for hangs in `status` and
/// `cgroup`. Together with the two limits below at most 56 of the 128 tasks of the unit (`TasksMax=`); each thread
/// holds some 300 KiB.
pub(crate) const PROCESS_THREADS_MAX: usize = OF_ALL.all + 4;
/// Threads abandoned in network namespaces.
pub(crate) const NAMESPACE_THREADS_MAX: usize = 16;
/// Threads abandoned with psad's pid files.
pub(crate) const PSAD_THREADS_MAX: usize = 16;

/// Maximum blocked and CPU time of one tick for other network namespaces: half an interval.
pub(crate) const NAMESPACES_SPENT_MAX: Duration = Duration::from_secs(5);
/// Wall-clock time for the same: half of the unit's `WatchdogSec=`.
pub(crate) const NAMESPACES_WALL_MAX: Duration = Duration::from_secs(15);
/// Number of ticks without a read of a network namespace after a hang: five minutes.
pub(crate) const NAMESPACE_HUNG_TICKS: u64 = 30;

/// Numbers of reads from which steps are left out.
#[derive(Debug, Clone, Copy)]
struct Thresholds {
    /// For processes with a doubtful row.
    doubtful: usize,
    /// For every process.
    all: usize,
}

impl Thresholds {
    fn are_reached(self, count: usize, is_doubtful: bool) -> bool {
        count >= self.all || (is_doubtful && count >= self.doubtful)
    }
}

/// Numbers of hung and slow reads relevant for one process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadCounts {
    /// Reads of other processes of the same owner.
    pub(crate) of_owner: usize,
    /// Threads abandoned now.
    pub(crate) abandoned: usize,
    /// Hung in this pass.
    pub(crate) hung_in_pass: usize,
    /// Slow in this pass.
    pub(crate) slow_in_pass: usize,
}

/// Groups of steps left out of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Omissions {
    /// The steps that hung or were slow in other processes of the owner.
    pub(crate) as_of_owner: bool,
    /// All but `status` and `cgroup`.
    pub(crate) most: bool,
    /// Command line, maps and hash.
    pub(crate) memory_and_hash: bool,
}

/// Decides the steps of a process that are left out because of other processes.
pub(crate) fn left_out(counts: ReadCounts, is_doubtful: bool) -> Omissions {
    Omissions {
        as_of_owner: OF_ONE_OWNER.are_reached(counts.of_owner, is_doubtful),
        most: OF_ALL.are_reached(counts.abandoned, is_doubtful)
            || OF_A_PASS.are_reached(counts.hung_in_pass, is_doubtful),
        memory_and_hash: OF_A_PASS.are_reached(counts.slow_in_pass, is_doubtful),
    }
}

/// The time of a pass: [`PASS_SPENT_MAX`], or two long intervals.
pub(crate) fn pass_time(interval: Duration) -> Duration {
    PASS_SPENT_MAX.max(2 * interval)
}

/// Returns true when the owners of processes are held to their shares of the time of a pass.
pub(crate) fn is_scarce(spent: Duration, interval: Duration) -> bool {
    spent > pass_time(interval) / 2
}

/// Returns true when a pass has spent more than all shares.
pub(crate) fn is_late(spent: Duration, interval: Duration) -> bool {
    spent > pass_time(interval) * 3 / 2
}

/// Why a thread is abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AbandonCause {
    #[error("no answer for {} ms", .0.as_millis())]
    Hung(Duration),
    #[error("not done after {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("the reading thread panicked")]
    Panic,
}

/// The decision after a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchDecision {
    Wait,
    /// The step counts as slow.
    Slow,
    Abandon(AbandonCause),
}

/// A sample of a reading thread: times and position.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ThreadSample {
    /// Time since the start of the job.
    pub(super) at: Duration,
    pub(super) account: ThreadAccount,
    pub(super) beats: u64,
    pub(super) place: ReadPosition,
}

/// Judgement of a job, updated at each look.
#[derive(Debug)]
pub(super) struct ThreadWatch {
    hung_after: Duration,
    last: ThreadSample,
    /// Blocked time since the last beat, in this step, and in this process.
    silent: Duration,
    step: Duration,
    process: Duration,
    /// Blocked and CPU time in this step, and in the round of jobs.
    step_spent: Duration,
    pub(super) spent: Duration,
}

impl ThreadWatch {
    /// Begins a job of a round that has `spent` some time, by a thread with this `account`.
    pub(super) fn new(hung_after: Duration, spent: Duration, account: ThreadAccount) -> Self {
        let none = Duration::ZERO;
        let last = ThreadSample { account, ..ThreadSample::default() };
        Self { hung_after, last, silent: none, step: none, process: none, step_spent: none, spent }
    }

    /// Time between two looks.
    pub(super) fn interval(&self) -> Duration {
        self.hung_after / LOOKS
    }

    /// True when a job of this length has a last look.
    pub(super) fn is_measured(&self, length: Duration) -> bool {
        length >= self.interval() / UNMEASURED_PART
    }

    pub(super) fn account(&self) -> ThreadAccount {
        self.last.account
    }

    /// Adds the time since the last look, and decides.
    pub(super) fn look(&mut self, now: ThreadSample) -> WatchDecision {
        let before = std::mem::replace(&mut self.last, now);
        let wall = now.at.saturating_sub(before.at);
        // The account of the last look may belong to an earlier job.
        let ran = now.account.ran.saturating_sub(before.account.ran).min(wall);
        let blocked = if now.account.is_runnable {
            Duration::ZERO
        } else {
            // Without the time in run queues the state decides alone.
            let queued =
                now.account.queued.unwrap_or_default().saturating_sub(before.account.queued.unwrap_or_default());
            wall.saturating_sub(ran + queued).min(self.interval())
        };
        let add = |sum: &mut Duration, goes_on: bool, time| *sum = if goes_on { *sum + time } else { Duration::ZERO };
        add(&mut self.silent, now.beats == before.beats, blocked);
        add(&mut self.step, now.place == before.place, blocked);
        add(&mut self.process, now.place.pid == before.place.pid, blocked);
        add(&mut self.step_spent, now.place == before.place, blocked + ran);
        self.spent += blocked + ran;

        if self.silent >= self.hung_after {
            WatchDecision::Abandon(AbandonCause::Hung(self.silent))
        } else if self.step >= 2 * self.hung_after || self.step_spent >= PASS_SPENT_MAX {
            WatchDecision::Abandon(AbandonCause::Slow(self.step_spent))
        } else if self.step >= SLOW_STEP || self.process >= 2 * SLOW_STEP {
            WatchDecision::Slow
        } else {
            WatchDecision::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading thread with invented times, watched every 250 ms.
    struct Thread {
        watch: ThreadWatch,
        now: ThreadSample,
        counts: bool,
    }

    const LOOK_MS: u64 = 250;

    impl Thread {
        fn new() -> Self {
            Self::on_kernel(true)
        }

        fn on_kernel(counts: bool) -> Self {
            let watch = ThreadWatch::new(HUNG_AFTER, Duration::ZERO, ThreadAccount::default());
            assert_eq!(watch.interval(), Duration::from_millis(LOOK_MS));
            Self { watch, now: ThreadSample::default(), counts }
        }

        /// Lets `wall` pass, of which the thread ran and was queued for so long (ms), and looks.
        fn pass(&mut self, wall: u64, state: char, ran: u64, queued: u64) -> WatchDecision {
            let account = &mut self.now.account;
            account.is_runnable = state == 'R';
            account.ran += Duration::from_millis(ran);
            if self.counts {
                account.queued = Some(account.queued.unwrap_or_default() + Duration::from_millis(queued));
            }
            self.now.at += Duration::from_millis(wall);
            self.watch.look(self.now)
        }

        fn beat(&mut self) {
            self.now.beats += 1;
        }

        fn at(&mut self, pid: u32, step: u8) {
            self.now.place = ReadPosition { pid, step };
            self.beat();
        }
    }

    fn is_hung(verdict: WatchDecision) -> bool {
        matches!(verdict, WatchDecision::Abandon(AbandonCause::Hung(_)))
    }

    #[test]
    fn a_read_that_waits_in_the_kernel_hangs_after_its_time() {
        for counts in [true, false] {
            let mut thread = Thread::on_kernel(counts);
            for look in 1..8 {
                assert!(!is_hung(thread.pass(LOOK_MS, 'D', 0, 0)), "{look}");
            }
            assert_eq!(thread.pass(LOOK_MS, 'S', 0, 0), WatchDecision::Abandon(AbandonCause::Hung(HUNG_AFTER)));
        }
    }

    #[test]
    fn a_thread_that_gets_no_processor_neither_hangs_nor_is_slow() {
        // Always in the run queue; or seen asleep for a moment, after a wait that the kernel has counted.
        for (state, queued) in [('R', 0), ('R', LOOK_MS), ('S', LOOK_MS - 1), ('D', LOOK_MS)] {
            let mut thread = Thread::new();
            for _ in 0..1_000 {
                assert_eq!(thread.pass(LOOK_MS, state, 1, queued), WatchDecision::Wait, "{state}");
            }
            assert!(thread.watch.spent < 2 * Duration::from_secs(1), "{:?}", thread.watch.spent);
        }
        // On a kernel without counters the state decides.
        let mut thread = Thread::on_kernel(false);
        for _ in 0..1_000 {
            assert_eq!(thread.pass(LOOK_MS, 'R', 1, 0), WatchDecision::Wait);
        }
    }

    #[test]
    fn a_queue_wait_counted_only_at_its_end_is_no_hang() {
        let mut thread = Thread::new();
        for _ in 0..20 {
            // Five looks in the queue, then asleep; the kernel counts the whole wait at its end.
            for _ in 0..5 {
                assert_eq!(thread.pass(LOOK_MS, 'R', 0, 0), WatchDecision::Wait);
            }
            assert_eq!(thread.pass(LOOK_MS, 'S', 1, 6 * LOOK_MS), WatchDecision::Wait);
        }
    }

    #[test]
    fn a_late_watcher_needs_as_many_looks_as_a_punctual_one() {
        for counts in [true, false] {
            let mut thread = Thread::on_kernel(counts);
            for look in 1..8 {
                assert!(!is_hung(thread.pass(60_000, 'S', 0, 0)), "{look}");
            }
            assert!(is_hung(thread.pass(60_000, 'S', 0, 0)));
        }
    }

    #[test]
    fn a_beat_begins_the_silence_anew() {
        let mut thread = Thread::new();
        for look in 0..15 {
            assert!(!is_hung(thread.pass(LOOK_MS, 'S', 0, 0)), "{look}");
            if look % 6 == 0 {
                thread.beat();
            }
        }
    }

    #[test]
    fn a_step_that_moves_is_slow_and_then_given_up() {
        let mut thread = Thread::new();
        thread.at(7, 3);
        let mut verdicts = (0..17).map(|_| {
            thread.beat();
            thread.pass(LOOK_MS, 'S', 0, 0)
        });
        // The step began before the first look, so the time before is not counted.
        assert!(verdicts.by_ref().take(3).all(|verdict| verdict == WatchDecision::Wait));
        assert!(verdicts.by_ref().take(13).all(|verdict| verdict == WatchDecision::Slow));
        assert_eq!(verdicts.next(), Some(WatchDecision::Abandon(AbandonCause::Slow(2 * HUNG_AFTER))));
    }

    #[test]
    fn a_process_is_slow_by_all_of_its_steps() {
        let mut thread = Thread::new();
        let mut verdicts = Vec::new();
        for step in 0..8 {
            thread.at(7, step);
            verdicts.push(thread.pass(LOOK_MS, 'S', 0, 0));
        }
        assert_eq!(verdicts.iter().position(|verdict| *verdict == WatchDecision::Slow), Some(6));
        for pid in 8..100 {
            thread.at(pid, 0);
            assert_eq!(thread.pass(LOOK_MS, 'S', 0, 0), WatchDecision::Wait);
        }
    }

    #[test]
    fn a_read_that_never_ends_and_burns_cpu_time_is_given_up() {
        let mut thread = Thread::new();
        let looks = (1..).find(|_| thread.pass(LOOK_MS, 'R', LOOK_MS, 0) != WatchDecision::Wait).unwrap();
        assert_eq!(looks * LOOK_MS, 20_000);
    }

    #[test]
    fn run_time_of_earlier_jobs_does_not_count_for_this_job() {
        let mut thread = Thread::new();
        thread.pass(LOOK_MS, 'R', 60_000, 0);
        assert_eq!(thread.watch.spent, Duration::from_millis(LOOK_MS));
    }

    #[test]
    fn a_pass_is_late_by_its_own_time_not_by_other_threads_time() {
        let mut thread = Thread::new();
        for pid in 1..1_000 {
            thread.at(pid, 0);
            thread.pass(LOOK_MS, 'R', 5, 0);
        }
        let ten = Duration::from_secs(10);
        assert!(!is_scarce(thread.watch.spent, ten) && !is_late(thread.watch.spent, ten));
        for (pids, late) in [(64, false), (128, true)] {
            for pid in pids / 2..pids {
                thread.at(pid, 0);
                thread.pass(LOOK_MS, 'S', 5, 0);
                thread.at(pid + 1_000, 0);
                thread.pass(LOOK_MS, 'S', 5, 0);
            }
            assert_eq!((is_scarce(thread.watch.spent, ten), is_late(thread.watch.spent, ten)), (true, late));
        }
        assert!(!is_scarce(thread.watch.spent, Duration::from_secs(60)));
    }

    #[test]
    fn others_are_reached_only_when_threads_or_time_run_out() {
        let none = Omissions::default();
        let owner = Omissions { as_of_owner: true, ..none };
        let most = Omissions { most: true, ..none };
        let memory_and_hash = Omissions { memory_and_hash: true, ..none };
        for (counts, doubtful, whole) in [
            (ReadCounts::default(), none, none),
            (ReadCounts { of_owner: 1, ..ReadCounts::default() }, none, none),
            (ReadCounts { of_owner: 2, ..ReadCounts::default() }, owner, none),
            (ReadCounts { of_owner: 4, ..ReadCounts::default() }, owner, owner),
            (ReadCounts { abandoned: 15, ..ReadCounts::default() }, none, none),
            (ReadCounts { abandoned: 16, ..ReadCounts::default() }, most, none),
            (ReadCounts { abandoned: 20, ..ReadCounts::default() }, most, most),
            (ReadCounts { hung_in_pass: 2, ..ReadCounts::default() }, none, none),
            (ReadCounts { hung_in_pass: 3, ..ReadCounts::default() }, most, none),
            (ReadCounts { hung_in_pass: 4, ..ReadCounts::default() }, most, most),
            (ReadCounts { slow_in_pass: 2, ..ReadCounts::default() }, none, none),
            (ReadCounts { slow_in_pass: 3, ..ReadCounts::default() }, memory_and_hash, none),
            (ReadCounts { slow_in_pass: 4, ..ReadCounts::default() }, memory_and_hash, memory_and_hash),
        ] {
            assert_eq!((left_out(counts, true), left_out(counts, false)), (doubtful, whole), "{counts:?}");
        }
    }
}
