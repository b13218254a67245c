//! Epochs whose next frame cannot be read now, and when it is tried again. No I/O, no clock.
//!
//! A frame that cannot be read holds back the later ones of its epoch, so that an epoch arrives in the order of its
//! making. It holds back no other epoch: what is made while a disk is away has an epoch of its own and goes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edr_wire::Epoch;

/// How long a frame that cannot be read is tried again before it counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first wait; each is twice the one before.
    pub first: Duration,
    /// The longest wait. Whoever mends the disk sees frames again after it, at the latest.
    pub last: Duration,
    /// A frame is given up after so many tries at least,
    pub tries: u32,
    /// and after so long at least, and only while other frames can be read.
    pub lasting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first: seconds(1), last: seconds(15), tries: 10, lasting: seconds(300) }
    }
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    tries: u32,
    /// Not tried again before.
    until: Instant,
    words: String,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    epochs: BTreeMap<Epoch, Wait>,
    pub(super) patience: Patience,
}

impl Held {
    /// Whether this epoch's next frame is not to be tried yet.
    pub(super) fn holds(&self, epoch: Epoch, now: Instant) -> bool {
        self.epochs.get(&epoch).is_some_and(|wait| wait.until > now)
    }

    /// A try failed: the next one comes after a wait. True when the epoch waited long enough. That stays so for the
    /// frames behind it until one can be read: they waited as long.
    pub(super) fn failed(&mut self, epoch: Epoch, now: Instant, words: String) -> bool {
        let Patience { first, last, tries, lasting } = self.patience;
        let wait = self.epochs.entry(epoch).or_insert(Wait { since: now, tries: 0, until: now, words: String::new() });
        let step = first.saturating_mul(1 << wait.tries.min(16)).min(last);
        wait.tries = wait.tries.saturating_add(1);
        wait.until = now + step;
        wait.words = words;
        wait.tries >= tries && now.saturating_duration_since(wait.since) >= lasting
    }

    /// The frame was given up: the next one of its epoch is tried at once.
    pub(super) fn given_up(&mut self, epoch: Epoch, now: Instant) {
        if let Some(wait) = self.epochs.get_mut(&epoch) {
            wait.until = now;
        }
    }

    /// A frame of this epoch was read. True when the epoch had been held.
    pub(super) fn read(&mut self, epoch: Epoch) -> bool {
        self.epochs.remove(&epoch).is_some()
    }

    /// Epochs that have nothing to send any more.
    pub(super) fn retain(&mut self, waits: impl Fn(Epoch) -> bool) {
        self.epochs.retain(|&epoch, _| waits(epoch));
    }

    /// When the next epoch that is held is to be tried again.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.epochs.values().map(|wait| wait.until).filter(|until| *until > now).min()
    }

    /// What cannot be read, and since when: of the epoch that waits longest.
    pub(super) fn in_words(&self, now: Instant) -> Option<String> {
        let wait = self.epochs.values().min_by_key(|wait| wait.since)?;
        let seconds = now.saturating_duration_since(wait.since).as_secs();
        Some(format!("for {seconds} s: {}; it is tried again, {} epochs wait", wait.words, self.epochs.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_held_longer_each_time_until_patience_is_over() {
        let (bad, other) = (Epoch([1; 8]), Epoch([2; 8]));
        let mut held = Held::default();
        let started = Instant::now();
        let (mut now, mut waits) = (started, Vec::new());
        while !held.failed(bad, now, "it is broken".to_owned()) {
            assert!(held.holds(bad, now) && !held.holds(other, now));
            let next = held.next(now).unwrap();
            waits.push((next - now).as_secs());
            now = next;
            assert!(!held.holds(bad, now));
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 15, 15]);
        let lasted = now - started;
        assert!(lasted >= held.patience.lasting && lasted < held.patience.lasting + held.patience.last, "{lasted:?}");
        // The next one is tried at once, and given up at once when it is no better.
        held.given_up(bad, now);
        assert!(!held.holds(bad, now) && held.failed(bad, now, String::new()));
        assert!(held.read(bad) && !held.read(bad) && !held.failed(bad, now, String::new()));
        held.retain(|_| false);
        assert_eq!((held.next(now), held.in_words(now)), (None, None));
    }
}
