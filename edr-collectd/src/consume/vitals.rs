//! Signs of life of the stages, for the watchdog.
//!
//! A stage that waits for work is alive. A stage at work must give a sign within a limit: at the begin of each step,
//! and at each progress inside a long step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two signs of `poll`, whose loop turns once a second.
const POLL_MAX: Duration = Duration::from_secs(20);
/// Longest step of the other stages. A commit or a vacuum on a slow disk takes seconds, perhaps minutes.
const STEP_MAX: Duration = Duration::from_secs(600);

/// Signs of life of all stages.
#[derive(Debug)]
pub struct Vitals {
    /// Reading of Kafka.
    pub poll: Vital,
    /// Commits to the archive.
    pub commit: Vital,
    /// Publication to readers.
    pub publish: Vital,
    /// Saving of hosts, and upkeep of all tables.
    pub derive: Vital,
    /// Opening of the newest snapshots for the list of hosts.
    pub list: Vital,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            poll: Vital::new("poll", POLL_MAX),
            commit: Vital::new("commit", STEP_MAX),
            publish: Vital::new("publish", STEP_MAX),
            derive: Vital::new("derive", STEP_MAX),
            list: Vital::new("list", STEP_MAX),
        }
    }
}

impl Vitals {
    /// Returns the name of a stage without a sign of life within its limit, and the time since the last sign.
    pub fn hung(&self) -> Option<(&'static str, Duration)> {
        let Self { poll, commit, publish, derive, list } = self;
        let stages = [poll, commit, publish, derive, list];
        let mut silent = stages.into_iter().filter_map(|vital| Some((vital, vital.silence()?)));
        silent.find(|(vital, silence)| *silence > vital.silence_max).map(|(vital, silence)| (vital.stage, silence))
    }
}

/// Signs of life of one stage.
#[derive(Debug)]
pub struct Vital {
    stage: &'static str,
    silence_max: Duration,
    created: Instant,
    /// Time of the last sign, in ms since `created`, plus 1; 0 while the stage waits for work.
    signed: AtomicU64,
}

impl Vital {
    fn new(stage: &'static str, silence_max: Duration) -> Self {
        Self { stage, silence_max, created: Instant::now(), signed: AtomicU64::new(0) }
    }

    /// Gives a sign of life: a step begins or makes progress.
    pub(super) fn sign(&self) {
        self.signed.store(self.elapsed_ms() + 1, Ordering::Relaxed);
    }

    /// Begins a step, which ends with the drop of the returned value.
    pub fn step(&self) -> StageStep<'_> {
        self.sign();
        StageStep(self)
    }

    /// Returns the time since the last sign; `None` while the stage waits for work.
    pub fn silence(&self) -> Option<Duration> {
        let signed = self.signed.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.elapsed_ms().saturating_sub(signed)))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

/// A step under way.
#[derive(Debug)]
pub struct StageStep<'a>(&'a Vital);

impl Drop for StageStep<'_> {
    fn drop(&mut self) {
        self.0.signed.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_at_work_must_give_signs_and_a_waiting_stage_need_not() {
        let mut vitals = Vitals::default();
        vitals.commit.silence_max = Duration::ZERO;
        assert_eq!((vitals.hung(), vitals.commit.silence()), (None, None));
        let step = vitals.commit.step();
        while vitals.hung().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(vitals.hung().unwrap().0, "commit");
        drop(step);
        assert_eq!((vitals.hung(), vitals.commit.silence()), (None, None));
        vitals.poll.sign();
        assert!(vitals.poll.silence().unwrap() < POLL_MAX);
        assert_eq!(vitals.hung(), None);
    }
}
