//! Questions to the kernel that may never be answered, asked by a thread that can be left behind.
//!
//! What lies below `/proc/PID` belongs to a process that may see to it that the answer does not come: inside an
//! execve(2) that waits for a file system of its own, Linux 6.18 holds back most of it. A thread that waits for that
//! cannot be called back, so the one that everything hangs on never asks itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Calls, calls};
use crate::clock::{nanos, thread_cpu};

/// Threads of one asker that are left behind at most; after that nothing is asked until one of them is back.
pub(super) const LEFT_BEHIND_MAX: usize = 16;
/// How long a question may take without anything coming back.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Counts what came back, so that who waits can tell slow from stuck.
#[derive(Debug, Default)]
pub(super) struct Beats(AtomicU64);

impl Beats {
    /// One more thing came back.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many things came back.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Asks questions one after the other, each with a thread of its own (some 30 µs).
#[derive(Debug)]
pub(super) struct Watched {
    left_behind: Arc<AtomicUsize>,
    stuck_after: Duration,
}

impl Default for Watched {
    fn default() -> Self {
        Self { left_behind: Arc::default(), stuck_after: STUCK_AFTER }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer for {} ms", .0.as_millis())]
    Stuck(Duration),
    #[error("not asked: {LEFT_BEHIND_MAX} earlier questions hang")]
    Full,
    #[error("start a thread that may hang: {0}")]
    NoThread(#[from] std::io::Error),
}

#[derive(Debug)]
enum Slot<T> {
    Asked,
    Answered(T),
    GivenUp,
}

impl Watched {
    #[cfg(test)]
    pub(super) fn with_patience(stuck_after: Duration) -> Self {
        Self { stuck_after, ..Self::default() }
    }

    /// Has `question` answered, as long as it beats, and for twice the time after which a silent one is given up at most.
    /// What it costs is added to the calling thread's [`Calls`].
    ///
    /// # Errors
    /// When the answer does not come: then the question goes on, and its answer goes nowhere.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Beats) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        if self.left_behind.load(Ordering::Relaxed) >= LEFT_BEHIND_MAX {
            return Err(NoAnswer::Full);
        }
        let beats = Arc::new(Beats::default());
        let slot = Arc::new((Mutex::new(Slot::Asked), Condvar::new()));
        let (their_beats, their_slot) = (Arc::clone(&beats), Arc::clone(&slot));
        let left_behind = Arc::clone(&self.left_behind);
        let thread = thread::Builder::new().name("edr-watched".to_owned()).spawn(move || {
            let answer = question(&their_beats);
            let cost = Calls { cpu_ns: nanos(thread_cpu()), ..calls::so_far() };
            let (slot, changed) = &*their_slot;
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*slot, Slot::GivenUp) {
                left_behind.fetch_sub(1, Ordering::Relaxed);
            } else {
                *slot = Slot::Answered((answer, cost));
                changed.notify_one();
            }
        })?;
        let (begun, longest) = (Instant::now(), 2 * self.stuck_after);
        let (slot, changed) = &*slot;
        let mut guard = slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let before = beats.count();
            let is_open = |slot: &mut Slot<_>| matches!(slot, Slot::Asked);
            let (now, timeout) =
                changed.wait_timeout_while(guard, self.stuck_after, is_open).unwrap_or_else(PoisonError::into_inner);
            guard = now;
            match std::mem::replace(&mut *guard, Slot::Asked) {
                Slot::Answered((answer, cost)) => {
                    calls::add(cost);
                    return Ok(answer);
                }
                _ if (timeout.timed_out() && beats.count() == before) || begun.elapsed() >= longest => {
                    *guard = Slot::GivenUp;
                    // One that panicked is not left behind.
                    self.left_behind.fetch_add(usize::from(!thread.is_finished()), Ordering::Relaxed);
                    return Err(NoAnswer::Stuck(self.stuck_after));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_answer_comes_with_what_it_cost() {
        let before = calls::so_far();
        let answer = Watched::default().ask(|_| {
            calls::got(7);
            42
        });
        assert_eq!(answer.unwrap(), 42);
        let cost = calls::so_far() - before;
        assert_eq!((cost.made, cost.bytes), (1, 7));
        assert!(cost.cpu_ns > 0);
    }

    #[test]
    fn who_is_slow_and_moves_is_waited_for() {
        let watched = Watched::with_patience(Duration::from_millis(200));
        let answer = watched.ask(|beats| {
            for _ in 0..30 {
                thread::sleep(Duration::from_millis(10));
                beats.beat();
            }
        });
        assert!(answer.is_ok());
    }

    #[test]
    fn some_are_left_behind_and_one_that_comes_back_makes_room() {
        let watched = Watched::with_patience(Duration::from_millis(20));
        let mut hanging = Vec::new();
        for _ in 0..LEFT_BEHIND_MAX {
            let (release, held) = mpsc::channel::<()>();
            // Its end is the other side's going away.
            assert!(matches!(watched.ask(move |_| held.recv().is_err()), Err(NoAnswer::Stuck(_))));
            hanging.push(release);
        }
        assert!(matches!(watched.ask(|_| ()), Err(NoAnswer::Full)));
        hanging.pop();
        while watched.left_behind.load(Ordering::Relaxed) == LEFT_BEHIND_MAX {
            thread::yield_now();
        }
        watched.ask(|_| ()).unwrap();
    }
}
