//! How long to wait: after a failure, and between frames while catching up. No clock, no I/O.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// Waits that double up to a minute, each between half and all of its length, so that a fleet does not come back as
/// one.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// After a success.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The next wait; `random` is any number.
    pub(super) fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LAST);
        let half = whole / 2;
        half + half.mul_f64((random % 1_000) as f64 / 1_000.0)
    }
}

/// The wait after a frame of `bytes` while more wait behind it, so that a drain takes no more than `bytes_max` a
/// second. `took` is what sending it took already.
pub(super) fn drain_wait(bytes: usize, bytes_max: u64, took: Duration) -> Duration {
    let fair = Duration::from_secs_f64(bytes as f64 / bytes_max.max(1) as f64);
    fair.saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_and_never_agree() {
        let mut backoff = Backoff::new();
        let longest: Vec<u64> = (0..9).map(|_| backoff.wait(999).as_millis() as u64).collect();
        assert_eq!(longest, [999, 1999, 3998, 7996, 15992, 31984, 59970, 59970, 59970]);
        backoff.reset();
        assert_eq!(backoff.wait(0), FIRST / 2);
    }

    #[test]
    fn a_drain_keeps_its_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(drain_wait(2 << 20, 1 << 20, second), second);
        assert_eq!(drain_wait(1 << 20, 2 << 20, second), Duration::ZERO);
    }
}
