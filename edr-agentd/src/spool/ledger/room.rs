//! Giving up frames for lack of room: the oldest time is thinned first, and only thinned time is dropped.

use std::collections::BTreeSet;

use edr_wire::frame::{FrameHeader, FrameKind};

use super::books::{Book, FrameEntry, Operation, Store};
use super::declarations::THINNED;
use super::thin::{slots, spare};
use super::{FrameId, Ledger};

/// Limits on the bytes of kept frames.
#[derive(Debug, Clone, Copy)]
pub(in crate::spool) struct Room {
    pub(in crate::spool) disk_bytes: u64,
    pub(in crate::spool) memory_bytes: u64,
}

/// The oldest frames that can be given up together.
enum DropGroup {
    /// The headers of these frames are to be read first.
    Unread(Vec<FrameId>),
    Known(Vec<FrameId>),
    None,
}

impl Ledger {
    /// Gives up frames, oldest first, until the rest fits `room` together with two more frames of the largest size,
    /// which will declare the loss: at first all frames but one of each minute, then all but one of ten minutes
    /// ([`super::Thinning`]), then whole key groups. Returns frames whose headers are to be read before the next call
    /// ([`Ledger::examined`]), none at the end; frames in `unreadable` are passed over.
    pub(in crate::spool) fn relieve(&mut self, room: Room, unreadable: &BTreeSet<FrameId>) -> Vec<FrameId> {
        self.wants_key = false;
        let limits = [(Store::Disk, room.disk_bytes, "spool_full"), (Store::Memory, room.memory_bytes, "memory_full")];
        for (store, limit, reason) in limits {
            for step in self.thinning.steps {
                let step_ns = i64::try_from(step.as_nanos()).unwrap_or(i64::MAX).max(1);
                while let Some(excess) = self.excess(store, limit) {
                    match self.surplus(store, unreadable, step_ns, excess) {
                        DropGroup::Unread(ids) => return ids,
                        DropGroup::Known(frames) => self.give_up_for_room(&frames, THINNED),
                        DropGroup::None => break,
                    }
                }
            }
            while self.excess(store, limit).is_some() {
                match self.oldest_group(store, unreadable) {
                    DropGroup::Unread(ids) => return ids,
                    DropGroup::Known(group) => self.give_up_for_room(&group, reason),
                    DropGroup::None => {
                        self.wants_key |= self.relievable_bytes(store) > self.books.frame_bytes_max;
                        break;
                    }
                }
            }
        }
        Vec::new()
    }

    /// Bytes by which the frames of a store exceed `limit`; `None` when they fit.
    fn excess(&self, store: Store, limit: u64) -> Option<u64> {
        let needed = self.relievable_bytes(store).saturating_add(2 * self.books.frame_bytes_max);
        (needed > limit).then(|| needed - limit)
    }

    fn relievable_bytes(&self, store: Store) -> u64 {
        let entries = self.books_in(store).flat_map(|book| book.frames.values());
        entries.filter(|entry| entry.is_relievable(store)).map(|entry| entry.bytes).sum()
    }

    /// The books with frames in a store. A folder that is away takes no room on this disk.
    fn books_in(&self, store: Store) -> impl Iterator<Item = &Book> {
        self.books.iter().filter(move |book| store == Store::Memory || book.is_listed)
    }

    /// True for the frames that always stay: the newest frame, the newest frame on the disk, and its key.
    fn is_kept(&self, id: FrameId) -> bool {
        Some(id) == self.newest || self.kept.is_some_and(|(newest, key)| id == newest || id == key)
    }

    /// The oldest frames beyond one of each slot of `step_ns`, with together at least `bytes` if there are as many.
    fn surplus(&self, store: Store, unreadable: &BTreeSet<FrameId>, step_ns: i64, bytes: u64) -> DropGroup {
        let (mut frames, mut gained) = (Vec::new(), 0);
        for book in self.books_in(store) {
            let is_there = |id, entry: &FrameEntry| entry.is_there() && !unreadable.contains(&id);
            let there: Vec<(FrameId, &FrameEntry)> = book
                .frames
                .iter()
                .map(|(&seq, entry)| (book.id(seq), entry))
                .filter(|(id, e)| is_there(*id, e))
                .collect();
            for slot in slots(&there, step_ns) {
                if gained >= bytes {
                    return DropGroup::Known(frames);
                }
                let unread = slot.iter().filter(|(_, entry)| entry.kind.is_none()).map(|(id, _)| *id);
                let unread: Vec<FrameId> = unread.collect();
                if !unread.is_empty() {
                    return if frames.is_empty() { DropGroup::Unread(unread) } else { DropGroup::Known(frames) };
                }
                let goes = |id, entry: &FrameEntry| entry.store == store && !self.is_kept(id);
                for &(id, entry) in spare(slot).filter(|(id, entry)| goes(*id, entry)) {
                    frames.push(id);
                    gained += entry.bytes;
                }
            }
        }
        if frames.is_empty() { DropGroup::None } else { DropGroup::Known(frames) }
    }

    /// The oldest key with its deltas, unless the group contains a kept frame or the newest frame.
    fn oldest_group(&self, store: Store, unreadable: &BTreeSet<FrameId>) -> DropGroup {
        for book in self.books_in(store) {
            let mut group: Vec<FrameId> = Vec::new();
            for (&seq, entry) in book.frames.iter().filter(|(_, entry)| entry.is_relievable(store)) {
                let id = book.id(seq);
                match entry.kind {
                    _ if unreadable.contains(&id) => continue,
                    None => return DropGroup::Unread(vec![id]),
                    Some(FrameKind::Key) if group.iter().any(|&id| self.is_kept(id)) => group.clear(),
                    Some(FrameKind::Key) if !group.is_empty() => return DropGroup::Known(group),
                    Some(_) => {}
                }
                group.push(id);
            }
            if !group.is_empty() && !group.iter().any(|&id| self.is_kept(id)) {
                return DropGroup::Known(group);
            }
        }
        DropGroup::None
    }

    /// Declares the unsent frames lost, and gives all up. The frames are ordered by epoch, then by seq.
    fn give_up_for_room(&mut self, frames: &[FrameId], reason: &'static str) {
        for epoch in frames.chunk_by(|a, b| a.epoch == b.epoch) {
            let lost: Vec<FrameId> = epoch.iter().copied().filter(|&id| self.is_unsent(id)).collect();
            self.declarations.lose_for_room(&lost, reason);
        }
        frames.iter().for_each(|&id| self.doom_declared(id, Operation::Delete));
    }

    /// Takes the header of a frame of an earlier run, so that the frame can be given up: the declarations of the header
    /// are pending again. Missed ticks are taken only from the same boot, since their times are of the boot's clock.
    pub(in crate::spool) fn examined(&mut self, header: &FrameHeader) {
        let missed = if header.boot_id == self.boot_id { header.missed.as_slice() } else { &[] };
        self.declarations.take_over(&header.lost, missed);
        if let Some(entry) = self.books.entry(FrameId::of(header)) {
            (entry.kind, entry.captured_ns) = (Some(header.kind), header.captured_ns);
        }
    }
}
