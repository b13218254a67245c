//! Opened snapshots, for a short while: a page asks for one several times in a row.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use edr_wire::{Epoch, HostId};

use super::HostSnapshot;

/// Bytes of snapshots that are kept; one has at most 32 MiB.
const BYTES_MAX: usize = 128 << 20;
/// Snapshots that are kept.
const ENTRIES_MAX: usize = 64;

/// Which snapshot: host, epoch, sequence number, and half of its hash.
pub(super) type Identity = (HostId, Epoch, u64, [u8; 16]);

/// The snapshots that were asked for last.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<VecDeque<(Identity, Arc<HostSnapshot>)>>);

impl Cache {
    pub(super) fn get(&self, identity: &Identity) -> Option<Arc<HostSnapshot>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|(known, _)| known == identity)?;
        let entry = entries.remove(at)?;
        let snapshot = Arc::clone(&entry.1);
        entries.push_back(entry);
        Some(snapshot)
    }

    pub(super) fn put(&self, identity: Identity, snapshot: Arc<HostSnapshot>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back((identity, snapshot));
        let len = |entries: &VecDeque<(Identity, Arc<HostSnapshot>)>| -> usize {
            entries.iter().map(|(_, snapshot)| snapshot.view.raw().len()).sum()
        };
        while entries.len() > ENTRIES_MAX || (entries.len() > 1 && len(&entries) > BYTES_MAX) {
            entries.pop_front();
        }
    }
}
