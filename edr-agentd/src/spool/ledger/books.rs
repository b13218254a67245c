//! The books: the frames of each epoch with their states, in the order of their making.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edr_wire::Epoch;
use edr_wire::frame::FrameKind;

use super::patience::Wait;
use crate::spool::FrameId;

/// Operation on a frame's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) enum Operation {
    Delete,
    /// Move the file out of the way of sending, and keep the file for inspection.
    SetAside,
}

/// The state of a frame: see the head of [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameState {
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

/// Storage of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) enum Store {
    Disk,
    Memory,
}

/// The facts kept of each frame in the spool.
#[derive(Debug)]
pub(super) struct FrameEntry {
    pub(super) bytes: u64,
    /// Wall clock of the capture, in ns since 1970; the time of the write for a frame whose header was not read.
    pub(super) captured_ns: i64,
    /// `None` for a frame of an earlier run whose header was not read.
    pub(super) kind: Option<FrameKind>,
    pub(super) state: FrameState,
    pub(super) store: Store,
}

impl FrameEntry {
    /// An unsent frame on the disk whose header was not read.
    pub(super) fn unread(bytes: u64, written_ns: i64) -> Self {
        Self { bytes, captured_ns: written_ns, kind: None, state: FrameState::Unsent, store: Store::Disk }
    }

    /// True for a frame that was not given up.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.state, FrameState::Unsent | FrameState::Acknowledged)
    }

    /// True when giving up the frame would gain room in `store`.
    pub(super) fn is_relievable(&self, store: Store) -> bool {
        self.store == store && self.is_there()
    }
}

/// Place of an epoch in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) struct Origin {
    pub(in crate::spool) epoch: Epoch,
    pub(in crate::spool) previous: Option<Epoch>,
    /// Wall clock of a frame of the epoch, if possible of the first, in ns since 1970.
    pub(in crate::spool) captured_ns: i64,
}

/// The frames of one epoch.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) origin: Origin,
    pub(super) frames: BTreeMap<u64, FrameEntry>,
    /// True when every file in the epoch's folder is known here; false once the folder was away.
    pub(super) is_listed: bool,
    /// Set while the next frame cannot be read. Later frames of the epoch wait, so that the epoch arrives in order; all
    /// remaining epochs continue.
    pub(super) wait: Option<Wait>,
}

impl Book {
    fn new(origin: Origin) -> Self {
        Self { origin, frames: BTreeMap::new(), is_listed: true, wait: None }
    }

    pub(super) fn id(&self, seq: u64) -> FrameId {
        FrameId { epoch: self.origin.epoch, seq }
    }

    pub(super) fn next_unsent(&self) -> Option<FrameId> {
        let next = self.frames.iter().find(|(_, entry)| entry.state == FrameState::Unsent);
        next.map(|(&seq, _)| self.id(seq))
    }
}

/// The frames of all epochs.
#[derive(Debug, Default)]
pub(in crate::spool) struct Books {
    /// In the order of their making.
    books: Vec<Book>,
    unsent_frames: u64,
    unsent_bytes: u64,
    /// Bytes of the largest frame: the room needed for a further frame.
    pub(super) frame_bytes_max: u64,
}

/// Queries.
impl Books {
    /// The oldest unsent frame of all epochs without a wait.
    pub(in crate::spool) fn oldest_unsent(&self, now: Instant) -> Option<FrameId> {
        let ready = |book: &&Book| book.wait.as_ref().is_none_or(|wait| wait.until <= now);
        self.books.iter().filter(ready).find_map(Book::next_unsent)
    }

    /// The oldest unsent frame in memory.
    pub(in crate::spool) fn oldest_in_memory(&self) -> Option<FrameId> {
        let mut entries = self.entries();
        entries
            .find_map(|(id, entry)| (entry.store == Store::Memory && entry.state == FrameState::Unsent).then_some(id))
    }

    /// True for a frame in memory.
    pub(in crate::spool) fn is_in_memory(&self, id: FrameId) -> bool {
        self.get(id).is_some_and(|entry| entry.store == Store::Memory)
    }

    /// Neighbours of a frame on the disk: the next two frames, the frame before, and the newest frame.
    pub(in crate::spool) fn neighbours(&self, id: FrameId) -> Vec<FrameId> {
        let on_disk: Vec<FrameId> =
            self.entries().filter(|(_, entry)| entry.store == Store::Disk).map(|(id, _)| id).collect();
        let at = on_disk.iter().position(|&other| other == id).unwrap_or(on_disk.len());
        let around = on_disk.iter().take(at + 3).skip(at.saturating_sub(1)).chain(on_disk.last());
        around.copied().filter(|&other| other != id).collect()
    }

    /// Time of the next retry of a waiting epoch.
    pub(in crate::spool) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.waits().map(|wait| wait.until).filter(|until| *until > now).min()
    }

    /// Description and age of the longest wait.
    pub(in crate::spool) fn trouble(&self, now: Instant) -> Option<String> {
        let wait = self.waits().min_by_key(|wait| wait.since)?;
        let seconds = now.saturating_duration_since(wait.since).as_secs();
        Some(format!("for {seconds} s: {}; retrying, {} epochs wait", wait.words, self.waits().count()))
    }

    fn waits(&self) -> impl Iterator<Item = &Wait> {
        self.books.iter().filter(|book| book.next_unsent().is_some()).filter_map(|book| book.wait.as_ref())
    }

    /// Unsent frames, and their bytes.
    pub(in crate::spool) fn unsent(&self) -> (u64, u64) {
        (self.unsent_frames, self.unsent_bytes)
    }

    /// Bytes of all files.
    pub(in crate::spool) fn disk_bytes(&self) -> u64 {
        let books = self.books.iter().filter(|book| book.is_listed);
        let entries = books.flat_map(|book| book.frames.values()).filter(|entry| entry.store == Store::Disk);
        entries.map(|entry| entry.bytes).sum()
    }

    /// All frames, the newest first.
    pub(in crate::spool) fn newest_first(&self) -> impl Iterator<Item = FrameId> {
        self.books.iter().rev().flat_map(|book| book.frames.keys().rev().map(|&seq| book.id(seq)))
    }
}

/// Changes.
impl Books {
    pub(super) fn insert(&mut self, id: FrameId, entry: FrameEntry) {
        self.forget(id);
        self.unsent_frames += 1;
        self.unsent_bytes += entry.bytes;
        self.frame_bytes_max = self.frame_bytes_max.max(entry.bytes);
        if let Some(book) = self.book_mut(id.epoch) {
            book.frames.insert(id.seq, entry);
        }
    }

    pub(super) fn set_state(&mut self, id: FrameId, state: FrameState) {
        let Some(entry) = self.entry(id) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        if before == FrameState::Unsent && state != FrameState::Unsent {
            let bytes = entry.bytes;
            self.unsent_frames -= 1;
            self.unsent_bytes -= bytes;
            // A wait is over when nothing is left to wait for.
            if let Some(book) = self.book_mut(id.epoch).filter(|book| book.wait.is_some()) {
                book.wait = book.wait.take().filter(|_| book.next_unsent().is_some());
            }
        }
    }

    pub(super) fn forget(&mut self, id: FrameId) {
        self.set_state(id, FrameState::Acknowledged);
        if let Some(book) = self.book_mut(id.epoch) {
            book.frames.remove(&id.seq);
        }
    }

    pub(super) fn book_or_new(&mut self, origin: Origin) -> &mut Book {
        let known = self.books.iter().rposition(|book| book.origin.epoch == origin.epoch);
        let at = known.unwrap_or_else(|| {
            let at = self.place(&origin);
            self.books.insert(at, Book::new(origin));
            at
        });
        &mut self.books[at]
    }

    /// Index for a new book: after the previous epoch of `origin`, before every epoch with `origin` as its previous
    /// epoch; in between by the wall clock.
    fn place(&self, origin: &Origin) -> usize {
        let position = |is_it: &dyn Fn(&Origin) -> bool| self.books.iter().position(|book| is_it(&book.origin));
        let first = position(&|other| Some(other.epoch) == origin.previous).map_or(0, |at| at + 1);
        let last = position(&|other| other.previous == Some(origin.epoch)).unwrap_or(self.books.len());
        let mut between = self.books.iter().take(last).skip(first);
        let later = between.position(|book| book.origin.captured_ns > origin.captured_ns);
        // Epochs whose previous epochs form a circle were not made by an agent.
        later.map_or(last, |later| first + later)
    }

    pub(super) fn book(&self, epoch: Epoch) -> Option<&Book> {
        self.books.iter().rfind(|book| book.origin.epoch == epoch)
    }

    pub(super) fn book_mut(&mut self, epoch: Epoch) -> Option<&mut Book> {
        self.books.iter_mut().rfind(|book| book.origin.epoch == epoch)
    }

    pub(super) fn get(&self, id: FrameId) -> Option<&FrameEntry> {
        self.book(id.epoch)?.frames.get(&id.seq)
    }

    pub(super) fn entry(&mut self, id: FrameId) -> Option<&mut FrameEntry> {
        self.book_mut(id.epoch)?.frames.get_mut(&id.seq)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (FrameId, &FrameEntry)> {
        self.books.iter().flat_map(|book| book.frames.iter().map(|(&seq, entry)| (book.id(seq), entry)))
    }

    /// Appends a new book.
    pub(super) fn push(&mut self, origin: Origin) {
        self.books.push(Book::new(origin));
    }

    /// Drops the books without frames, except the epochs in `epochs` and the epoch `newest`.
    pub(super) fn drop_empty(&mut self, epochs: &BTreeSet<Epoch>, newest: Option<Epoch>) {
        self.books.retain(|book| {
            let epoch = book.origin.epoch;
            !book.frames.is_empty() || epochs.contains(&epoch) || Some(epoch) == newest
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Book> {
        self.books.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Book> {
        self.books.iter_mut()
    }
}
