//! What later frames have to say about frames and ticks that will not come.
//!
//! A declaration is in every frame from its first one on, until Kafka has acknowledged one of them. So the newest
//! frame holds all that nobody has confirmed, and a start needs nothing else; and a reader, which may see the same
//! entry many times, takes their union.
//!
//! A frame may carry [`RANGES_MAX`] entries of each kind. Neighbours are joined, and beyond that number those that are
//! closest: what waited for a later frame would end with a crash.

use edr_wire::frame::{FrameHeader, LostRange, MissedTicks};
use edr_wire::limits::RANGES_MAX;

use super::FrameId;
use super::index::Place;

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
        self.lost.sort_by_cached_key(|entry| {
            let what = &entry.what;
            (entry.carrier.is_none(), what.epoch, what.reason.clone(), what.first_seq)
        });
        self.lost.dedup_by(|next, known| {
            let touch = known.what.gap(&next.what) == Some(0);
            let join = touch && known.carrier.is_some() == next.carrier.is_some();
            if join {
                known.what.extend(&next.what);
                known.carrier = known.carrier.max(next.carrier);
            }
            join
        });
        fit(&mut self.lost);
    }

    /// Ticks that became no frame.
    pub(super) fn missed(&mut self, missed: MissedTicks) {
        self.missed.push(Declared { what: missed, carrier: None });
        self.fit_missed();
    }

    /// Declarations of an earlier run that nobody is known to have confirmed.
    pub(super) fn take_over(&mut self, lost: &[LostRange], missed: &[MissedTicks]) {
        self.lost.extend(lost.iter().map(|what| Declared { what: what.clone(), carrier: None }));
        self.join_lost();
        self.missed.extend(missed.iter().map(|what| Declared { what: what.clone(), carrier: None }));
        self.fit_missed();
    }

    fn fit_missed(&mut self) {
        if self.missed.len() > RANGES_MAX {
            self.missed.sort_by_cached_key(|entry| {
                (entry.carrier.is_none(), entry.what.reason.clone(), entry.what.from_boottime_ns)
            });
            fit(&mut self.missed);
        }
    }

    /// As many as a frame may carry, those first that were carried before.
    pub(super) fn for_next_frame(&self) -> (Vec<LostRange>, Vec<MissedTicks>) {
        (
            self.lost.iter().take(RANGES_MAX).map(|entry| entry.what.clone()).collect(),
            self.missed.iter().take(RANGES_MAX).map(|entry| entry.what.clone()).collect(),
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

/// What two entries of one list have to do with each other.
trait Range {
    /// What lies between this one and `next`, which comes after it; `None` when they cannot be one.
    fn gap(&self, next: &Self) -> Option<u64>;
    /// Both, and what lies between them, as one.
    fn extend(&mut self, next: &Self);
}

impl Range for LostRange {
    /// In frames.
    fn gap(&self, next: &Self) -> Option<u64> {
        let kin = self.epoch == next.epoch && self.reason == next.reason;
        kin.then(|| next.first_seq.saturating_sub(self.last_seq.saturating_add(1)))
    }

    fn extend(&mut self, next: &Self) {
        self.last_seq = self.last_seq.max(next.last_seq);
    }
}

impl Range for MissedTicks {
    /// In ns.
    fn gap(&self, next: &Self) -> Option<u64> {
        let kin = self.reason == next.reason;
        kin.then(|| next.from_boottime_ns.checked_sub(self.to_boottime_ns)).flatten()
    }

    fn extend(&mut self, next: &Self) {
        self.to_boottime_ns = self.to_boottime_ns.max(next.to_boottime_ns);
        self.ticks = self.ticks.saturating_add(next.ticks);
    }
}

/// Makes the entries fit a frame, so that no crash finds one that no frame carries: joins those that are closest and as
/// far on their way. What is then declared beside the truth is what lies between them: a frame that came, or comes, is
/// not lost by that, and the number of ticks stays exact.
fn fit<T: Range>(list: &mut Vec<Declared<T>>) {
    while list.len() > RANGES_MAX {
        let gaps = list.windows(2).enumerate().filter_map(|(at, pair)| {
            let [a, b] = pair else { return None };
            (a.carrier.is_some() == b.carrier.is_some()).then(|| a.what.gap(&b.what))?.map(|gap| (gap, at))
        });
        // Kinds of loss are few; if each entry were of another one, the last would wait for their turn.
        let Some((_, at)) = gaps.min() else { return };
        let next = list.remove(at + 1);
        if let Some(first) = list.get_mut(at) {
            first.what.extend(&next.what);
            first.carrier = first.carrier.max(next.carrier);
        }
    }
}

/// Whether a declaration is about this frame.
pub(super) fn covers(lost: &LostRange, id: FrameId) -> bool {
    lost.epoch == id.epoch && (lost.first_seq..=lost.last_seq).contains(&id.seq)
}
