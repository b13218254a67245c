//! Opened snapshots, for a short while: a page asks for one several times in a row.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_wire::{Epoch, HostId};

use super::HostSnapshot;

/// Bytes of snapshots that are kept; one has at most 32 MiB.
const BYTES_MAX: usize = 128 << 20;
/// Snapshots that are kept.
const ENTRIES_MAX: usize = 64;

/// How long one is kept: its alarms are of the time when it was opened, and the other content may come afterwards.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Which snapshot: host, epoch, sequence number, half of its hash, and whether its frame came with other contents too.
pub(super) type Identity = (HostId, Epoch, u64, [u8; 16], bool);

/// The snapshots that were asked for last, and when they were opened.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<VecDeque<(Identity, Instant, Arc<HostSnapshot>)>>);

impl Cache {
    pub(super) fn get(&self, identity: &Identity) -> Option<Arc<HostSnapshot>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(_, since, _)| since.elapsed() < AGE_MAX);
        let at = entries.iter().position(|(known, ..)| known == identity)?;
        let entry = entries.remove(at)?;
        let snapshot = Arc::clone(&entry.2);
        entries.push_back(entry);
        Some(snapshot)
    }

    pub(super) fn put(&self, identity: Identity, snapshot: Arc<HostSnapshot>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back((identity, Instant::now(), snapshot));
        let len = |entries: &VecDeque<(Identity, Instant, Arc<HostSnapshot>)>| -> usize {
            entries.iter().map(|(.., snapshot)| snapshot.view.raw().len()).sum()
        };
        while entries.len() > ENTRIES_MAX || (entries.len() > 1 && len(&entries) > BYTES_MAX) {
            entries.pop_front();
        }
    }
}
