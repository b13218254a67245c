//! What later frames have to say about frames and ticks that will not come.
//!
//! A declaration is in every frame from its first one on, until Kafka has acknowledged one of them. So the newest frame
//! holds all that nobody has confirmed, and a start needs nothing else; and a reader, which may see the same entry many times,
//! takes their union.

use edr_wire::frame::{FrameHeader, LostRange, MissedTicks};

use super::FrameId;
use super::index::Place;

/// Entries of either list in one frame. The others wait for their turn: with 256 of each a header stays below 64 KiB.
pub(super) const ENTRIES_MAX: usize = 256;

#[derive(Debug)]
struct Declared<T> {
    what: T,
    /// The first frame that carries it.
    carrier: Option<Place>,
}

#[derive(Debug, Default)]
pub(super) struct Declarations {
    lost: Vec<Declared<LostRange>>,
    missed: Vec<Declared<MissedTicks>>,
}

impl Declarations {
    /// A frame that will not come. Joins a neighbour with the same reason.
    pub(super) fn lost(&mut self, id: FrameId, reason: &'static str) {
        let joins = |known: &&mut Declared<LostRange>| {
            let range = &known.what;
            range.epoch == id.epoch
                && range.reason == reason
                && (range.first_seq.saturating_sub(1)..=range.last_seq.saturating_add(1)).contains(&id.seq)
        };
        if let Some(known) = self.lost.iter_mut().find(joins) {
            let range = &mut known.what;
            if !(range.first_seq..=range.last_seq).contains(&id.seq) {
                (range.first_seq, range.last_seq) = (range.first_seq.min(id.seq), range.last_seq.max(id.seq));
                known.carrier = None;
            }
            return;
        }
        let what = LostRange { epoch: id.epoch, first_seq: id.seq, last_seq: id.seq, reason: reason.to_owned() };
        self.lost.push(Declared { what, carrier: None });
    }

    /// Ticks that became no frame. Beyond [`ENTRIES_MAX`] it joins the last one of the same reason, if no frame carries that yet.
    pub(super) fn missed(&mut self, missed: MissedTicks) {
        if self.missed.len() >= ENTRIES_MAX
            && let Some(last) = self.missed.last_mut().filter(|last| last.carrier.is_none())
            && last.what.reason == missed.reason
        {
            last.what.to_boottime_ns = last.what.to_boottime_ns.max(missed.to_boottime_ns);
            last.what.ticks += missed.ticks;
            return;
        }
        self.missed.push(Declared { what: missed, carrier: None });
    }

    /// Declarations of an earlier run that nobody is known to have confirmed.
    pub(super) fn take_over(&mut self, lost: &[LostRange], missed: &[MissedTicks]) {
        self.lost.extend(lost.iter().map(|what| Declared { what: what.clone(), carrier: None }));
        self.missed.extend(missed.iter().map(|what| Declared { what: what.clone(), carrier: None }));
    }

    pub(super) fn for_next_frame(&self) -> (Vec<LostRange>, Vec<MissedTicks>) {
        (
            self.lost.iter().take(ENTRIES_MAX).map(|entry| entry.what.clone()).collect(),
            self.missed.iter().take(ENTRIES_MAX).map(|entry| entry.what.clone()).collect(),
        )
    }

    /// Whether this frame's loss still has to be said, or heard.
    pub(super) fn is_pending(&self, id: FrameId) -> bool {
        self.lost.iter().any(|entry| covers(&entry.what, id))
    }

    /// The frame at `place` says what its header says.
    pub(super) fn carried(&mut self, header: &FrameHeader, place: Place) {
        for entry in self.lost.iter_mut().filter(|entry| entry.carrier.is_none()) {
            entry.carrier = header.lost.contains(&entry.what).then_some(place);
        }
        for entry in self.missed.iter_mut().filter(|entry| entry.carrier.is_none()) {
            entry.carrier = header.missed.contains(&entry.what).then_some(place);
        }
    }

    /// Kafka has the frame at `place`, and so what it carries.
    pub(super) fn confirmed(&mut self, place: Place) {
        let pending = |carrier: Option<Place>| carrier.is_none_or(|carrier| carrier > place);
        self.lost.retain(|entry| pending(entry.carrier));
        self.missed.retain(|entry| pending(entry.carrier));
    }
}

/// Whether a declaration is about this frame.
pub(super) fn covers(lost: &LostRange, id: FrameId) -> bool {
    lost.epoch == id.epoch && (lost.first_seq..=lost.last_seq).contains(&id.seq)
}
