//! The state of one host: the newest frame, the key frame for a delta, and conflicts.

use std::collections::VecDeque;
use std::sync::Arc;

use edr_archive::{PartitionName, RecordPosition, SavedFacts, SavedFrame, SavedHost};
use edr_model::HostRow;
use edr_model::accounting::Account;
use edr_wire::HostId;
use edr_wire::frame::{Frame, FrameKey, FrameKind};

use super::Current;
use super::assembly::Whole;
use super::order::{Judgement, Lineage};
use crate::event::Event;

/// Record locations kept for a frame after dropping the body from memory; a frame with more parts is searched for.
const PLACES_MAX: usize = 64;
/// Conflicting contents remembered per host.
pub(super) const CONFLICTS_MAX: usize = 64;

/// A frame with the locations of the records, and with the body when in memory.
#[derive(Debug, Clone)]
pub struct LatestFrame {
    /// The frame and the locations of the records.
    pub saved: SavedFrame,
    /// The frame with its body, when in memory.
    pub loaded: Option<Arc<Frame>>,
}

#[derive(Debug)]
pub(super) struct HostState {
    pub(super) partition: PartitionName,
    pub(super) lineage: Lineage,
    pub(super) newest: LatestFrame,
    pub(super) key: Option<LatestFrame>,
    pub(super) facts: SavedFacts,
    /// The frame that `facts` were computed from.
    pub(super) facts_of: Option<FrameKey>,
    /// The last frames received under a sequence number with an earlier content; `conflicts` is the number of all.
    pub(super) conflicting: VecDeque<FrameKey>,
    pub(super) conflicts: u64,
    /// Why the newest frame is unreadable, after a failed attempt to open the frame.
    pub(super) unreadable: Option<String>,
    /// The archived, lost and missing frames; shared with readers that make a summary.
    pub(super) account: Arc<Account>,
}

impl HostState {
    pub(super) fn add(&mut self, partition: &PartitionName, known: LatestFrame) -> bool {
        let key = known.saved.frame.key;
        match self.lineage.judge(&known.saved.frame, known.saved.received_ns, &self.newest.saved) {
            Judgement::Newer => {
                self.partition = partition.clone();
                if known.saved.frame.kind == FrameKind::Key {
                    self.key = Some(known.clone());
                } else if !self.key.as_ref().is_some_and(|key| is_key_of(&key.saved, &known.saved)) {
                    // The frame still counts as the newest; its key may be in the archive, or arrive later.
                    self.key = None;
                }
                self.newest = known;
                true
            }
            Judgement::Older if self.key.is_none() && is_key_of(&known.saved, &self.newest.saved) => {
                self.key = Some(known);
                true
            }
            Judgement::Older | Judgement::Duplicate => false,
            Judgement::Conflict => {
                // The same content again: sent twice, or read again by a start.
                if self.conflicting.contains(&key) {
                    return false;
                }
                if self.conflicting.len() == CONFLICTS_MAX {
                    self.conflicting.pop_front();
                }
                self.conflicting.push_back(key);
                self.conflicts += 1;
                edr_daemon::limited!(
                    log::Level::Warn,
                    Event::TwoContents,
                    EDR_SOURCE = "newest",
                    "host {}: frame {} of epoch {} came with two contents; both are archived",
                    key.host_id,
                    key.seq,
                    key.epoch
                );
                false
            }
        }
    }

    pub(super) fn current(&self, host_id: HostId) -> Current {
        let newest = &self.newest.saved.frame.key;
        let conflict = self.conflicting.iter().any(|other| other.place() == newest.place());
        Current { host_id, newest: self.newest.clone(), key: self.key.clone(), conflict }
    }

    /// Returns the memory of the host's frames, in bytes.
    pub(super) fn byte_len(&self) -> usize {
        let is_shared = self.newest.saved.frame.kind == FrameKind::Key;
        let key = self.key.as_ref();
        let key = key.map_or(0, |key| if is_shared { key.places_byte_len() } else { key.byte_len() });
        self.newest.byte_len() + key
    }

    pub(super) fn saved(&self, host_id: HostId) -> SavedHost {
        let key = if self.newest.saved.frame.kind == FrameKind::Key { None } else { self.key.as_ref() };
        SavedHost {
            host_id,
            partition: self.partition.clone(),
            facts: self.facts.clone(),
            newest: self.newest.saved.clone(),
            key: key.map(|key| key.saved.clone()),
            facts_of: self.facts_of,
            epochs: self.lineage.epochs(),
            conflicting: self.conflicting.iter().copied().collect(),
            conflicts: self.conflicts,
            account: Account::clone(&self.account),
        }
    }

    /// Returns the entry in the list of hosts, without the account.
    pub(super) fn row(&self, host_id: HostId) -> HostRow {
        let mut alarms = Vec::new();
        if let Some(reason) = &self.unreadable {
            alarms.push(format!(
                "its newest snapshot (seq {}) cannot be read: {reason}",
                self.newest.saved.frame.key.seq
            ));
        }
        if self.conflicts > 0 {
            alarms.push(format!(
                "frames that came again with another content: {}; the first one is shown",
                self.conflicts
            ));
        }
        let facts = &self.facts;
        HostRow {
            host_id,
            hostname: facts.hostname.clone(),
            os: facts.os.clone(),
            captured_ns: self.newest.saved.frame.captured_ns,
            received_ns: self.newest.saved.received_ns,
            interval_ns: facts.interval_ns,
            seq: self.newest.saved.frame.key.seq,
            processes: facts.processes,
            files: facts.files,
            sockets: facts.sockets,
            danger_level: facts.danger_level,
            psad: facts.psad.clone(),
            degraded: facts.degraded.clone(),
            alarms,
            bye: self.newest.saved.frame.bye,
            account: Arc::default(),
        }
    }
}

impl LatestFrame {
    pub(super) fn from(whole: Whole) -> Self {
        let Whole { frame, places, loaded } = whole;
        let received_ns = places.values().map(|place| place.received_ns).max().unwrap_or(0);
        let saved = SavedFrame { frame, received_ns, places: places.into_values().collect() };
        Self { saved, loaded: loaded.map(Arc::new) }
    }

    pub(super) fn byte_len(&self) -> usize {
        let loaded = self.loaded.as_ref().map_or(0, |frame| size_of::<Frame>() + frame.body.capacity());
        loaded + self.places_byte_len()
    }

    fn places_byte_len(&self) -> usize {
        self.saved.places.capacity() * size_of::<RecordPosition>()
    }

    /// Drops the body from memory; the archive still has the frame.
    pub(super) fn leave(&mut self) {
        self.loaded = None;
        if self.saved.places.len() > PLACES_MAX {
            self.saved.places = Vec::new();
        }
    }
}

fn is_key_of(key: &SavedFrame, delta: &SavedFrame) -> bool {
    let (key, delta) = (&key.frame, &delta.frame);
    key.kind == FrameKind::Key && key.key.place() == (delta.key.epoch, delta.base_seq)
}
