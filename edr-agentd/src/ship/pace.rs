//! Waiting times: after a failure, and between frames after an outage. No clock, no I/O.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// A backoff that doubles up to one minute. Each wait is a random time between half and all of its length, so that the
/// agents of a fleet do not return at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Starts again with the shortest wait, after a success.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns the next wait; `random` is any number.
    pub(super) fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LAST);
        let half = whole / 2;
        half + half.mul_f64((random % 1_000) as f64 / 1_000.0)
    }
}

/// Returns the wait after a frame of `bytes` while more frames are waiting, so that the rate stays within `bytes_max`
/// per second. `took` is the time already spent on sending the frame.
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
