//! The state of one host: the newest frame, the key frame for a delta, and conflicts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use edr_wire::frame::{Frame, FrameKind};
use edr_wire::{Epoch, HostId};

use super::order::{self, Judgement, Lineage};
use super::{Content, Current};
use crate::archive::{ArchivedHeader, PartitionName, Place, SavedFacts, SavedFrame, SavedHost};
use crate::event::Event;
use crate::query::HostRow;

/// Record locations kept for a frame after dropping the body from memory; a frame with more parts is searched for.
const PLACES_MAX: usize = 64;
/// Conflicting contents remembered per host.
pub(super) const CONFLICTS_MAX: usize = 64;

/// A frame: identity, locations of the records, and the body when in memory.
#[derive(Debug, Clone)]
pub struct Known {
    /// Identity of the frame and locations of the records.
    pub saved: SavedFrame,
    /// The frame with its body, when in memory.
    pub frame: Option<Arc<Frame>>,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) partition: PartitionName,
    pub(super) lineage: Lineage,
    pub(super) newest: Known,
    pub(super) key: Option<Known>,
    pub(super) facts: SavedFacts,
    /// The frame that `facts` were computed from.
    pub(super) facts_of: Option<(Epoch, u64)>,
    /// The last contents received under a sequence number with an earlier content; `conflicts` is the number of all.
    pub(super) conflicting: VecDeque<Content>,
    pub(super) conflicts: u64,
    /// Why the newest frame is unreadable, after a failed attempt to open the frame.
    pub(super) unreadable: Option<String>,
}

impl Host {
    pub(super) fn add(&mut self, partition: &PartitionName, known: Known, header: &ArchivedHeader) -> bool {
        match self.lineage.judge(header, known.saved.received_ns) {
            Judgement::Newer => {
                self.partition = partition.clone();
                if known.saved.kind == FrameKind::Key {
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
                let content = (header.epoch, header.seq, order::short(&header.raw_hash));
                // The same content again: sent twice, or read again by a start.
                if self.conflicting.contains(&content) {
                    return false;
                }
                if self.conflicting.len() == CONFLICTS_MAX {
                    self.conflicting.pop_front();
                }
                self.conflicting.push_back(content);
                self.conflicts += 1;
                edr_daemon::limited!(
                    log::Level::Warn, Event::TwoContents, EDR_SOURCE = "newest";
                    "host {}: frame {} of epoch {} came with two contents; both are archived",
                    header.host_id,
                    header.seq,
                    header.epoch
                );
                false
            }
        }
    }

    pub(super) fn current(&self, host_id: HostId) -> Current {
        let newest = &self.newest.saved;
        let conflict = self.conflicting.iter().any(|(epoch, seq, _)| (*epoch, *seq) == (newest.epoch, newest.seq));
        Current { host_id, newest: self.newest.clone(), key: self.key.clone(), conflict }
    }

    /// Returns the memory of the host's frames, in bytes.
    pub(super) fn byte_len(&self) -> usize {
        let is_shared = self.newest.saved.kind == FrameKind::Key;
        let key = self.key.as_ref();
        let key = key.map_or(0, |key| if is_shared { key.places_byte_len() } else { key.byte_len() });
        self.newest.byte_len() + key
    }

    pub(super) fn saved(&self, host_id: HostId) -> SavedHost {
        let key = if self.newest.saved.kind == FrameKind::Key { None } else { self.key.as_ref() };
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
        }
    }

    pub(super) fn row(&self, host_id: HostId) -> HostRow {
        let mut alarms = Vec::new();
        if let Some(reason) = &self.unreadable {
            alarms.push(format!("its newest snapshot (seq {}) cannot be read: {reason}", self.newest.saved.seq));
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
            captured_ns: self.newest.saved.captured_ns,
            received_ns: self.newest.saved.received_ns,
            interval_ns: facts.interval_ns,
            seq: self.newest.saved.seq,
            processes: facts.processes,
            files: facts.files,
            sockets: facts.sockets,
            danger_level: facts.danger_level,
            psad: facts.psad.clone(),
            degraded: facts.degraded.clone(),
            alarms,
            bye: self.newest.saved.bye,
        }
    }
}

impl Known {
    pub(super) fn from(frame: Option<Frame>, header: &ArchivedHeader, places: BTreeMap<u32, Place>) -> Self {
        let received_ns = places.values().map(|place| place.received_ns).max().unwrap_or(0);
        let saved = SavedFrame {
            epoch: header.epoch,
            seq: header.seq,
            kind: header.kind,
            base_seq: header.base_seq,
            raw_hash: order::short(&header.raw_hash),
            captured_ns: header.captured_ns,
            received_ns,
            bye: header.bye,
            places: places.into_values().collect(),
        };
        Self { saved, frame: frame.map(Arc::new) }
    }

    pub(super) fn byte_len(&self) -> usize {
        let frame = self.frame.as_ref().map_or(0, |frame| size_of::<Frame>() + frame.body.capacity());
        frame + self.places_byte_len()
    }

    fn places_byte_len(&self) -> usize {
        self.saved.places.capacity() * size_of::<Place>()
    }

    /// Drops the body from memory; the archive still has the frame.
    pub(super) fn leave(&mut self) {
        self.frame = None;
        if self.saved.places.len() > PLACES_MAX {
            self.saved.places = Vec::new();
        }
    }
}

fn is_key_of(key: &SavedFrame, delta: &SavedFrame) -> bool {
    key.kind == FrameKind::Key && key.epoch == delta.epoch && key.seq == delta.base_seq
}
