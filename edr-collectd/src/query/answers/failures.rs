//! Remembers what was found unreadable, so that no request repeats an expensive attempt.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures remembered; a reason has a few hundred bytes.
const FAILURES_MAX: usize = 16_384;

/// Failures with their reasons, oldest first.
#[derive(Debug)]
pub(super) struct Failures<K>(Mutex<State<K>>);

#[derive(Debug)]
struct State<K> {
    known: HashMap<K, (Instant, String)>,
    order: VecDeque<K>,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::new(State { known: HashMap::new(), order: VecDeque::new() }))
    }
}

impl<K: Hash + Eq + Copy> Failures<K> {
    /// Returns the reason of a failure that is still remembered.
    pub(super) fn get(&self, key: &K) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, reason) = state.known.get(key)?;
        (Instant::now() < *until).then(|| reason.clone())
    }

    /// Remembers a failure for some time.
    pub(super) fn put(&self, key: K, reason: String, time: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.known.insert(key, (Instant::now() + time, reason)).is_none() {
            state.order.push_back(key);
        }
        while state.known.len() > FAILURES_MAX {
            let Some(oldest) = state.order.pop_front() else { return };
            state.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_remembered_for_a_time_and_in_a_bounded_number() {
        let failures = Failures::default();
        failures.put(0, "damaged".into(), Duration::from_secs(600));
        failures.put(1, "away".into(), Duration::ZERO);
        assert_eq!((failures.get(&0).as_deref(), failures.get(&1), failures.get(&2)), (Some("damaged"), None, None));
        for n in 2..2 * FAILURES_MAX {
            failures.put(n, String::new(), Duration::from_secs(600));
        }
        assert_eq!(failures.0.lock().unwrap().known.len(), FAILURES_MAX);
        assert_eq!(failures.get(&0), None);
    }
}
