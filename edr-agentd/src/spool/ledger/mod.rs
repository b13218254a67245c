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
//! 1. A frame stands for itself and for every declaration in its header. A frame of an earlier run is given up for want
//!    of room only after its header was read, and all declarations of the header are then pending again.
//! 2. Every new frame carries all pending declarations, until a frame with them is acknowledged. An acknowledgement
//!    confirms the declarations in the acknowledged header, and no others.
//! 3. A doomed frame's file is touched after two frames on the disk carry everything that was pending when the frame was
//!    given up. With two, a single damaged frame takes no declaration along.
//!
//! An epoch that was away is listed again after the return of its folder ([`Ledger::unlisted`]), in the same run.

mod declarations;
mod patience;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, FrameKind, LostRange, MissedTicks};

use self::declarations::Declarations;
pub use self::patience::Patience;
use self::patience::Wait;
use super::FrameId;

/// Frames on the disk that carry a declaration before the file of the declared frame is touched.
const CARRIERS: u8 = 2;

/// Why a frame's file gives no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The folder was read and does not have the file.
    Vanished,
    /// Bytes were read and are wrong.
    Corrupt,
    /// The folder of the epoch is not there.
    Away,
    /// The disk does not give the bytes now.
    Unreadable,
}

impl Fault {
    /// True when the fault proves the loss of the frame. Other faults may be over at the next try.
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

/// Operation on a frame's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Delete,
    /// Keep the file where it is not sent, for inspection.
    SetAside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    Acknowledged,
    Doomed {
        operation: Operation,
        /// Number of the last collection before the frame was given up.
        collection: u64,
        /// Frames on the disk with a later collection.
        carriers: u8,
    },
    Due(Operation),
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Disk,
    Memory,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// `None` for a frame of an earlier run whose header was not read.
    kind: Option<FrameKind>,
    state: State,
    store: Store,
}

impl Entry {
    /// True when giving up the frame would gain room in `store`.
    fn is_relievable(&self, store: Store) -> bool {
        self.store == store && matches!(self.state, State::Unsent | State::Acknowledged)
    }
}

/// Place of an epoch in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) epoch: Epoch,
    pub(super) previous: Option<Epoch>,
    /// Wall clock of its first readable frame, ns since 1970.
    pub(super) captured_ns: i64,
}

#[derive(Debug)]
struct Book {
    origin: Origin,
    frames: BTreeMap<u64, Entry>,
    /// True when every file in the epoch's folder is known here; false once the folder was away.
    is_listed: bool,
    /// Set while the next frame cannot be read. Later frames of the epoch wait, so that the epoch arrives in order;
    /// other epochs go on.
    wait: Option<Wait>,
}

impl Book {
    fn new(origin: Origin) -> Self {
        Self { origin, frames: BTreeMap::new(), is_listed: true, wait: None }
    }

    fn id(&self, seq: u64) -> FrameId {
        FrameId { epoch: self.origin.epoch, seq }
    }

    fn next_unsent(&self) -> Option<FrameId> {
        let next = self.frames.iter().find(|(_, entry)| entry.state == State::Unsent);
        next.map(|(&seq, _)| self.id(seq))
    }
}

/// Limits on the bytes of frames that are not given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) disk_bytes: u64,
    pub(super) memory_bytes: u64,
}

/// The oldest frames that can be given up together.
enum Group {
    /// This frame's header is to be read first.
    Unread(FrameId),
    Known(Vec<FrameId>),
    None,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of their making.
    books: Vec<Book>,
    declarations: Declarations,
    /// Collections of declarations so far.
    collections: u64,
    /// Lost ranges of the last collection; `None` when it could not hold everything pending.
    collected: Option<Vec<LostRange>>,
    /// The newest frame on the disk, and its key.
    kept: Option<(FrameId, FrameId)>,
    /// The newest frame of this run.
    newest: Option<FrameId>,
    boot_id: String,
    /// Bytes of the largest frame: the room that a further frame may need.
    frame_bytes_max: u64,
    unsent_frames: u64,
    unsent_bytes: u64,
    /// Files removed so far; a listing that is older than the last removal is stale.
    removals: u64,
    /// Frames given up since the start.
    pub(super) dropped_frames: u64,
    /// True when the next frame should be a key, so that older frames can be given up as a group.
    pub(super) wants_key: bool,
    pub(super) patience: Patience,
}

/// Events: frames that appear.
impl Ledger {
    /// Adds the files of an epoch found on the disk: bytes by seq. `removals` is the value of [`Ledger::removals`]
    /// before the listing. Known frames are left unchanged.
    pub(super) fn found(&mut self, origin: Origin, files: &BTreeMap<u64, u64>, removals: u64) {
        let is_new = self.book(origin.epoch).is_none();
        if removals != self.removals || (is_new && files.is_empty()) {
            return;
        }
        let book = self.book_or_new(origin);
        (book.is_listed, book.wait) = (true, None);
        let known: BTreeSet<u64> = book.frames.keys().copied().collect();
        for (&seq, &bytes) in files.iter().filter(|(seq, _)| !known.contains(seq)) {
            let entry = Entry { bytes, kind: None, state: State::Unsent, store: Store::Disk };
            self.insert(FrameId { epoch: origin.epoch, seq }, entry);
        }
    }

    /// The newest frame of the earlier run, and the seq of its key.
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
        if self.book(id.epoch).is_none() {
            self.books.push(Book::new(origin));
        }
        self.insert(id, Entry { bytes, kind: Some(header.kind), state: State::Unsent, store });
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
            if let State::Doomed { operation, collection, carriers } = &mut entry.state
                && *collection < last
            {
                *carriers += 1;
                if *carriers == CARRIERS {
                    entry.state = State::Due(*operation);
                }
            }
        }
    }

    /// Keeps the newest frame and its key. The frames kept before are removed as soon as Kafka has them.
    fn keep(&mut self, newest: FrameId, key: FrameId) {
        let Some((newest_before, key_before)) = self.kept.replace((newest, key)) else { return };
        for id in [newest_before, key_before].into_iter().filter(|&id| id != key) {
            if let Some(entry) = self.entry(id).filter(|entry| entry.state == State::Acknowledged) {
                entry.state = State::Due(Operation::Delete);
            }
        }
    }

    /// A frame in memory was written to the disk. False when the frame is not known any more.
    pub(super) fn moved_to_disk(&mut self, id: FrameId) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        entry.store = Store::Disk;
        true
    }

    /// Makes a doomed frame unsent again: the file is whole after all.
    pub(super) fn revived(&mut self, header: &FrameHeader, bytes: u64) {
        let entry = Entry { bytes, kind: None, state: State::Unsent, store: Store::Disk };
        self.insert(FrameId::of(header), entry);
    }
}

/// Events: what becomes of frames.
impl Ledger {
    /// Kafka has the frame and its declarations. Returns the frame when its file is to be removed.
    pub(super) fn acknowledged(&mut self, header: &FrameHeader) -> Option<FrameId> {
        self.declarations.confirm(header);
        let id = FrameId::of(header);
        let is_kept = self.kept.is_some_and(|(newest, key)| id == newest || id == key);
        let store = self.entry(id)?.store;
        if store == Store::Memory {
            self.forget(id);
            return None;
        }
        self.set_state(id, if is_kept { State::Acknowledged } else { State::Due(Operation::Delete) });
        (!is_kept).then_some(id)
    }

    /// Whether this frame is there and still to be sent.
    pub(super) fn is_unsent(&self, id: FrameId) -> bool {
        self.get(id).is_some_and(|entry| entry.state == State::Unsent)
    }

    /// Ends the wait of an epoch: its frame was read. True when the epoch had waited.
    pub(super) fn was_read(&mut self, id: FrameId) -> bool {
        self.book_mut(id.epoch).is_some_and(|book| book.wait.take().is_some())
    }

    /// Notes a failed try to read a frame. True when patience is over: the frame is to be given up if other frames can
    /// be read.
    pub(super) fn failed(&mut self, id: FrameId, fault: Fault, words: String, now: Instant) -> bool {
        let patience = self.patience;
        let Some(book) = self.book_mut(id.epoch) else { return false };
        book.is_listed &= fault != Fault::Away;
        book.wait.get_or_insert_with(|| Wait::new(now)).failed(&patience, now, words)
    }

    /// Gives up a frame after a proof of its loss, or after patience is over. With a folder that is away, all frames of
    /// the epoch are given up. True when the frame was still unsent.
    pub(super) fn give_up(&mut self, id: FrameId, fault: Fault, now: Instant) -> bool {
        if !self.is_unsent(id) {
            return false;
        }
        if fault == Fault::Away {
            self.give_up_epoch(id.epoch, fault);
        } else {
            self.doom(id, fault.reason(), Operation::SetAside);
        }
        // The next frame is tried at once.
        if let Some(wait) = self.book_mut(id.epoch).and_then(|book| book.wait.as_mut()) {
            wait.until = now;
        }
        true
    }

    /// Gives up an epoch whose folder is away. A folder that comes back is listed like that of an unknown epoch.
    fn give_up_epoch(&mut self, epoch: Epoch, fault: Fault) {
        let Some(book) = self.book(epoch) else { return };
        let on_disk = book.frames.iter().filter(|(_, entry)| entry.store == Store::Disk);
        let gone: Vec<(FrameId, State)> = on_disk.map(|(&seq, entry)| (book.id(seq), entry.state)).collect();
        for (id, state) in gone {
            if state == State::Unsent {
                self.declarations.lose(id, fault.reason());
                self.dropped_frames += 1;
            }
            if state != State::Acknowledged {
                self.forget(id);
            }
        }
    }

    /// Takes the epochs with a folder on the disk. Returns the epochs whose folders are to be listed: unknown epochs,
    /// and epochs that were away.
    pub(super) fn unlisted(&mut self, on_disk: &BTreeSet<Epoch>) -> Vec<Epoch> {
        for book in &mut self.books {
            let has_files = book.frames.values().any(|entry| entry.store == Store::Disk);
            book.is_listed &= !has_files || on_disk.contains(&book.origin.epoch);
        }
        let newest = self.newest.map(|id| id.epoch);
        self.books.retain(|book| {
            let epoch = book.origin.epoch;
            !book.frames.is_empty() || on_disk.contains(&epoch) || Some(epoch) == newest
        });
        let is_listed = |epoch| self.book(epoch).is_some_and(|book| book.is_listed);
        on_disk.iter().copied().filter(|&epoch| !is_listed(epoch)).collect()
    }

    /// Files to delete or to set aside now, oldest first.
    pub(super) fn due(&self) -> Vec<(FrameId, Operation)> {
        let due = |(id, entry): (FrameId, &Entry)| match entry.state {
            State::Due(operation) => Some((id, operation)),
            _ => None,
        };
        self.entries().filter_map(due).collect()
    }

    /// The file was removed or set aside. True when its epoch has no frame left.
    pub(super) fn done(&mut self, id: FrameId) -> bool {
        self.forget(id);
        self.removals += 1;
        self.book(id.epoch).is_none_or(|book| book.frames.is_empty())
    }

    /// Files removed so far.
    pub(super) fn removals(&self) -> u64 {
        self.removals
    }
}

/// Events: limits.
impl Ledger {
    /// Gives up whole key groups, oldest first, until the rest fits `room` together with the two frames that will declare
    /// them, each of the largest size. Returns a frame whose header is to be read before this can go on
    /// ([`Ledger::examined`]); frames in `unreadable` are passed over.
    pub(super) fn relieve(&mut self, room: Room, unreadable: &BTreeSet<FrameId>) -> Option<FrameId> {
        self.wants_key = false;
        let limits = [(Store::Disk, room.disk_bytes, "spool_full"), (Store::Memory, room.memory_bytes, "memory_full")];
        for (store, limit, reason) in limits {
            // A folder that is away takes no room here.
            let books = self.books.iter().filter(|book| store == Store::Memory || book.is_listed);
            let entries = books.flat_map(|book| book.frames.values()).filter(|entry| entry.is_relievable(store));
            let mut bytes: u64 = entries.map(|entry| entry.bytes).sum();
            while bytes.saturating_add(2 * self.frame_bytes_max) > limit {
                match self.oldest_group(store, unreadable) {
                    Group::Unread(id) => return Some(id),
                    Group::Known(group) => {
                        for id in group {
                            bytes = bytes.saturating_sub(self.get(id).map_or(0, |entry| entry.bytes));
                            self.doom(id, reason, Operation::Delete);
                        }
                    }
                    Group::None => {
                        self.wants_key |= bytes > self.frame_bytes_max;
                        break;
                    }
                }
            }
        }
        None
    }

    /// The oldest key with its deltas, unless the kept frames or the newest frame are among them.
    fn oldest_group(&self, store: Store, unreadable: &BTreeSet<FrameId>) -> Group {
        let is_kept =
            |id: FrameId| Some(id) == self.newest || self.kept.is_some_and(|(newest, key)| id == newest || id == key);
        for book in self.books.iter().filter(|book| store == Store::Memory || book.is_listed) {
            let mut group: Vec<FrameId> = Vec::new();
            for (&seq, entry) in book.frames.iter().filter(|(_, entry)| entry.is_relievable(store)) {
                let id = book.id(seq);
                match entry.kind {
                    _ if unreadable.contains(&id) => continue,
                    None => return Group::Unread(id),
                    Some(FrameKind::Key) if group.iter().any(|&id| is_kept(id)) => group.clear(),
                    Some(FrameKind::Key) if !group.is_empty() => return Group::Known(group),
                    Some(_) => {}
                }
                group.push(id);
            }
            if !group.is_empty() && !group.iter().any(|&id| is_kept(id)) {
                return Group::Known(group);
            }
        }
        Group::None
    }

    /// Takes the header of a frame of an earlier run, so that the frame can be given up: its declarations are pending
    /// again. Missed ticks only within the same boot, since their times are of its clock.
    pub(super) fn examined(&mut self, header: &FrameHeader) {
        let missed = if header.boot_id == self.boot_id { header.missed.as_slice() } else { &[] };
        self.declarations.take_over(&header.lost, missed);
        if let Some(entry) = self.entry(FrameId::of(header)) {
            entry.kind = Some(header.kind);
        }
    }
}

/// Declarations.
impl Ledger {
    /// Ticks that became no frame.
    pub(super) fn missed(&mut self, missed: MissedTicks) {
        self.declarations.take_over(&[], &[missed]);
    }

    /// Declarations of an earlier run.
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

/// Questions.
impl Ledger {
    /// The oldest unsent frame of the epochs that do not wait.
    pub(super) fn oldest_unsent(&self, now: Instant) -> Option<FrameId> {
        let ready = |book: &&Book| book.wait.as_ref().is_none_or(|wait| wait.until <= now);
        self.books.iter().filter(ready).find_map(Book::next_unsent)
    }

    /// The oldest unsent frame in memory.
    pub(super) fn oldest_in_memory(&self) -> Option<FrameId> {
        let mut entries = self.entries();
        entries.find_map(|(id, entry)| (entry.store == Store::Memory && entry.state == State::Unsent).then_some(id))
    }

    /// Whether the frame is in memory.
    pub(super) fn is_in_memory(&self, id: FrameId) -> bool {
        self.get(id).is_some_and(|entry| entry.store == Store::Memory)
    }

    /// Neighbours of a frame on the disk: the next two frames, the frame before, and the newest frame.
    pub(super) fn neighbours(&self, id: FrameId) -> Vec<FrameId> {
        let on_disk: Vec<FrameId> =
            self.entries().filter(|(_, entry)| entry.store == Store::Disk).map(|(id, _)| id).collect();
        let at = on_disk.iter().position(|&other| other == id).unwrap_or(on_disk.len());
        let around = on_disk.iter().take(at + 3).skip(at.saturating_sub(1)).chain(on_disk.last());
        around.copied().filter(|&other| other != id).collect()
    }

    /// When the next epoch that waits is to be tried again.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.waits().map(|wait| wait.until).filter(|until| *until > now).min()
    }

    /// The fault of the epoch that waits longest, and since when, in words.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let wait = self.waits().min_by_key(|wait| wait.since)?;
        let seconds = now.saturating_duration_since(wait.since).as_secs();
        Some(format!("for {seconds} s: {}; it is tried again, {} epochs wait", wait.words, self.waits().count()))
    }

    fn waits(&self) -> impl Iterator<Item = &Wait> {
        self.books.iter().filter(|book| book.next_unsent().is_some()).filter_map(|book| book.wait.as_ref())
    }

    /// Unsent frames, and their bytes.
    pub(super) fn unsent(&self) -> (u64, u64) {
        (self.unsent_frames, self.unsent_bytes)
    }

    /// Bytes of all files.
    pub(super) fn disk_bytes(&self) -> u64 {
        let books = self.books.iter().filter(|book| book.is_listed);
        let entries = books.flat_map(|book| book.frames.values()).filter(|entry| entry.store == Store::Disk);
        entries.map(|entry| entry.bytes).sum()
    }

    /// All frames, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = FrameId> {
        self.books.iter().rev().flat_map(|book| book.frames.keys().rev().map(|&seq| book.id(seq)))
    }
}

/// Transitions.
impl Ledger {
    fn doom(&mut self, id: FrameId, reason: &'static str, operation: Operation) {
        let Some(entry) = self.get(id) else { return };
        // A delivered frame is not lost.
        if entry.state == State::Unsent {
            self.dropped_frames += 1;
            self.declarations.lose(id, reason);
        }
        // Deltas whose key is lost are of no use.
        self.wants_key |= self.kept.is_some_and(|(_, key)| key == id);
        if self.is_in_memory(id) {
            // Its declaration lives as long as the frame could have.
            self.forget(id);
        } else {
            self.set_state(id, State::Doomed { operation, collection: self.collections, carriers: 0 });
        }
    }

    fn insert(&mut self, id: FrameId, entry: Entry) {
        self.forget(id);
        self.unsent_frames += 1;
        self.unsent_bytes += entry.bytes;
        self.frame_bytes_max = self.frame_bytes_max.max(entry.bytes);
        if let Some(book) = self.book_mut(id.epoch) {
            book.frames.insert(id.seq, entry);
        }
    }

    fn set_state(&mut self, id: FrameId, state: State) {
        let Some(entry) = self.entry(id) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        if before == State::Unsent && state != State::Unsent {
            let bytes = entry.bytes;
            self.unsent_frames -= 1;
            self.unsent_bytes -= bytes;
            // A wait is over when nothing is left to wait for.
            if let Some(book) = self.book_mut(id.epoch).filter(|book| book.wait.is_some()) {
                book.wait = book.wait.take().filter(|_| book.next_unsent().is_some());
            }
        }
    }

    fn forget(&mut self, id: FrameId) {
        self.set_state(id, State::Acknowledged);
        if let Some(book) = self.book_mut(id.epoch) {
            book.frames.remove(&id.seq);
        }
    }

    fn book_or_new(&mut self, origin: Origin) -> &mut Book {
        let known = self.books.iter().rposition(|book| book.origin.epoch == origin.epoch);
        let at = known.unwrap_or_else(|| {
            let at = self.place(&origin);
            self.books.insert(at, Book::new(origin));
            at
        });
        &mut self.books[at]
    }

    /// Place of a new book: behind the epoch named as its previous, before every epoch that names the new one; in
    /// between by the wall clock.
    fn place(&self, origin: &Origin) -> usize {
        let position = |is_it: &dyn Fn(&Origin) -> bool| self.books.iter().position(|book| is_it(&book.origin));
        let first = position(&|other| Some(other.epoch) == origin.previous).map_or(0, |at| at + 1);
        let last = position(&|other| other.previous == Some(origin.epoch)).unwrap_or(self.books.len());
        let mut between = self.books.iter().take(last).skip(first);
        let later = between.position(|book| book.origin.captured_ns > origin.captured_ns);
        // Epochs that name each other in a circle were not made by an agent.
        later.map_or(last, |later| first + later)
    }

    fn book(&self, epoch: Epoch) -> Option<&Book> {
        self.books.iter().rfind(|book| book.origin.epoch == epoch)
    }

    fn book_mut(&mut self, epoch: Epoch) -> Option<&mut Book> {
        self.books.iter_mut().rfind(|book| book.origin.epoch == epoch)
    }

    fn get(&self, id: FrameId) -> Option<&Entry> {
        self.book(id.epoch)?.frames.get(&id.seq)
    }

    fn entry(&mut self, id: FrameId) -> Option<&mut Entry> {
        self.book_mut(id.epoch)?.frames.get_mut(&id.seq)
    }

    fn entries(&self) -> impl Iterator<Item = (FrameId, &Entry)> {
        self.books.iter().flat_map(|book| book.frames.iter().map(|(&seq, entry)| (book.id(seq), entry)))
    }
}
