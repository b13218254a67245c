//! The state of one host: the newest frame, the key frame for a delta, the newest readable frame, and conflicts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use edr_archive::{ArchivedFrame, PartitionName, RecordPosition, SavedDoubts, SavedFacts, SavedFrame, SavedHost};
use edr_model::HostRow;
use edr_model::accounting::Account;
use edr_wire::HostId;
use edr_wire::frame::{Frame, FrameKey, FrameKind, LostRange};

use super::Current;
use super::assembly::Whole;
use super::doubts;
use super::facts::bounded;
use super::names::Names;
use super::order::{Arrival, Doubt, Judgement, Lineage};
use crate::event::Event;

/// Record locations kept for a frame after dropping the body from memory; a frame with more parts is searched for.
const PLACES_MAX: usize = 64;
/// Conflicting contents remembered per host.
pub(super) const CONFLICTS_MAX: usize = 64;
/// Key frames of a host whose locations are remembered. Frames of another epoch between two deltas, forged or not, must
/// not separate the second delta from its key.
const KEYS_MAX: usize = 4;

/// A frame with the locations of the records, and with the body when in memory.
#[derive(Debug, Clone)]
pub struct LatestFrame {
    /// The frame and the locations of the records.
    pub saved: SavedFrame,
    /// The frame with its body, when in memory.
    pub loaded: Option<Arc<Frame>>,
}

/// Span of receipt, in ns, below which a host may leave the list.
const SEEN_NS_MIN: i64 = 3_600_000_000_000;
/// Silence, in ns, after which such a host leaves the list, and any host a full list.
pub(super) const SILENT_NS_MAX: i64 = 86_400_000_000_000;

/// A frame and its key frame.
#[derive(Debug, Clone)]
pub struct OpenableFrame {
    /// The frame.
    pub frame: LatestFrame,
    /// The key frame of a delta, if known.
    pub key: Option<LatestFrame>,
}

/// Why the newest frame is unreadable.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    frame: FrameKey,
    reason: String,
    /// From when on a question tries again; `None` for never.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct HostState {
    pub(super) partition: PartitionName,
    pub(super) lineage: Lineage,
    pub(super) newest: LatestFrame,
    pub(super) key: Option<LatestFrame>,
    /// The newest frame that was readable, for readers while the newest frame is not.
    pub(super) readable: Option<OpenableFrame>,
    /// The last key frames, without bodies.
    keys: VecDeque<LatestFrame>,
    pub(super) facts: SavedFacts,
    /// The frame that `facts` were computed from.
    pub(super) facts_of: Option<FrameKey>,
    /// The last frames received under a sequence number with an earlier content; `conflicts` is the number of all.
    pub(super) conflicting: VecDeque<FrameKey>,
    pub(super) conflicts: u64,
    /// When the first frame was received, ns since the epoch.
    pub(super) first_ns: i64,
    /// Since when the host has its name, ns since the epoch.
    pub(super) named_ns: i64,
    /// Frames whose number or time cannot be right.
    pub(super) doubts: SavedDoubts,
    /// Result of the last failed attempt to open a newest frame.
    unreadable: Option<Unreadable>,
    /// The archived, lost and missing frames; shared with readers that make a summary.
    pub(super) account: Arc<Account>,
}

impl HostState {
    /// Begins a host with the first frame.
    pub(super) fn begin(partition: PartitionName, first: LatestFrame) -> Self {
        let is_key = first.saved.frame.kind == FrameKind::Key;
        let mut host = Self {
            partition,
            lineage: Lineage::begin(&first.saved, Vec::new()),
            first_ns: first.saved.received_ns,
            named_ns: first.saved.received_ns,
            key: is_key.then(|| first.clone()),
            readable: None,
            keys: VecDeque::new(),
            newest: first,
            facts: SavedFacts::default(),
            facts_of: None,
            conflicting: VecDeque::new(),
            conflicts: 0,
            doubts: SavedDoubts::default(),
            unreadable: None,
            account: Arc::default(),
        };
        host.note_key(host.newest.clone());
        host
    }

    /// Restores a saved host.
    pub(super) fn restore(saved: SavedHost, account: Arc<Account>) -> Self {
        let on_disk = |saved: SavedFrame| LatestFrame { saved, loaded: None };
        let is_key = saved.newest.frame.kind == FrameKind::Key;
        let key = if is_key { Some(saved.newest.clone()) } else { saved.key }.map(on_disk);
        let newest = on_disk(saved.newest);
        let readable = match saved.readable {
            Some((frame, key)) => Some(OpenableFrame { frame: on_disk(frame), key: key.map(on_disk) }),
            None if saved.facts_of == Some(newest.saved.frame.key) => {
                Some(OpenableFrame { frame: newest.clone(), key: key.clone() })
            }
            None => None,
        };
        Self {
            partition: saved.partition,
            lineage: Lineage::begin(&newest.saved, saved.epochs),
            first_ns: saved.first_ns,
            named_ns: saved.named_ns,
            keys: key.iter().cloned().collect(),
            newest,
            key,
            readable,
            facts: saved.facts,
            facts_of: saved.facts_of,
            conflicting: saved.conflicting.into_iter().take(CONFLICTS_MAX).collect(),
            conflicts: saved.conflicts,
            doubts: saved.doubts,
            unreadable: None,
            account,
        }
    }

    /// Returns a frame with the data for a judgement.
    fn arrival<'a>(&self, frame: &'a ArchivedFrame, received_ns: i64, lost: &'a [LostRange]) -> Arrival<'a> {
        let is_archived = self.account.has_frame(frame.key.epoch, frame.key.seq);
        Arrival { frame, received_ns, lost, interval_ns: self.facts.interval_ns, is_archived }
    }

    /// Returns true for a frame with a number that the host cannot have reached.
    pub(super) fn is_jump(&self, frame: &ArchivedFrame, received_ns: i64, lost: &[LostRange]) -> bool {
        self.lineage.doubt(self.arrival(frame, received_ns, lost)) == Some(Doubt::Jump)
    }

    /// Adds a complete frame. Returns true when the newest frame or its key frame changed.
    pub(super) fn add(&mut self, partition: &PartitionName, known: LatestFrame, lost: &[LostRange]) -> bool {
        let key = known.saved.frame.key;
        self.note_key(known.clone());
        let arrival = self.arrival(&known.saved.frame, known.saved.received_ns, lost);
        match self.lineage.judge(arrival, &self.newest.saved) {
            Judgement::Newer => {
                self.partition = partition.clone();
                if known.saved.frame.kind == FrameKind::Key {
                    self.key = Some(known.clone());
                } else {
                    // A delta without a key still counts as the newest; the key may arrive later.
                    self.key = self.key_of(&known.saved);
                }
                self.newest = known;
                true
            }
            Judgement::Older if self.key.is_none() && is_key_of(&known.saved, &self.newest.saved) => {
                self.key = Some(known);
                true
            }
            Judgement::Older | Judgement::Duplicate => false,
            Judgement::Doubtful(doubt) => {
                if doubts::add(&mut self.doubts, doubt, &known.saved.frame) {
                    edr_daemon::limited!(
                        log::Level::Warn,
                        Event::FrameInDoubt,
                        EDR_SOURCE = "newest",
                        EDR_HOST = key.host_id.to_string(),
                        "host {}: frame {} of epoch {} has a number or a time that cannot be right; it is archived",
                        key.host_id,
                        key.seq,
                        key.epoch
                    );
                }
                false
            }
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

    /// Remembers the location of a key frame.
    fn note_key(&mut self, mut known: LatestFrame) {
        let is_known = |key: &LatestFrame| key.saved.frame.key == known.saved.frame.key;
        if known.saved.frame.kind != FrameKind::Key || self.keys.iter().any(is_known) {
            return;
        }
        known.leave();
        if self.keys.len() == KEYS_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back(known);
    }

    /// Returns the key frame of a delta, among the key frames at hand.
    fn key_of(&self, delta: &SavedFrame) -> Option<LatestFrame> {
        let readable = self.readable.iter().flat_map(|readable| [readable.key.as_ref(), Some(&readable.frame)]);
        let mut at_hand = self.key.iter().chain(readable.flatten()).chain(self.keys.iter().rev());
        at_hand.find(|key| is_key_of(&key.saved, delta)).cloned()
    }

    pub(super) fn current(&self, host_id: HostId) -> Current {
        let newest = &self.newest.saved.frame.key;
        let unreadable = self
            .unreadable_newest()
            .filter(|unreadable| unreadable.retry_at.is_none_or(|retry_at| Instant::now() < retry_at));
        Current {
            host_id,
            newest: self.newest.clone(),
            key: self.key.clone(),
            conflict: self.is_conflict(newest),
            unreadable: unreadable.map(|unreadable| unreadable.reason.clone()),
            is_readable_conflict: self
                .readable
                .as_ref()
                .is_some_and(|known| self.is_conflict(&known.frame.saved.frame.key)),
            readable: self.readable.clone(),
        }
    }

    /// Returns true when the frame was received with another content, too.
    pub(super) fn is_conflict(&self, frame: &FrameKey) -> bool {
        self.conflicting.iter().any(|other| other.place() == frame.place())
    }

    /// Returns why the newest frame is unreadable; `None` for a readable frame, or before the first attempt.
    fn unreadable_newest(&self) -> Option<&Unreadable> {
        self.unreadable.as_ref().filter(|unreadable| unreadable.frame == self.newest.saved.frame.key)
    }

    /// Remembers that a frame is readable, with its facts. A newer frame may have arrived meanwhile.
    pub(super) fn set_facts(&mut self, opened: &Current, facts: SavedFacts) {
        let frame = opened.newest.saved.frame.key;
        self.unreadable = self.unreadable.take().filter(|unreadable| unreadable.frame != frame);
        // The first name counts from the first frame, which was perhaps not opened.
        if self.facts.hostname != facts.hostname {
            self.named_ns = if self.facts_of.is_none() { self.first_ns } else { opened.newest.saved.received_ns };
        }
        self.facts = facts;
        self.facts_of = Some(frame);
        self.readable = Some(OpenableFrame { frame: opened.newest.clone(), key: opened.key.clone() });
    }

    /// Remembers that a frame is unreadable, unless a newer frame has arrived meanwhile.
    pub(super) fn set_unreadable(&mut self, frame: &FrameKey, reason: String, retry_at: Option<Instant>) {
        if self.newest.saved.frame.key == *frame {
            self.unreadable = Some(Unreadable { frame: *frame, reason: bounded(reason), retry_at });
        }
    }

    fn frames(&self) -> impl Iterator<Item = &LatestFrame> {
        let readable = self.readable.iter().flat_map(|readable| [Some(&readable.frame), readable.key.as_ref()]);
        [Some(&self.newest), self.key.as_ref()].into_iter().chain(readable).flatten().chain(&self.keys)
    }

    /// Drops the bodies from memory; the archive still has the frames.
    pub(super) fn leave(&mut self) {
        self.newest.leave();
        self.key.iter_mut().for_each(LatestFrame::leave);
        if let Some(readable) = &mut self.readable {
            readable.frame.leave();
            readable.key.iter_mut().for_each(LatestFrame::leave);
        }
    }

    /// Returns the memory of the host's frames, in bytes.
    pub(super) fn byte_len(&self) -> usize {
        // A body that is held several times is in memory once.
        let mut bodies: Vec<*const Frame> = Vec::new();
        let mut bytes = 0;
        for frame in self.frames() {
            bytes += frame.places_byte_len();
            if let Some(loaded) = &frame.loaded
                && !bodies.contains(&Arc::as_ptr(loaded))
            {
                bodies.push(Arc::as_ptr(loaded));
                bytes += size_of::<Frame>() + loaded.body.capacity();
            }
        }
        bytes
    }

    pub(super) fn saved(&self, host_id: HostId) -> SavedHost {
        let newest = self.newest.saved.frame.key;
        let key = if self.newest.saved.frame.kind == FrameKind::Key { None } else { self.key.as_ref() };
        let readable = self.readable.as_ref().filter(|readable| readable.frame.saved.frame.key != newest);
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
            doubts: self.doubts.clone(),
            first_ns: self.first_ns,
            named_ns: self.named_ns,
            account: Account::clone(&self.account),
            readable: readable
                .map(|readable| (readable.frame.saved.clone(), readable.key.as_ref().map(|key| key.saved.clone()))),
        }
    }

    /// Returns true when the host was seen for a short time only, and then was silent for long.
    pub(super) fn is_aged(&self, now_ns: i64) -> bool {
        let last_ns = self.newest.saved.received_ns;
        let seen_ns = last_ns.saturating_sub(self.first_ns);
        (0..SEEN_NS_MIN).contains(&seen_ns) && now_ns.saturating_sub(last_ns) > SILENT_NS_MAX
    }

    /// Returns the entry in the list of hosts, without the account.
    pub(super) fn row(&self, host_id: HostId, names: &Names) -> HostRow {
        let mut alarms = Vec::new();
        let name_of = names.first(&self.facts.hostname).filter(|first| *first != host_id);
        match name_of {
            Some(first) => {
                alarms.push(format!("its name was the name of another host before, {first}: the name means that host"));
            }
            None if names.count(&self.facts.hostname) > 1 => {
                alarms.push(format!("{} other hosts claim its name", names.count(&self.facts.hostname) - 1));
            }
            None => {}
        }
        if let Some(Unreadable { frame, reason, .. }) = self.unreadable_newest() {
            alarms.push(format!("its newest snapshot (seq {}) cannot be read: {reason}", frame.seq));
        }
        if self.conflicts > 0 {
            alarms.push(format!(
                "frames that came again with another content: {}; the first one is shown",
                self.conflicts
            ));
        }
        alarms.extend(doubts::alarms(&self.doubts));
        let newest = self.arrival(&self.newest.saved.frame, self.newest.saved.received_ns, &[]);
        if let Some(lead_ns) = newest.wrong_lead_ns() {
            let seconds = lead_ns / 1_000_000_000;
            alarms.push(format!("its clock is {seconds} s ahead of the collector's"));
        }
        let facts = &self.facts;
        HostRow {
            host_id,
            hostname: facts.hostname.clone(),
            name_of,
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
