//! Liveness of a host, and age of its data.

use edr_wire::limits::INTERVAL_NS_MAX;

use crate::parts::when;

const SECOND_NS: i64 = 1_000_000_000;

/// State of a host, as far as the collector can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Snapshots arrive.
    Live,
    /// No snapshot arrived for three intervals: host, agent, network or broker failed.
    Silent,
    /// The agent stopped cleanly and announced the stop.
    Stopped,
    /// An earlier moment, as requested.
    Past,
}

impl Pulse {
    /// The names of the states in the list of hosts.
    pub(crate) const STATES: [&str; 3] = ["live", "silent", "stopped"];

    /// Returns the state of a host from its newest snapshot.
    pub(crate) fn of(received_ns: i64, interval_ns: u64, bye: bool, now_ns: i64) -> Self {
        if bye {
            Self::Stopped
        } else if now_ns.saturating_sub(received_ns) > silent_after_ns(interval_ns) {
            Self::Silent
        } else {
            Self::Live
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Past => "past",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Live => "snapshots arrive",
            Self::Silent => "no snapshot arrived for three intervals",
            Self::Stopped => "the agent was stopped cleanly",
            Self::Past => "an earlier moment",
        }
    }
}

/// Returns the time without a snapshot, in ns, after which a host is silent: three intervals, but at least 30 s and at
/// most three hours, whatever the host claims.
pub(crate) fn silent_after_ns(interval_ns: u64) -> i64 {
    (believed_ns(interval_ns) * 3).max(30 * SECOND_NS)
}

/// Limits an interval to the longest that an agent may have.
fn believed_ns(interval_ns: u64) -> i64 {
    i64::try_from(interval_ns.min(INTERVAL_NS_MAX)).unwrap_or(i64::MAX / 4)
}

/// The age of a snapshot: "as of 03:12:40 UTC, 4 s ago".
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) pulse: Pulse,
    pub(crate) iso: String,
    pub(crate) clock: String,
    pub(crate) age: String,
    pub(crate) age_ms: i64,
    pub(crate) silent_after_ms: i64,
    /// A relevant delay, or a relevant difference of the two clocks.
    pub(crate) note: Option<String>,
}

impl Fresh {
    pub(crate) fn new(captured_ns: i64, received_ns: i64, interval_ns: u64, pulse: Pulse, now_ns: i64) -> Self {
        let tolerated_ns = believed_ns(interval_ns).max(10 * SECOND_NS);
        let on_the_way_ns = received_ns.saturating_sub(captured_ns);
        let note = if interval_ns > INTERVAL_NS_MAX {
            Some("the agent claims an impossible interval; an interval of an hour is assumed".to_owned())
        } else if on_the_way_ns > tolerated_ns {
            Some(format!(
                "arrived {} after the capture: delayed on the way, or the host's clock is behind",
                when::span(on_the_way_ns)
            ))
        } else if on_the_way_ns < -2 * SECOND_NS {
            Some(format!("the host's clock is {} ahead of the collector's", when::span(on_the_way_ns)))
        } else {
            None
        };
        // A capture "in the future" has no age; the time of receipt is used instead.
        let since_ns = if on_the_way_ns < 0 { received_ns } else { captured_ns };
        let age_ns = now_ns.saturating_sub(since_ns).max(0);
        Self {
            pulse,
            iso: when::iso(captured_ns),
            clock: when::clock(captured_ns, now_ns),
            age: when::span(age_ns),
            age_ms: age_ns / 1_000_000,
            silent_after_ms: silent_after_ns(interval_ns) / 1_000_000,
            note,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = SECOND_NS;

    #[test]
    fn silence_and_goodbye_are_two_things() {
        let interval = 10 * S as u64;
        assert_eq!(Pulse::of(0, interval, false, 30 * S), Pulse::Live);
        assert_eq!(Pulse::of(0, interval, false, 31 * S), Pulse::Silent);
        assert_eq!(Pulse::of(0, interval, true, 31 * S), Pulse::Stopped);
        // No host counts as alive forever.
        assert_eq!(Pulse::of(0, u64::MAX, false, 3 * 3_600 * S), Pulse::Live);
        assert_eq!(Pulse::of(0, u64::MAX, false, 3 * 3_600 * S + 1), Pulse::Silent);
        assert_eq!(Pulse::of(i64::MIN, u64::MAX, false, i64::MAX), Pulse::Silent);
        assert!(Fresh::new(0, 0, u64::MAX, Pulse::Live, 0).note.unwrap().contains("an impossible interval"));
    }

    #[test]
    fn a_delay_and_a_wrong_clock_are_named() {
        let interval = 10 * S as u64;
        let now = 1_000_000 * S;
        let fresh = Fresh::new(now - 4 * S, now - 3 * S, interval, Pulse::Live, now);
        assert_eq!((fresh.age.as_str(), fresh.note), ("4 s", None));
        let waited = Fresh::new(now - 7_300 * S, now - S, interval, Pulse::Live, now);
        assert_eq!(waited.age, "2 h 1 min");
        assert!(waited.note.is_some_and(|note| note.contains("arrived 2 h 1 min after")));
        let ahead = Fresh::new(now + 600 * S, now - 2 * S, interval, Pulse::Live, now);
        assert_eq!(ahead.age, "2 s");
        assert!(ahead.note.is_some_and(|note| note.contains("10 min ahead")));
    }
}
