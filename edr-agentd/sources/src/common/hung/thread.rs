//! A thread that can be abandoned, and the wait for its result.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::account::ThreadAccount;
use super::policy::{AbandonCause, HUNG_AFTER, ThreadSample, ThreadWatch, WatchDecision};
use super::progress::{JobProgress, ReadPosition};
use crate::common::calls::{self, Calls};
use crate::common::clock::{nanos, thread_cpu};
use crate::common::heartbeat::Heartbeat;

/// Runs jobs that may hang, on a thread that is reused for the next job (20 µs per job). A hung thread is abandoned,
/// and the next job gets a new thread.
#[derive(Debug)]
pub(crate) struct AbandonableThread {
    name: &'static str,
    hung_after: Duration,
    abandoned_max: usize,
    /// Beats at each look: a starved job takes longer than any watchdog waits.
    heartbeat: Arc<Heartbeat>,
    /// The thread that waits for a job.
    idle: Option<Worker>,
    abandoned: Vec<AbandonedThread>,
    spent: Duration,
}

/// A thread that waits for jobs.
#[derive(Debug)]
struct Worker {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
    /// `None` until the thread has run for the first time.
    tid: Arc<OnceLock<i32>>,
    /// As of the last look.
    account: ThreadAccount,
}

/// A job on an abandoned thread.
#[derive(Debug, Clone)]
pub(crate) struct AbandonedThread {
    /// Where the job hung.
    pub(crate) place: ReadPosition,
    /// Why the thread was abandoned, in words.
    pub(crate) detail: String,
    /// Shared with the thread while the job runs.
    job: Weak<JobProgress>,
}

impl AbandonedThread {
    pub(crate) fn new(place: ReadPosition, detail: String, job: &Arc<JobProgress>) -> Self {
        Self { place, detail, job: Arc::downgrade(job) }
    }

    /// True when the job has ended after all.
    pub(crate) fn has_returned(&self) -> bool {
        self.job.strong_count() == 0
    }
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("{}", .0.detail)]
    Abandoned(AbandonedThread),
    #[error("not read: {0} earlier reads hang")]
    Full(usize),
    #[error("start a thread that may hang: {0}")]
    NoThread(#[from] std::io::Error),
}

impl AbandonableThread {
    /// Runs jobs on threads called `name`, of which up to `abandoned_max` may hang.
    pub(crate) fn new(name: &'static str, abandoned_max: usize) -> Self {
        let (heartbeat, abandoned, spent) = (Arc::default(), Vec::new(), Duration::ZERO);
        Self { name, hung_after: HUNG_AFTER, abandoned_max, heartbeat, idle: None, abandoned, spent }
    }

    pub(crate) fn with_hung_after(mut self, hung_after: Duration) -> Self {
        self.hung_after = hung_after;
        self
    }

    pub(crate) fn beating(mut self, heartbeat: &Arc<Heartbeat>) -> Self {
        self.heartbeat = Arc::clone(heartbeat);
        self
    }

    /// Begins a round of jobs.
    pub(crate) fn start_round(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// Blocked and CPU time of the jobs of this round. Very short jobs are not measured.
    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// Runs `job` and adds its cost to the calling thread's [`Calls`].
    ///
    /// # Errors
    /// When the job is abandoned or cannot be started. The result of an abandoned job is discarded.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&Arc<JobProgress>) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.abandoned.retain(|abandoned| !abandoned.has_returned());
        if self.abandoned.len() >= self.abandoned_max {
            return Err(NoAnswer::Full(self.abandoned_max));
        }
        let mut worker = self.idle.take().map_or_else(|| Worker::start(self.name), Ok)?;
        let mut watch = ThreadWatch::new(self.hung_after, self.spent, worker.account);
        let progress = Arc::new(JobProgress::default());
        progress.set_spent(self.spent);
        let (answer, answered) = mpsc::sync_channel(1);
        let (for_job, begun) = (Arc::clone(&progress), Instant::now());
        let job = move || {
            let before = cost();
            let value = job(&for_job);
            // Nobody receives from an abandoned thread.
            let _ = answer.send((value, cost() - before, begun.elapsed()));
        };
        // After a panic the channel of the answer is closed, too, so the error is found below.
        let _ = worker.jobs.send(Box::new(job));
        let cause = loop {
            match answered.recv_timeout(watch.interval()) {
                Ok((value, cost, length)) => {
                    if watch.is_measured(length) {
                        watch.look(ThreadSample { at: length, ..worker.look(begun, &progress) });
                    }
                    (self.spent, worker.account) = (watch.spent, watch.account());
                    self.idle = Some(worker);
                    calls::add(cost);
                    return Ok(value);
                }
                Err(RecvTimeoutError::Disconnected) => break AbandonCause::Panic,
                Err(RecvTimeoutError::Timeout) => self.heartbeat.beat(),
            }
            let look = worker.look(begun, &progress);
            match watch.look(look) {
                WatchDecision::Wait => {}
                WatchDecision::Slow => progress.set_slow(look.place),
                WatchDecision::Abandon(cause) => break cause,
            }
            progress.set_spent(watch.spent);
        };
        self.spent = watch.spent;
        // Without schedstat a wait for a processor between two looks counts as blocked time.
        let is_counted = cause == AbandonCause::Panic || watch.account().queued.is_some();
        let reservation = if is_counted { "" } else { ", by the thread's state alone: no schedstat here" };
        let abandoned = AbandonedThread::new(progress.look().1, format!("{cause}{reservation}"), &progress);
        self.abandoned.push(abandoned.clone());
        Err(NoAnswer::Abandoned(abandoned))
    }
}

impl Drop for AbandonableThread {
    fn drop(&mut self) {
        if let Some(Worker { jobs, thread, .. }) = self.idle.take() {
            drop(jobs);
            // An error is a panic, already reported.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn start(name: &str) -> std::io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let tid = Arc::new(OnceLock::new());
        let own_tid = Arc::clone(&tid);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ = own_tid.set(nix::unistd::gettid().as_raw());
            received.into_iter().for_each(|job| job());
        })?;
        Ok(Self { jobs, thread, tid, account: ThreadAccount::default() })
    }

    /// Looks at the thread. Before its first instruction a thread waits for a processor. Without an account the clock
    /// decides.
    fn look(&self, begun: Instant, progress: &JobProgress) -> ThreadSample {
        let account = match self.tid.get() {
            Some(tid) => ThreadAccount::read(*tid, &mut Vec::new()).unwrap_or_default(),
            None => ThreadAccount { is_runnable: true, ..self.account },
        };
        let (beats, place) = progress.look();
        ThreadSample { at: begun.elapsed(), account, beats, place }
    }
}

/// System calls and CPU time of the calling thread.
fn cost() -> Calls {
    Calls { cpu_ns: nanos(thread_cpu()), ..calls::so_far() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(hung_after_ms: u64) -> AbandonableThread {
        AbandonableThread::new("test", 3).with_hung_after(Duration::from_millis(hung_after_ms))
    }

    #[test]
    fn a_result_comes_with_its_cost_from_the_same_thread_each_time() {
        let (mut thread, before) = (thread(2_000), calls::so_far());
        let mut run = || {
            thread.run(|_| {
                calls::got(7);
                nix::unistd::gettid()
            })
        };
        assert_eq!(run().unwrap(), run().unwrap());
        let cost = calls::so_far() - before;
        assert_eq!((cost.made, cost.bytes), (2, 14));
        assert!(cost.cpu_ns > 0);
    }

    #[test]
    fn a_job_that_moves_is_waited_for_and_counts_as_time_spent() {
        let mut thread = thread(200);
        let mut run = || {
            let answer = thread.run(|progress| {
                for _ in 0..30 {
                    thread::sleep(Duration::from_millis(10));
                    progress.beat();
                }
                progress.spent()
            });
            (answer.unwrap(), thread.spent())
        };
        let (seen, after) = run();
        assert!(seen > Duration::from_millis(100) && after >= seen, "{seen:?} {after:?}");
        assert!(run().0 >= after, "a round has many jobs");
        thread.start_round();
        assert_eq!(thread.spent(), Duration::ZERO);
    }

    #[test]
    fn a_job_that_computes_is_waited_for() {
        let mut thread = thread(50);
        let job = |progress: &Arc<JobProgress>| {
            progress.at(1);
            while thread_cpu() < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
            progress.take_slow(0)
        };
        assert_eq!(thread.run(job).unwrap(), None);
    }

    #[test]
    fn a_bounded_number_of_threads_is_abandoned_and_a_return_makes_room() {
        let mut thread = thread(20);
        let mut hanging = Vec::new();
        for pid in 1..=3 {
            let (release, held) = mpsc::channel::<()>();
            // The end of the other side is the release.
            let answer = thread.run(move |progress| {
                progress.begin(pid);
                held.recv().is_err()
            });
            let Err(NoAnswer::Abandoned(abandoned)) = answer else { panic!("{answer:?}") };
            assert_eq!(abandoned.place, ReadPosition { pid, step: 0 });
            assert!(abandoned.detail.starts_with("no answer for "), "{abandoned:?}");
            hanging.push((release, abandoned));
        }
        assert!(matches!(thread.run(|_| ()), Err(NoAnswer::Full(3))));
        assert!(hanging.iter().all(|(_, abandoned)| !abandoned.has_returned()));
        let (release, abandoned) = hanging.pop().unwrap();
        drop(release);
        while !abandoned.has_returned() {
            thread::yield_now();
        }
        thread.run(|_| ()).unwrap();
    }

    #[test]
    fn a_panic_is_no_result_and_the_next_job_has_another_thread() {
        let mut thread = thread(2_000);
        let answer = thread.run(|_| assert!(std::hint::black_box(false), "a panic on purpose"));
        let Err(NoAnswer::Abandoned(abandoned)) = answer else { panic!("{answer:?}") };
        assert_eq!(abandoned.detail, "the reading thread panicked");
        thread.run(|_| ()).unwrap();
    }
}
