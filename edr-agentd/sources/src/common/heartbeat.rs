//! Progress of a thread, for the watchdog. systemd is notified only when every thread has moved since the last
//! notification, or is idle: a timer alone would hide a hung thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::common::clock::{monotonic, nanos};

/// Progress of one thread.
#[derive(Debug, Default)]
pub struct Heartbeat {
    beats: AtomicU64,
    /// Time of the last beat, ns (`CLOCK_MONOTONIC`); 0 before the first.
    last_ns: AtomicU64,
    /// True in a wait that ends by itself.
    idle: AtomicBool,
}

impl Heartbeat {
    /// The thread moved.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.last_ns.store(nanos(monotonic()), Ordering::Relaxed);
    }

    /// Progress in words: `waits for its next work, since 3 s`, `has not moved for 31 s`.
    pub fn in_words(&self) -> String {
        let last = self.last_ns.load(Ordering::Relaxed);
        let seconds = Duration::from_nanos(nanos(monotonic()).saturating_sub(last)).as_secs();
        match (self.idle.load(Ordering::Relaxed), last) {
            (true, _) => format!("waits for its next work, since {seconds} s"),
            (false, 0) => "has not moved since its start".to_owned(),
            (false, _) => format!("has not moved for {seconds} s"),
        }
    }

    /// Marks the thread as idle during `wait`.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.idle.store(true, Ordering::Relaxed);
        self.last_ns.store(nanos(monotonic()), Ordering::Relaxed);
        let result = wait();
        self.idle.store(false, Ordering::Relaxed);
        self.beat();
        result
    }
}

/// The current stage of a tick, and its start (`CLOCK_MONOTONIC`). One for the process, which takes one snapshot at a
/// time.
static STAGE: Mutex<Option<(&'static str, Duration)>> = Mutex::new(None);

/// A stage of a tick begins.
pub(crate) fn begin(stage: &'static str) {
    set_stage(Some((stage, monotonic())));
}

/// Ends the current stage.
pub(crate) fn end() {
    set_stage(None);
}

fn set_stage(stage: Option<(&'static str, Duration)>) {
    *STAGE.lock() = stage;
}

/// The current stage in words; never waits.
pub fn stage() -> Option<String> {
    let stage = STAGE.try_lock().and_then(|stage| *stage);
    stage.map(|(name, since)| format!("{name}, for {} s", monotonic().saturating_sub(since).as_secs()))
}

/// Compares a heartbeat with the last look.
#[derive(Debug, Default)]
pub struct Observer {
    seen: u64,
}

impl Observer {
    /// True when the thread moved since the last look, or is idle.
    pub fn is_alive(&mut self, heartbeat: &Heartbeat) -> bool {
        let beats = heartbeat.beats.load(Ordering::Relaxed);
        let moved = std::mem::replace(&mut self.seen, beats) != beats;
        moved || heartbeat.idle.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_neither_moves_nor_waits_is_not_alive() {
        let (heartbeat, mut observer) = (Heartbeat::default(), Observer::default());
        assert!(!observer.is_alive(&heartbeat));
        heartbeat.beat();
        assert!(observer.is_alive(&heartbeat));
        assert!(!observer.is_alive(&heartbeat));
        heartbeat.idle(|| assert!(observer.is_alive(&heartbeat) && observer.is_alive(&heartbeat)));
        assert!(observer.is_alive(&heartbeat));
        assert!(!observer.is_alive(&heartbeat));
    }

    #[test]
    fn a_heartbeat_has_the_time_since_its_last_beat() {
        let heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.in_words(), "has not moved since its start");
        heartbeat.idle(|| assert_eq!(heartbeat.in_words(), "waits for its next work, since 0 s"));
        heartbeat.last_ns.fetch_sub(31_000_000_000, Ordering::Relaxed);
        assert_eq!(heartbeat.in_words(), "has not moved for 31 s");
    }
}
