//! The ledger: all frames of the spool by state, and the pending declarations. A pure state machine: no I/O, no clock,
//! no lock. Inputs are events, with the time as an argument; outputs are file operations and declarations.
//!
//! The states of a frame:
//! - **unsent**: on the disk or in memory, still to be sent;
//! - **acknowledged**: delivered; the file stays as the newest frame or its key;
//! - **doomed**: given up and declared lost; the file stays until the declaration is safe;
//! - **due**: the file is to be deleted or set aside now ([`Ledger::due`]); [`Ledger::done`] reports the end.
//!
//! Three rules exclude a loss without a declaration:
//! 1. A lost frame takes the declarations in its header along. So a frame of an earlier run is given up for lack of
//!    room only after its header was read, and all declarations of the header are then pending again.
//! 2. Every new frame carries all pending declarations, until a frame with the same declarations is acknowledged. An
//!    acknowledgement confirms exactly the declarations in the acknowledged header.
//! 3. A doomed frame's file is touched after two frames on the disk carry all declarations pending since the frame was
//!    given up. With two frames, damage to a single frame loses no declaration.
//!
//! After the return of its folder an epoch is listed again ([`Ledger::unlisted`]), in the same run.

mod books;
mod declarations;
mod patience;
mod room;
#[cfg(test)]
mod tests;
mod thin;
#[cfg(test)]
mod thinning_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, LostRange, MissedTicks};

use self::books::{Books, FrameEntry, FrameState};
pub(super) use self::books::{Operation, Origin, Store};
use self::declarations::PendingDeclarations;
pub use self::patience::Patience;
use self::patience::Wait;
pub(super) use self::room::Room;
pub use self::thin::Thinning;
use super::{FrameFile, FrameId};

/// Number of frames on the disk that carry a declaration before the file of the declared frame is touched.
const CARRIERS: u8 = 2;

/// Reason why a frame's file gives no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameFault {
    /// The folder was read and does not have the file.
    Vanished,
    /// Bytes were read and are wrong.
    Corrupt,
    /// The folder of the epoch is missing.
    Away,
    /// The bytes cannot be read now.
    Unreadable,
}

impl FrameFault {
    /// True when the fault proves the loss of the frame. Other faults may be over at the next attempt.
    pub(super) fn is_proof(self) -> bool {
        matches!(self, Self::Vanished | Self::Corrupt)
    }

    /// The reason in `lost`.
    fn reason(self) -> &'static str {
        match self {
            Self::Vanished | Self::Away => "vanished",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The account of all frames of the spool. No I/O, no clock.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    books: Books,
    declarations: PendingDeclarations,
    /// Collections of declarations so far.
    collections: u64,
    /// Lost ranges of the last collection; `None` when not everything pending fitted.
    collected: Option<Vec<LostRange>>,
    /// The newest frame on the disk, and its key.
    kept: Option<(FrameId, FrameId)>,
    /// The newest frame of this run.
    newest: Option<FrameId>,
    boot_id: String,
    /// Number of files removed so far. A listing older than the last removal is stale.
    removals: u64,
    /// Frames given up since the start.
    pub(super) dropped_frames: u64,
    /// True when the next frame should be a key, so that older frames can be given up as a group.
    pub(super) wants_key: bool,
    pub(super) patience: Patience,
    pub(super) thinning: Thinning,
}

/// Events: new frames.
impl Ledger {
    /// Adds the files of an epoch found on the disk, by seq. `removals` is the value of [`Ledger::removals`]
    /// before the listing. Known frames are left unchanged.
    pub(super) fn found(&mut self, origin: Origin, files: &BTreeMap<u64, FrameFile>, removals: u64) {
        let is_new = self.books.book(origin.epoch).is_none();
        if removals != self.removals || (is_new && files.is_empty()) {
            return;
        }
        let book = self.books.book_or_new(origin);
        (book.is_listed, book.wait) = (true, None);
        let known: BTreeSet<u64> = book.frames.keys().copied().collect();
        for (&seq, file) in files.iter().filter(|(seq, _)| !known.contains(seq)) {
            let entry = FrameEntry::unread(file.bytes, file.written_ns);
            self.books.insert(FrameId { epoch: origin.epoch, seq }, entry);
        }
    }

    /// Sets the newest frame of the earlier run, and the seq of its key.
    pub(super) fn found_newest(&mut self, newest: FrameId, base_seq: u64) {
        self.kept = Some((newest, FrameId { seq: base_seq, ..newest }));
    }

    /// A new frame: on the disk, or in memory.
    pub(super) fn accepted(&mut self, header: &FrameHeader, bytes: u64, store: Store) {
        let id = FrameId::of(header);
        let origin = Origin {
            epoch: id.epoch,
            previous: header.previous_epoch.map(|previous| previous.id),
            captured_ns: header.captured_ns,
        };
        if self.books.book(id.epoch).is_none() {
            self.books.push(origin);
        }
        let kind = Some(header.kind);
        let entry = FrameEntry { kind, store, ..FrameEntry::unread(bytes, header.captured_ns) };
        self.books.insert(id, entry);
        self.newest = Some(id);
        self.boot_id.clone_from(&header.boot_id);
        // A frame in memory is no lasting declaration of the loss of a file.
        if store == Store::Disk {
            if self.collected.as_ref() == Some(&header.lost) {
                self.count_carrier();
            }
            self.keep(id, FrameId { seq: header.base_seq, ..id });
        }
    }

    fn count_carrier(&mut self) {
        let last = self.collections;
        for entry in self.books.iter_mut().flat_map(|book| book.frames.values_mut()) {
            if let FrameState::Doomed { operation, collection, carriers } = &mut entry.state
                && *collection < last
            {
                *carriers += 1;
                if *carriers == CARRIERS {
                    entry.state = FrameState::Due(*operation);
                }
            }
        }
    }

    /// Keeps the newest frame and its key. The frames kept before are due when Kafka has acknowledged them.
    fn keep(&mut self, newest: FrameId, key: FrameId) {
        let Some((newest_before, key_before)) = self.kept.replace((newest, key)) else { return };
        for id in [newest_before, key_before].into_iter().filter(|&id| id != key) {
            if let Some(entry) = self.books.entry(id).filter(|entry| entry.state == FrameState::Acknowledged) {
                entry.state = FrameState::Due(Operation::Delete);
            }
        }
    }

    /// Notes that a frame in memory was written to the disk. False for an unknown frame.
    pub(super) fn moved_to_disk(&mut self, id: FrameId) -> bool {
        let Some(entry) = self.books.entry(id) else { return false };
        entry.store = Store::Disk;
        true
    }

    /// Makes a doomed frame unsent again: the file is whole after all.
    pub(super) fn revived(&mut self, header: &FrameHeader, bytes: u64) {
        self.books.insert(FrameId::of(header), FrameEntry::unread(bytes, header.captured_ns));
    }
}

/// Events: the end of frames.
impl Ledger {
    /// Notes that Kafka has the frame and its declarations. Returns the frame when its file is to be removed.
    pub(super) fn acknowledged(&mut self, header: &FrameHeader) -> Option<FrameId> {
        self.declarations.confirm(header);
        let id = FrameId::of(header);
        let is_kept = self.kept.is_some_and(|(newest, key)| id == newest || id == key);
        let store = self.books.entry(id)?.store;
        if store == Store::Memory {
            self.books.forget(id);
            return None;
        }
        self.books.set_state(id, if is_kept { FrameState::Acknowledged } else { FrameState::Due(Operation::Delete) });
        (!is_kept).then_some(id)
    }

    /// True for a known frame still to be sent.
    pub(super) fn is_unsent(&self, id: FrameId) -> bool {
        self.books.get(id).is_some_and(|entry| entry.state == FrameState::Unsent)
    }

    /// Ends the wait of an epoch after a successful read. True when the epoch had waited.
    pub(super) fn was_read(&mut self, id: FrameId) -> bool {
        self.books.book_mut(id.epoch).is_some_and(|book| book.wait.take().is_some())
    }

    /// Notes a failed read of a frame. True when patience is over: the frame is to be given up if other frames can be
    /// read.
    pub(super) fn failed(&mut self, id: FrameId, fault: FrameFault, words: String, now: Instant) -> bool {
        let patience = self.patience;
        let Some(book) = self.books.book_mut(id.epoch) else { return false };
        book.is_listed &= fault != FrameFault::Away;
        book.wait.get_or_insert_with(|| Wait::new(now)).failed(&patience, now, words)
    }

    /// Gives up a frame after a proof of its loss, or after the end of patience. When the folder is away, all frames of
    /// the epoch are given up. True when the frame was still unsent.
    pub(super) fn give_up(&mut self, id: FrameId, fault: FrameFault, now: Instant) -> bool {
        if !self.is_unsent(id) {
            return false;
        }
        if fault == FrameFault::Away {
            self.give_up_epoch(id.epoch, fault);
        } else {
            self.doom(id, fault.reason(), Operation::SetAside);
        }
        // The next frame is tried at once.
        if let Some(wait) = self.books.book_mut(id.epoch).and_then(|book| book.wait.as_mut()) {
            wait.until = now;
        }
        true
    }

    /// Gives up an epoch whose folder is away. After its return the folder is listed like the folder of an unknown
    /// epoch.
    fn give_up_epoch(&mut self, epoch: Epoch, fault: FrameFault) {
        let Some(book) = self.books.book(epoch) else { return };
        let on_disk = book.frames.iter().filter(|(_, entry)| entry.store == Store::Disk);
        let gone: Vec<(FrameId, FrameState)> = on_disk.map(|(&seq, entry)| (book.id(seq), entry.state)).collect();
        for (id, state) in gone {
            if state == FrameState::Unsent {
                self.declarations.lose(id, fault.reason());
                self.dropped_frames += 1;
            }
            if state != FrameState::Acknowledged {
                self.books.forget(id);
            }
        }
    }

    /// Takes the epochs with a folder on the disk. Returns the epochs to be listed: unknown epochs, and epochs whose
    /// folder was away.
    pub(super) fn unlisted(&mut self, on_disk: &BTreeSet<Epoch>) -> Vec<Epoch> {
        for book in self.books.iter_mut() {
            let has_files = book.frames.values().any(|entry| entry.store == Store::Disk);
            book.is_listed &= !has_files || on_disk.contains(&book.origin.epoch);
        }
        self.books.drop_empty(on_disk, self.newest.map(|id| id.epoch));
        let is_listed = |epoch| self.books.book(epoch).is_some_and(|book| book.is_listed);
        on_disk.iter().copied().filter(|&epoch| !is_listed(epoch)).collect()
    }

    /// Files to delete or to set aside now, oldest first.
    pub(super) fn due(&self) -> Vec<(FrameId, Operation)> {
        let due = |(id, entry): (FrameId, &FrameEntry)| match entry.state {
            FrameState::Due(operation) => Some((id, operation)),
            _ => None,
        };
        self.books.entries().filter_map(due).collect()
    }

    /// Notes that the file was removed or set aside. True when the epoch has no frame left.
    pub(super) fn done(&mut self, id: FrameId) -> bool {
        self.books.forget(id);
        self.removals += 1;
        self.books.book(id.epoch).is_none_or(|book| book.frames.is_empty())
    }

    /// Files removed so far.
    pub(super) fn removals(&self) -> u64 {
        self.removals
    }
}

/// Declarations and books.
impl Ledger {
    /// The frames by state.
    pub(super) fn books(&self) -> &Books {
        &self.books
    }

    /// Adds ticks without a frame.
    pub(super) fn missed(&mut self, missed: MissedTicks) {
        self.declarations.take_over(&[], &[missed]);
    }

    /// Adds declarations of an earlier run.
    pub(super) fn take_over(&mut self, lost: &[LostRange], missed: &[MissedTicks]) {
        self.declarations.take_over(lost, missed);
    }

    /// Collects all pending declarations for the next frame.
    pub(super) fn collect(&mut self) -> (Vec<LostRange>, Vec<MissedTicks>) {
        let carried = self.declarations.for_a_frame();
        self.collections += 1;
        self.collected = carried.is_complete.then(|| carried.lost.clone());
        (carried.lost, carried.missed)
    }
}

/// Transitions.
impl Ledger {
    fn doom(&mut self, id: FrameId, reason: &'static str, operation: Operation) {
        if self.is_unsent(id) {
            self.declarations.lose(id, reason);
        }
        self.doom_declared(id, operation);
    }

    /// Gives up a frame that is declared lost already, or was delivered.
    fn doom_declared(&mut self, id: FrameId, operation: Operation) {
        let Some(entry) = self.books.get(id) else { return };
        // A delivered frame is not lost.
        self.dropped_frames += u64::from(entry.state == FrameState::Unsent);
        // Deltas are useless after the loss of their key.
        self.wants_key |= self.kept.is_some_and(|(_, key)| key == id);
        if self.books.is_in_memory(id) {
            // The declaration lives as long as the frame would have: both are in memory.
            self.books.forget(id);
        } else {
            self.books.set_state(id, FrameState::Doomed { operation, collection: self.collections, carriers: 0 });
        }
    }
}
