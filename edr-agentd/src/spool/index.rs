//! Which frames there are, in the order of their making, and what is to become of each. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, FrameKind};

use super::FrameId;
use super::declare::Declarations;
use super::stored::Stored;

/// A frame's place in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    epoch: u32,
    seq: u64,
}

/// What happens to a frame's file once its loss is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doom {
    Delete,
    /// Kept for whoever wants to look into it.
    SetAside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    /// Kafka has it; the file stays because it is the newest frame or its key.
    Acknowledged,
    /// Not sent any more; goes when a frame declares it.
    Doomed(Doom),
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// `None` for a frame of an earlier run that was not read yet.
    kind: Option<FrameKind>,
    state: State,
    /// The frame itself, when it is not on the disk.
    memory: Option<Arc<Stored>>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Epochs in the order of their making.
    epochs: Vec<Epoch>,
    frames: BTreeMap<Place, Entry>,
    /// The newest frame on the disk and the key it needs.
    kept: Option<(Place, Place)>,
    /// What was kept before, and is not any more.
    outlived: Vec<Place>,
    pub(super) declarations: Declarations,
    /// Frames that were given up since the start: for want of room, or damaged.
    pub(super) dropped_frames: u64,
    pub(super) wants_key: bool,
    unsent_frames: u64,
    unsent_bytes: u64,
    disk_bytes: u64,
    memory_bytes: u64,
    /// Bytes of the largest frame so far: the room one more may need.
    frame_bytes_max: u64,
}

impl Index {
    /// A frame that an earlier run left. Epochs and frames come in order.
    pub(super) fn found(&mut self, id: FrameId, bytes: u64) {
        let place = self.place_or_new(id);
        self.add(place, Entry { bytes, kind: None, state: State::Unsent, memory: None });
    }

    /// The newest frame of the earlier run and the seq of its key.
    pub(super) fn keep_found(&mut self, newest: FrameId, base_seq: u64) {
        let newest = self.place_or_new(newest);
        self.kept = Some((newest, Place { seq: base_seq, ..newest }));
    }

    /// A frame that was just made, in memory or on the disk.
    pub(super) fn insert(&mut self, header: &FrameHeader, bytes: u64, memory: Option<Arc<Stored>>) {
        let place = self.place_or_new(FrameId { epoch: header.epoch, seq: header.seq });
        if memory.is_none() {
            let key = Place { seq: header.base_seq, ..place };
            if let Some((newest_before, key_before)) = self.kept.replace((place, key)) {
                self.outlived.extend([newest_before, key_before].into_iter().filter(|&old| old != key));
            }
        }
        self.add(place, Entry { bytes, kind: Some(header.kind), state: State::Unsent, memory });
    }

    /// Acknowledged frames that no longer need to stay; they are forgotten here.
    pub(super) fn outlived(&mut self) -> Vec<FrameId> {
        let outlived = std::mem::take(&mut self.outlived);
        let over = |place: &Place| self.frames.get(place).is_some_and(|entry| entry.state == State::Acknowledged);
        let over: Vec<Place> = outlived.into_iter().filter(over).collect();
        over.into_iter().filter_map(|place| self.forget(place)).collect()
    }

    /// The frame with this header is accepted. What it declares lost, not as the first one, may go now, and what
    /// Kafka knows to be lost: those are forgotten here. Two frames say it before a file goes, so that no single
    /// damaged frame takes its declarations with it.
    pub(super) fn carried(&mut self, header: &FrameHeader) -> Vec<(FrameId, Doom)> {
        let place = self.place_or_new(FrameId { epoch: header.epoch, seq: header.seq });
        self.declarations.carried(header, place);
        let carrier_in_memory = self.frames.get(&place).is_some_and(|entry| entry.memory.is_some());
        let mut declared = Vec::new();
        for (&doomed, entry) in &self.frames {
            let State::Doomed(doom) = entry.state else { continue };
            // A frame in memory is no lasting declaration of the loss of one on the disk.
            let lasting = entry.memory.is_some() || !carrier_in_memory;
            if lasting && !self.declarations.is_new(self.id(doomed), place) {
                declared.push((doomed, doom));
            }
        }
        // After the look at what is new: a joined entry counts as carried since its newer half is.
        self.declarations.join_lost();
        declared.into_iter().filter_map(|(place, doom)| Some((self.forget(place)?, doom))).collect()
    }

    /// Chooses whole key groups, oldest first, until what stays fits `disk_limit` and `memory_limit` with the two
    /// frames that will declare them, each of the largest size. `kind_of` reads the kind of a frame of an earlier
    /// run.
    pub(super) fn relieve(
        &mut self,
        disk_limit: u64,
        memory_limit: u64,
        kind_of: impl Fn(FrameId) -> Option<FrameKind>,
    ) {
        self.wants_key = false;
        for (in_memory, limit, reason) in [(false, disk_limit, "spool_full"), (true, memory_limit, "memory_full")] {
            let alive = |(_, entry): &(&Place, &Entry)| {
                entry.memory.is_some() == in_memory && !matches!(entry.state, State::Doomed(_))
            };
            let mut bytes: u64 = self.frames.iter().filter(alive).map(|(_, entry)| entry.bytes).sum();
            while bytes.saturating_add(2 * self.frame_bytes_max) > limit {
                let group = self.oldest_group(in_memory, &kind_of);
                let Some(group) = group else {
                    self.wants_key = bytes > self.frame_bytes_max;
                    break;
                };
                for place in group {
                    bytes = bytes.saturating_sub(self.frames.get(&place).map_or(0, |entry| entry.bytes));
                    self.doom(place, reason, Doom::Delete);
                }
            }
        }
    }

    /// The oldest key and its deltas, unless the newest frame is among them.
    fn oldest_group(&mut self, in_memory: bool, kind_of: &impl Fn(FrameId) -> Option<FrameKind>) -> Option<Vec<Place>> {
        let alive: Vec<Place> = self
            .frames
            .iter()
            .filter(|(_, entry)| entry.memory.is_some() == in_memory && !matches!(entry.state, State::Doomed(_)))
            .map(|(&place, _)| place)
            .collect();
        let (&first, rest) = alive.split_first()?;
        let mut group = vec![first];
        for &place in rest {
            if place.epoch != first.epoch || self.kind(place, kind_of) == Some(FrameKind::Key) {
                return Some(group);
            }
            group.push(place);
        }
        None
    }

    fn kind(&mut self, place: Place, kind_of: &impl Fn(FrameId) -> Option<FrameKind>) -> Option<FrameKind> {
        let id = self.id(place);
        let entry = self.frames.get_mut(&place)?;
        // A frame that cannot be read belongs to the group it stands in.
        entry.kind = entry.kind.or_else(|| kind_of(id)).or(Some(FrameKind::Delta));
        entry.kind
    }

    /// Kafka has it. `Some` when its file is to go.
    pub(super) fn acknowledge(&mut self, id: FrameId) -> Option<FrameId> {
        let place = self.place(id)?;
        self.declarations.confirmed(place);
        let kept = self.kept.is_some_and(|(newest, key)| place == newest || place == key);
        let entry = self.frames.get(&place)?;
        if entry.memory.is_some() {
            self.forget(place);
            return None;
        }
        if kept {
            self.set_state(place, State::Acknowledged);
            return None;
        }
        self.forget(place)
    }

    /// A frame that cannot be read.
    pub(super) fn condemn(&mut self, id: FrameId, reason: &'static str, doom: Doom) {
        if let Some(place) = self.place(id) {
            self.doom(place, reason, doom);
        }
    }

    /// The oldest unsent frame of the epochs that are not held.
    pub(super) fn oldest_unsent(&self, is_held: impl Fn(Epoch) -> bool) -> Option<FrameId> {
        let mut unsent = self.frames.iter().filter(|(_, entry)| entry.state == State::Unsent);
        unsent.find_map(|(&place, _)| Some(self.id(place)).filter(|id| !is_held(id.epoch)))
    }

    /// Whether this frame is there and still to be sent.
    pub(super) fn is_unsent(&self, id: FrameId) -> bool {
        let entry = self.place(id).and_then(|place| self.frames.get(&place));
        entry.is_some_and(|entry| entry.state == State::Unsent)
    }

    /// Whether there is a frame of this epoch to be sent.
    pub(super) fn has_unsent(&self, epoch: Epoch) -> bool {
        let Some(first) = self.place(FrameId { epoch, seq: 0 }) else { return false };
        let last = Place { seq: u64::MAX, ..first };
        self.frames.range(first..=last).any(|(_, entry)| entry.state == State::Unsent)
    }

    /// Other frames on the disk: the next ones, the one before, and the newest.
    pub(super) fn neighbours(&self, id: FrameId) -> Vec<FrameId> {
        let Some(place) = self.place(id) else { return Vec::new() };
        let on_disk = |(_, entry): &(&Place, &Entry)| entry.memory.is_none();
        let next = self.frames.range(place..).filter(on_disk).skip_while(|(other, _)| **other == place).take(2);
        let before = self.frames.range(..place).rfind(on_disk);
        let newest = self.frames.iter().rfind(on_disk).filter(|(other, _)| **other != place);
        next.chain(before).chain(newest).map(|(&other, _)| self.id(other)).collect()
    }

    /// A frame that was given up and is whole after all: it is to be sent, late as it is.
    pub(super) fn revive(&mut self, id: FrameId, bytes: u64, kind: FrameKind) {
        if let Some(place) = self.place(id) {
            self.add(place, Entry { bytes, kind: Some(kind), state: State::Unsent, memory: None });
        }
    }

    pub(super) fn in_memory(&self, id: FrameId) -> Option<Arc<Stored>> {
        self.frames.get(&self.place(id)?)?.memory.clone()
    }

    pub(super) fn oldest_in_memory(&self) -> Option<(FrameId, Arc<Stored>)> {
        let unsent = |(_, entry): &(&Place, &Entry)| entry.state == State::Unsent && entry.memory.is_some();
        let (&place, entry) = self.frames.iter().find(unsent)?;
        Some((self.id(place), Arc::clone(entry.memory.as_ref()?)))
    }

    /// A frame in memory was written to the disk. False when it is not to be sent any more.
    pub(super) fn is_on_disk_now(&mut self, id: FrameId) -> bool {
        let entry = self.place(id).and_then(|place| self.frames.get_mut(&place));
        let Some(entry) = entry.filter(|entry| entry.state == State::Unsent) else { return false };
        if entry.memory.take().is_some() {
            self.memory_bytes -= entry.bytes;
            self.disk_bytes += entry.bytes;
        }
        true
    }

    /// Frames Kafka has not acknowledged, and their bytes.
    pub(super) fn unsent(&self) -> (u64, u64) {
        (self.unsent_frames, self.unsent_bytes)
    }

    /// Those of them that are in memory alone.
    pub(super) fn unsent_in_memory(&self) -> (u64, u64) {
        let waiting = self.frames.values().filter(|entry| entry.memory.is_some() && entry.state == State::Unsent);
        waiting.fold((0, 0), |(frames, bytes), entry| (frames + 1, bytes + entry.bytes))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn doom(&mut self, place: Place, reason: &'static str, doom: Doom) {
        // What Kafka has is not lost, whatever becomes of the file.
        if self.frames.get(&place).is_some_and(|entry| entry.state == State::Unsent) {
            self.declarations.lost(self.id(place), reason);
            self.dropped_frames += 1;
        }
        self.set_state(place, State::Doomed(doom));
        // Deltas that need a key nobody will get are no use to anyone.
        self.wants_key |= self.kept.is_some_and(|(_, key)| key == place);
    }

    fn set_state(&mut self, place: Place, state: State) {
        let Some(entry) = self.frames.get_mut(&place) else { return };
        if entry.state == State::Unsent {
            self.unsent_frames -= 1;
            self.unsent_bytes -= entry.bytes;
        }
        entry.state = state;
    }

    fn add(&mut self, place: Place, entry: Entry) {
        self.unsent_frames += 1;
        self.unsent_bytes += entry.bytes;
        self.frame_bytes_max = self.frame_bytes_max.max(entry.bytes);
        let bytes = if entry.memory.is_some() { &mut self.memory_bytes } else { &mut self.disk_bytes };
        *bytes += entry.bytes;
        self.frames.insert(place, entry);
    }

    fn forget(&mut self, place: Place) -> Option<FrameId> {
        self.set_state(place, State::Acknowledged);
        let entry = self.frames.remove(&place)?;
        let bytes = if entry.memory.is_some() { &mut self.memory_bytes } else { &mut self.disk_bytes };
        *bytes -= entry.bytes;
        Some(self.id(place))
    }

    fn id(&self, place: Place) -> FrameId {
        FrameId { epoch: self.epochs[place.epoch as usize], seq: place.seq }
    }

    fn place(&self, id: FrameId) -> Option<Place> {
        let epoch = self.epochs.iter().rposition(|&epoch| epoch == id.epoch)?;
        Some(Place { epoch: epoch as u32, seq: id.seq })
    }

    fn place_or_new(&mut self, id: FrameId) -> Place {
        if let Some(place) = self.place(id) {
            return place;
        }
        self.epochs.push(id.epoch);
        Place { epoch: self.epochs.len() as u32 - 1, seq: id.seq }
    }
}
