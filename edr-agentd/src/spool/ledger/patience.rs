//! Schedule of retries for an unreadable frame, and the end of patience.

use std::time::{Duration, Instant};

/// Limits on the retries for an unreadable frame before the frame counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first wait; each later wait is twice as long as the previous.
    pub first: Duration,
    /// The longest wait: frames on a repaired disk are read again after this time, at the latest.
    pub last: Duration,
    /// Attempts before a frame can be given up.
    pub tries: u32,
    /// Time since the first failed attempt before a frame can be given up.
    pub lasting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first: seconds(1), last: seconds(15), tries: 10, lasting: seconds(300) }
    }
}

/// The wait of an epoch for its next frame.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) since: Instant,
    /// Time of the next attempt.
    pub(super) until: Instant,
    /// Frame and fault, for the status line.
    pub(super) words: String,
    tries: u32,
}

impl Wait {
    /// A wait without a failed attempt.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, until: now, words: String::new(), tries: 0 }
    }

    /// Notes a failed attempt. True when patience is over, also for later frames of the epoch until a read succeeds.
    pub(super) fn failed(&mut self, patience: &Patience, now: Instant, words: String) -> bool {
        let step = patience.first.saturating_mul(1 << self.tries.min(16)).min(patience.last);
        self.tries = self.tries.saturating_add(1);
        self.until = now + step;
        self.words = words;
        self.tries >= patience.tries && now.saturating_duration_since(self.since) >= patience.lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_patience_is_over() {
        let patience = Patience::default();
        let started = Instant::now();
        let (mut now, mut wait, mut steps) = (started, Wait::new(started), Vec::new());
        while !wait.failed(&patience, now, "broken".to_owned()) {
            steps.push((wait.until - now).as_secs());
            now = wait.until;
        }
        assert_eq!(steps[..6], [1, 2, 4, 8, 15, 15]);
        let lasted = now - started;
        assert!(lasted >= patience.lasting && lasted < patience.lasting + patience.last, "{lasted:?}");
        assert!(wait.failed(&patience, now, String::new()), "the next frame is given up at once");
    }
}
