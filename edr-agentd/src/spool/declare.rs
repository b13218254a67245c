//! What later frames have to say about frames and ticks that will not come.
//!
//! A declaration is in every frame from its first one on, until Kafka has acknowledged one of them. So the newest
//! frame holds all that nobody has confirmed, and a start needs nothing else; and a reader, which may see the same
//! entry many times, takes their union.

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
    /// A frame that will not come. Joins a neighbour with the same reason that no frame carries yet.
    pub(super) fn lost(&mut self, id: FrameId, reason: &'static str) {
        let what = LostRange { epoch: id.epoch, first_seq: id.seq, last_seq: id.seq, reason: reason.to_owned() };
        self.lost.push(Declared { what, carrier: None });
        self.join_lost();
    }

    /// Joins neighbours that are as far on their way: not carried yet, or carried by every frame from now on. What is
    /// carried stays in front, so that it stays in every frame.
    pub(super) fn join_lost(&mut self) {
        self.lost.sort_by_key(|entry| (entry.carrier.is_none(), entry.what.epoch, entry.what.first_seq));
        self.lost.dedup_by(|next, known| {
            let (a, b) = (&mut known.what, &next.what);
            let touch = b.first_seq <= a.last_seq.saturating_add(1);
            let join = a.epoch == b.epoch && a.reason == b.reason && touch;
            let join = join && known.carrier.is_some() == next.carrier.is_some();
            if join {
                a.last_seq = a.last_seq.max(b.last_seq);
                known.carrier = known.carrier.max(next.carrier);
            }
            join
        });
    }

    /// Ticks that became no frame. Beyond [`ENTRIES_MAX`] it joins the last one of the same reason, if no frame
    /// carries that yet.
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

    /// Whether the frame at `place` is the first to say that this frame is lost, or nobody said it yet.
    pub(super) fn is_new(&self, id: FrameId, place: Place) -> bool {
        let new = |entry: &Declared<LostRange>| entry.carrier.is_none_or(|carrier| carrier >= place);
        self.lost.iter().any(|entry| covers(&entry.what, id) && new(entry))
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
