//! Pending declarations: lost frames and missed ticks not yet declared by an acknowledged frame.
//!
//! The pending set is exact but for thinned time. A frame carries the whole set in at most [`RANGES_MAX`] entries of
//! each kind: beyond that number the copy for a frame is made coarser, never shorter. A coarse range may cover frames
//! that are not lost; a reader counts every frame that arrives as delivered, regardless of declarations.
//!
//! Thinned time is always one range of each epoch, from the first thinned frame to the last, because a week of holes
//! would make each frame a hundred times larger. When such time is dropped whole, its range moves to that reason.

use std::collections::BTreeMap;

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, LostRange, MissedTicks};
use edr_wire::limits::RANGES_MAX;

use super::FrameId;

/// Reason of a range joined from all ranges of an epoch, for want of room in a frame.
const MANY: &str = "many";

/// Reason of a range of which some frames were given up for lack of room, and one frame of each span of time was kept.
pub(super) const THINNED: &str = "thinned";

/// Losses and missed ticks that later frames still have to declare.
#[derive(Debug, Default)]
pub(super) struct PendingDeclarations {
    lost: Vec<LostRange>,
    missed: Vec<MissedTicks>,
}

/// Declarations of one frame.
#[derive(Debug)]
pub(super) struct FrameDeclarations {
    pub(super) lost: Vec<LostRange>,
    pub(super) missed: Vec<MissedTicks>,
    /// True when everything pending is included; false only with losses in more than [`RANGES_MAX`] epochs.
    pub(super) is_complete: bool,
}

impl PendingDeclarations {
    /// Adds a lost frame.
    pub(super) fn lose(&mut self, id: FrameId, reason: &str) {
        let range = LostRange { epoch: id.epoch, first_seq: id.seq, last_seq: id.seq, reason: reason.to_owned() };
        self.take_over(&[range], &[]);
    }

    /// Adds frames of one epoch, in order, given up for lack of room. Thinned frames become one range. Other frames are
    /// the oldest of the epoch, so what was thinned before the last of them is now dropped whole, too.
    pub(super) fn lose_for_room(&mut self, frames: &[FrameId], reason: &str) {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return };
        let range =
            |first_seq, last_seq| LostRange { epoch: first.epoch, first_seq, last_seq, reason: reason.to_owned() };
        if reason == THINNED {
            self.take_over(&[range(first.seq, last.seq)], &[]);
            return;
        }
        let mut ranges: Vec<LostRange> = frames.iter().map(|id| range(id.seq, id.seq)).collect();
        let is_thinned = |known: &&mut LostRange| known.epoch == first.epoch && known.reason == THINNED;
        if let Some(thinned) = self.lost.iter_mut().find(is_thinned)
            && thinned.first_seq <= last.seq
        {
            ranges.push(range(thinned.first_seq, last.seq));
            thinned.first_seq = last.seq.saturating_add(1);
        }
        self.lost.retain(|known| known.first_seq <= known.last_seq);
        self.take_over(&ranges, &[]);
    }

    /// Adds the declarations of another frame.
    pub(super) fn take_over(&mut self, lost: &[LostRange], missed: &[MissedTicks]) {
        for new in lost {
            if !self.lost.iter().any(|known| contains(known, new)) {
                self.lost.push(new.clone());
            }
        }
        join_neighbours(&mut self.lost);
        for new in missed {
            if !self.missed.iter().any(|known| includes(known, new)) {
                self.missed.retain(|known| !includes(new, known));
                self.missed.push(new.clone());
            }
        }
    }

    /// Removes the declarations of an acknowledged frame.
    pub(super) fn confirm(&mut self, header: &FrameHeader) {
        for said in &header.lost {
            subtract(&mut self.lost, said);
        }
        self.missed.retain(|pending| !header.missed.iter().any(|said| includes(said, pending)));
    }

    /// Everything pending, in at most [`RANGES_MAX`] entries of each kind.
    pub(super) fn for_a_frame(&self) -> FrameDeclarations {
        let mut lost = self.lost.clone();
        let mut is_complete = true;
        while lost.len() > RANGES_MAX {
            if !join_largest_epoch(&mut lost) {
                lost.truncate(RANGES_MAX);
                is_complete = false;
            }
        }
        let missed =
            if self.missed.len() > RANGES_MAX { one_of_each_reason(&self.missed) } else { self.missed.clone() };
        FrameDeclarations { lost, missed, is_complete }
    }
}

/// True when `outer` declares every frame of `inner`. A range of thinned frames stands for no other reason: the frames
/// kept in between may be lost later.
fn contains(outer: &LostRange, inner: &LostRange) -> bool {
    stands_for(outer, inner) && outer.first_seq <= inner.first_seq && inner.last_seq <= outer.last_seq
}

fn stands_for(outer: &LostRange, inner: &LostRange) -> bool {
    outer.epoch == inner.epoch && (outer.reason != THINNED || inner.reason == THINNED)
}

fn includes(outer: &MissedTicks, inner: &MissedTicks) -> bool {
    let within = outer.from_boottime_ns <= inner.from_boottime_ns && inner.to_boottime_ns <= outer.to_boottime_ns;
    within && outer.reason == inner.reason && outer.ticks >= inner.ticks
}

/// Joins touching or overlapping ranges of the same epoch and reason, and all ranges of thinned frames of an epoch.
fn join_neighbours(lost: &mut Vec<LostRange>) {
    lost.sort_by(|a, b| (a.epoch, &a.reason, a.first_seq).cmp(&(b.epoch, &b.reason, b.first_seq)));
    lost.dedup_by(|next, known| {
        let kin = known.epoch == next.epoch && known.reason == next.reason;
        let touch = kin && (known.reason == THINNED || next.first_seq <= known.last_seq.saturating_add(1));
        if touch {
            known.last_seq = known.last_seq.max(next.last_seq);
        }
        touch
    });
}

/// Removes `said` from the ranges.
fn subtract(lost: &mut Vec<LostRange>, said: &LostRange) {
    let is_meant = |range: &LostRange| stands_for(said, range) && overlap(range, said);
    if !lost.iter().any(is_meant) {
        return;
    }
    let mut left = Vec::with_capacity(lost.len() + 1);
    for range in lost.drain(..) {
        if !is_meant(&range) {
            left.push(range);
            continue;
        }
        if range.first_seq < said.first_seq {
            left.push(LostRange { last_seq: said.first_seq - 1, ..range.clone() });
        }
        if range.last_seq > said.last_seq {
            left.push(LostRange { first_seq: said.last_seq + 1, ..range });
        }
    }
    *lost = left;
}

fn overlap(a: &LostRange, b: &LostRange) -> bool {
    a.first_seq <= b.last_seq && b.first_seq <= a.last_seq
}

/// Joins all ranges of the epoch with the most ranges. False when no epoch has two.
fn join_largest_epoch(lost: &mut Vec<LostRange>) -> bool {
    let mut ranges: BTreeMap<Epoch, usize> = BTreeMap::new();
    lost.iter().for_each(|range| *ranges.entry(range.epoch).or_default() += 1);
    let Some((&epoch, _)) = ranges.iter().filter(|(_, count)| **count > 1).max_by_key(|(_, count)| **count) else {
        return false;
    };
    let mut all = LostRange { epoch, first_seq: u64::MAX, last_seq: 0, reason: MANY.to_owned() };
    lost.retain(|range| {
        if range.epoch == epoch {
            all.first_seq = all.first_seq.min(range.first_seq);
            all.last_seq = all.last_seq.max(range.last_seq);
        }
        range.epoch != epoch
    });
    lost.push(all);
    true
}

/// Joins the entries of each reason, with the exact number of ticks. Reasons are few.
fn one_of_each_reason(missed: &[MissedTicks]) -> Vec<MissedTicks> {
    let mut joined: BTreeMap<&str, MissedTicks> = BTreeMap::new();
    for entry in missed {
        joined
            .entry(&entry.reason)
            .and_modify(|all| {
                all.from_boottime_ns = all.from_boottime_ns.min(entry.from_boottime_ns);
                all.to_boottime_ns = all.to_boottime_ns.max(entry.to_boottime_ns);
                all.ticks = all.ticks.saturating_add(entry.ticks);
            })
            .or_insert_with(|| entry.clone());
    }
    joined.into_values().take(RANGES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::header;
    use super::*;

    fn id(epoch: u8, seq: u64) -> FrameId {
        FrameId { epoch: Epoch([epoch; 8]), seq }
    }

    fn covers(lost: &[LostRange], id: FrameId) -> bool {
        lost.iter().any(|range| range.epoch == id.epoch && (range.first_seq..=range.last_seq).contains(&id.seq))
    }

    #[test]
    fn neighbours_join_and_a_confirmation_removes_only_the_named_ranges() {
        let mut pending = PendingDeclarations::default();
        [3, 1, 2, 5].into_iter().for_each(|seq| pending.lose(id(1, seq), "spool_full"));
        pending.lose(id(1, 4), "corrupt");
        pending.lose(id(1, 2), "corrupt");
        let ranges = |pending: &PendingDeclarations| {
            let range = |range: &LostRange| (range.first_seq, range.last_seq, range.reason.clone());
            pending.for_a_frame().lost.iter().map(range).collect::<Vec<_>>()
        };
        let full = |first, last| (first, last, "spool_full".to_owned());
        assert_eq!(ranges(&pending), [(4, 4, "corrupt".to_owned()), full(1, 3), full(5, 5)]);
        let mut acknowledged = header(id(9, 1));
        acknowledged.lost = vec![LostRange { epoch: Epoch([1; 8]), first_seq: 2, last_seq: 4, reason: "many".into() }];
        pending.confirm(&acknowledged);
        assert_eq!(ranges(&pending), [full(1, 1), full(5, 5)]);
        acknowledged.lost[0].epoch = Epoch([2; 8]);
        acknowledged.lost[0].first_seq = 1;
        pending.confirm(&acknowledged);
        assert_eq!(ranges(&pending), [full(1, 1), full(5, 5)], "another epoch");
    }

    #[test]
    fn too_many_ranges_become_coarser_and_none_is_left_out() {
        let mut pending = PendingDeclarations::default();
        for seq in 1..=2_000 {
            pending.lose(id(1, 2 * seq), "corrupt");
        }
        for epoch in 2..200 {
            pending.lose(id(epoch, 7), "vanished");
        }
        let carried = pending.for_a_frame();
        assert!(carried.is_complete && carried.lost.len() == 199);
        assert!((1..=2_000).all(|seq| covers(&carried.lost, id(1, 2 * seq))));
        assert!((2..200).all(|epoch| covers(&carried.lost, id(epoch, 7))));
        assert!(carried.lost.iter().any(|range| range.reason == "many"));
        let mut acknowledged = header(id(250, 1));
        acknowledged.lost = carried.lost;
        pending.confirm(&acknowledged);
        assert!(pending.for_a_frame().lost.is_empty());
    }

    #[test]
    fn a_frame_that_cannot_carry_everything_is_incomplete() {
        let mut pending = PendingDeclarations::default();
        for number in 0..RANGES_MAX as u64 + 1 {
            pending.lose(FrameId { epoch: Epoch(number.to_be_bytes()), seq: 1 }, "spool_full");
        }
        let carried = pending.for_a_frame();
        assert!(!carried.is_complete && carried.lost.len() == RANGES_MAX);
    }

    #[test]
    fn missed_ticks_are_counted_once() {
        let tick = |from: u64, to: u64, ticks| MissedTicks {
            from_boottime_ns: from,
            to_boottime_ns: to,
            ticks,
            reason: "overrun".to_owned(),
        };
        let mut pending = PendingDeclarations::default();
        pending.take_over(&[], &[tick(10, 30, 3)]);
        pending.take_over(&[], &[tick(20, 20, 1), tick(50, 60, 2)]);
        assert_eq!(pending.for_a_frame().missed, [tick(10, 30, 3), tick(50, 60, 2)]);
        pending.take_over(&[], &[tick(0, 100, 9)]);
        assert_eq!(pending.for_a_frame().missed, [tick(0, 100, 9)]);
        let mut acknowledged = header(id(1, 1));
        acknowledged.missed = vec![tick(0, 99, 9)];
        pending.confirm(&acknowledged);
        assert_eq!(pending.for_a_frame().missed.len(), 1);
        acknowledged.missed = vec![tick(0, 100, 9)];
        pending.confirm(&acknowledged);
        assert!(pending.for_a_frame().missed.is_empty());
    }
}
