//! A short-lived cache of opened snapshots: a page needs the same snapshot several times in a row.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_wire::frame::FrameKey;

use super::HostSnapshot;

/// Total bytes of the cached snapshots; a snapshot has at most 32 MiB.
const BYTES_MAX: usize = 128 << 20;
/// Number of cached snapshots.
const ENTRIES_MAX: usize = 64;

/// Longest time in the cache. The alarms of a snapshot are computed at its opening; a conflict may be received later.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Key of the cache: the frame, and whether other contents were received under its sequence number.
pub(super) type CacheKey = (FrameKey, bool);

/// The cached snapshots with the time of opening, least recently used first.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<VecDeque<(CacheKey, Instant, Arc<HostSnapshot>)>>);

impl Cache {
    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<HostSnapshot>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(_, since, _)| since.elapsed() < AGE_MAX);
        let at = entries.iter().position(|(known, ..)| known == key)?;
        let entry = entries.remove(at)?;
        let snapshot = Arc::clone(&entry.2);
        entries.push_back(entry);
        Some(snapshot)
    }

    pub(super) fn put(&self, key: CacheKey, snapshot: Arc<HostSnapshot>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back((key, Instant::now(), snapshot));
        let len = |entries: &VecDeque<(CacheKey, Instant, Arc<HostSnapshot>)>| -> usize {
            entries.iter().map(|(.., snapshot)| snapshot.view.raw().len()).sum()
        };
        while entries.len() > ENTRIES_MAX || (entries.len() > 1 && len(&entries) > BYTES_MAX) {
            entries.pop_front();
        }
    }
}
