//! The state of shipping, as the status shows it.

use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::status::KafkaStatus;

/// The state of shipping, for the status line.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<HealthState>,
}

/// The state behind the lock of [`Health`].
#[derive(Debug, Default, Clone)]
struct HealthState {
    acknowledged: Option<Instant>,
    trouble: Option<(Instant, String)>,
    /// The last fault, over or not.
    last_trouble: Option<(Instant, String)>,
}

impl Health {
    pub(super) fn acknowledged(&self, now: Instant) {
        let mut state = self.lock();
        (state.acknowledged, state.trouble) = (Some(now), None);
    }

    pub(super) fn trouble(&self, now: Instant, words: String) {
        let mut state = self.lock();
        let since = state.trouble.as_ref().map_or(now, |(since, _)| *since);
        state.last_trouble = Some((now, words.clone()));
        state.trouble = Some((since, words));
    }

    /// True while frames cannot be delivered.
    pub fn is_in_trouble(&self) -> bool {
        self.lock().trouble.is_some()
    }

    /// The state as text: `Kafka acknowledged 3 s ago`, `Kafka for 300 s: no broker of …`.
    pub fn in_words(&self, now: Instant) -> String {
        let state = self.lock().clone();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        match (state.trouble, state.acknowledged) {
            (Some((since, words)), _) => format!("Kafka for {} s: {words}", seconds(since)),
            (None, Some(at)) => format!("Kafka acknowledged {} s ago", seconds(at)),
            (None, None) => "Kafka not asked yet".to_owned(),
        }
    }

    /// The state for [`crate::status`].
    pub fn status(&self, now: Instant) -> KafkaStatus {
        let state = self.lock().clone();
        let age_ms =
            |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        KafkaStatus {
            last_ack_age_ms: state.acknowledged.map(age_ms),
            trouble_for_ms: state.trouble.as_ref().map(|(since, _)| age_ms(*since)),
            last_error: state.last_trouble.as_ref().map(|(_, words)| words.clone()),
            last_error_age_ms: state.last_trouble.map(|(at, _)| age_ms(at)),
            ..KafkaStatus::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock()
    }
}
