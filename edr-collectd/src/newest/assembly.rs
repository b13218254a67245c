//! Collects parts until their frames are complete.
//!
//! Parts belong together when everything except the share of the body is equal. So a forged part waits in a separate
//! set and spoils no genuine frame, even if only the list of lost frames differs. All memory of waiting parts is
//! counted and bounded, per host and in total. An abandoned set is not lost: the records are archived, and a question
//! for that moment finds the frame there.

use std::collections::{BTreeMap, HashMap};

use edr_wire::HostId;
use edr_wire::frame::{Frame, Record};

use crate::archive::{ArchivedHeader, Cut, Place};
use crate::decode::{Rest, Rests};

/// Memory for waiting parts of one host, in bytes: the largest frame, and half of another.
const HOST_BYTES_MAX: usize = 48 << 20;
/// Memory for all waiting parts, in bytes.
const BYTES_MAX: usize = 256 << 20;
/// Incomplete frames of one host: the current frame, its successors, and forged frames under the same sequence number.
/// A frame is abandoned only when so many frames receive a part between two parts of the frame.
const HOST_SETS_MAX: usize = 32;
/// Incomplete frames in total.
const SETS_MAX: usize = 4_096;
/// Memory of a part without the body, in bytes: the record, in a vector with doubling capacity, and the location, in a
/// half-full tree.
const PART_BYTES: usize = 2 * size_of::<Record>() + 4 * size_of::<(u32, Place)>();
/// Memory of a set without parts, in bytes: the set itself and the index entries.
const SET_BYTES: usize = 2 * (size_of::<Set>() + size_of::<Cut>() + size_of::<Vec<u64>>());

/// A complete frame.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) header: ArchivedHeader,
    pub(super) places: BTreeMap<u32, Place>,
    /// The frame; `None` when a part came without its bytes.
    pub(super) frame: Option<Frame>,
}

/// The incomplete frames.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The sets, in the order in which their last parts arrived. The first set is abandoned first.
    sets: BTreeMap<u64, Set>,
    by_cut: HashMap<Cut, Vec<u64>>,
    of_host: HashMap<HostId, Share>,
    bytes: usize,
    next: u64,
    /// Number of abandoned sets.
    dropped: u64,
    rests: Rests,
}

#[derive(Debug)]
struct Set {
    header: ArchivedHeader,
    /// `None` for parts without bytes: the hash is unknown.
    rest: Option<Rest>,
    places: BTreeMap<u32, Place>,
    records: Vec<Record>,
    bytes: usize,
    since_ns: i64,
}

#[derive(Debug, Default)]
struct Share {
    sets: usize,
    bytes: usize,
}

impl Assembly {
    /// Adds a part. Returns the frame when the part was the last.
    pub(super) fn add(&mut self, header: &ArchivedHeader, place: Place, mut record: Option<Record>) -> Option<Whole> {
        let rest = record.as_mut().map(|record| self.rests.take(&mut record.header));
        if header.parts == 1 {
            let frame = record.map(|record| Frame::assemble(vec![record])).transpose().ok()?;
            return Some(Whole { header: header.clone(), places: BTreeMap::from([(0, place)]), frame });
        }
        let cut = header.cut();
        let alike = self.by_cut.get(&cut).cloned().unwrap_or_default();
        let own = alike.iter().copied().find(|number| self.sets.get(number).is_some_and(|set| set.rest == rest));
        let own = own.unwrap_or_else(|| self.start(cut, header, rest, &alike, place));
        let mut whole = self.put(own, header.part, place, record);
        if rest.is_none() {
            // The part may belong to any set of this cut.
            for other in alike.into_iter().filter(|number| *number != own) {
                whole = self.put(other, header.part, place, None).or(whole);
            }
        }
        if whole.is_some() {
            // The set of parts without bytes was waiting for the same frame.
            let alike = self.by_cut.get(&cut).into_iter().flatten();
            let without = alike.copied().find(|number| self.sets.get(number).is_some_and(|set| set.rest.is_none()));
            without.map(|number| self.remove(number));
        }
        self.shed(header.host_id);
        whole
    }

    /// Returns when the first part of the oldest set arrived (ns since the epoch), among sets begun after `after_ns`.
    pub(super) fn waiting_since_ns(&self, after_ns: i64) -> Option<i64> {
        self.sets.values().map(|set| set.since_ns).filter(|since| *since > after_ns).min()
    }

    /// Starts a set. Parts of this cut without bytes are included: the parts may belong to the same frame.
    fn start(&mut self, cut: Cut, header: &ArchivedHeader, rest: Option<Rest>, alike: &[u64], place: Place) -> u64 {
        let number = self.take_number();
        let mut alike = alike.iter().filter_map(|number| self.sets.get(number));
        let without = alike.find(|set| set.rest.is_none());
        let places = without.map(|set| set.places.clone()).unwrap_or_default();
        let since_ns = without.map_or(place.received_ns, |set| set.since_ns.min(place.received_ns));
        let bytes = SET_BYTES + places.len() * PART_BYTES;
        let set = Set { header: header.clone(), rest, places, records: Vec::new(), bytes, since_ns };
        self.sets.insert(number, set);
        self.by_cut.entry(cut).or_default().push(number);
        let share = self.of_host.entry(header.host_id).or_default();
        share.sets += 1;
        share.bytes += bytes;
        self.bytes += bytes;
        number
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds a part to a set, and moves the set to the end of the order of abandonment.
    fn put(&mut self, number: u64, part: u32, place: Place, record: Option<Record>) -> Option<Whole> {
        if self.sets.get(&number)?.places.contains_key(&part) {
            return None;
        }
        let mut set = self.sets.remove(&number)?;
        let bytes = PART_BYTES + record.as_ref().map_or(0, |record| record.body.capacity());
        set.places.insert(part, place);
        set.records.extend(record);
        set.bytes += bytes;
        self.bytes += bytes;
        self.of_host.entry(set.header.host_id).or_default().bytes += bytes;
        let is_whole = set.places.len() == set.header.parts as usize;
        let newest = self.take_number();
        if let Some(numbers) = self.by_cut.get_mut(&set.header.cut()) {
            numbers.iter_mut().filter(|known| **known == number).for_each(|known| *known = newest);
        }
        self.sets.insert(newest, set);
        if !is_whole {
            return None;
        }
        let set = self.remove(newest)?;
        let has_all = set.records.len() == set.header.parts as usize;
        let frame = if has_all { Frame::assemble(set.records).ok() } else { None };
        Some(Whole { header: set.header, places: set.places, frame })
    }

    fn remove(&mut self, number: u64) -> Option<Set> {
        let set = self.sets.remove(&number)?;
        let header = &set.header;
        let cut = header.cut();
        if let Some(numbers) = self.by_cut.get_mut(&cut) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.by_cut.remove(&cut);
            }
        }
        self.bytes = self.bytes.saturating_sub(set.bytes);
        if let Some(share) = self.of_host.get_mut(&header.host_id) {
            share.sets -= 1;
            share.bytes = share.bytes.saturating_sub(set.bytes);
            if share.sets == 0 {
                self.of_host.remove(&header.host_id);
            }
        }
        Some(set)
    }

    /// Abandons sets until the host and the total are within their limits.
    fn shed(&mut self, host_id: HostId) {
        loop {
            let share = self.of_host.get(&host_id);
            let host_is_over = share.is_some_and(|share| share.sets > HOST_SETS_MAX || share.bytes > HOST_BYTES_MAX);
            let victim = if host_is_over {
                self.sets.iter().find(|(_, set)| set.header.host_id == host_id).map(|(number, _)| *number)
            } else if self.bytes > BYTES_MAX || self.sets.len() > SETS_MAX {
                self.sets.first_key_value().map(|(number, _)| *number)
            } else {
                return;
            };
            let Some(number) = victim else { return };
            self.remove(number);
            self.dropped += 1;
            edr_daemon::limited!(
                log::Level::Warn,
                "host {host_id}: gave up waiting for the other parts of a frame; its records are archived"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use edr_wire::Epoch;
    use edr_wire::frame::{FrameHeader, LostRange, MissedTicks, PreviousEpoch};
    use edr_wire::limits::{PARTS_MAX, RANGES_MAX};

    use super::*;
    use crate::archive::testing::{header, noise, records};

    fn parts(n: u8, seq: u64, len: usize, part_bytes: usize) -> Vec<Record> {
        let bytes = records(&header(n, seq), &noise(len, seq), None, part_bytes);
        bytes.iter().map(|bytes| Record::decode(bytes).unwrap()).collect()
    }

    fn add(assembly: &mut Assembly, record: &Record, offset: i64) -> Option<Whole> {
        let place = Place { received_ns: offset, partition: 0, offset };
        assembly.add(&ArchivedHeader::from(record), place, Some(record.clone()))
    }

    #[test]
    fn parts_in_any_order_twice_and_mixed_with_another_sending_make_one_frame() {
        let (first, other) = (parts(1, 1, 3000, 512), parts(1, 2, 3000, 512));
        let mut assembly = Assembly::default();
        let mut offset = 0;
        let mut whole = None;
        for (a, b) in first.iter().rev().zip(&other) {
            for record in [a, b, a] {
                offset += 1;
                if a.part == 0 || b.part + 1 < b.parts {
                    whole = whole.or(add(&mut assembly, record, offset));
                }
            }
        }
        let whole = whole.unwrap();
        assert_eq!(whole.frame.unwrap().open(None).unwrap(), noise(3000, whole.header.seq));
    }

    #[test]
    fn parts_of_one_division_make_a_frame_beside_another_division() {
        let (large, small) = (parts(1, 1, 3000, 1024), parts(1, 1, 3000, 512));
        assert!(large.len() > 1 && small.len() > large.len());
        let mut assembly = Assembly::default();
        // A single part of a cut that is never completed, as a forger or a lowered size limit leaves behind.
        assert!(add(&mut assembly, &large[1], 1).is_none());
        let wholes: Vec<Whole> = small.iter().filter_map(|part| add(&mut assembly, part, 2)).collect();
        assert_eq!(wholes.len(), 1);
        assert_eq!(wholes[0].frame.as_ref().unwrap().open(None).unwrap(), noise(3000, 1));
    }

    #[test]
    fn a_host_with_unfinished_frames_costs_bounded_memory_of_its_own() {
        let mut assembly = Assembly::default();
        let good = parts(2, 1, 3000, 512);
        for record in &good[1..] {
            assert!(add(&mut assembly, record, 1).is_none());
        }
        let mut hostile = parts(1, 1, 6 << 20, 3 << 20).swap_remove(0);
        for seq in 1..=40 {
            hostile.header.seq = seq;
            assert!(add(&mut assembly, &hostile, 2).is_none());
            assert!(assembly.of_host[&hostile.header.host_id].bytes <= HOST_BYTES_MAX);
            assert!(assembly.of_host[&hostile.header.host_id].sets <= HOST_SETS_MAX);
        }
        assert_eq!(assembly.dropped, 25, "fifteen bodies of 3 MiB with what lies around them");
        assert!(add(&mut assembly, &good[0], 3).unwrap().frame.is_some(), "another host's frame is not touched");
        assert_eq!(assembly.bytes, assembly.sets.values().map(|set| set.bytes).sum::<usize>());
    }

    /// Fills a header with the most ranges and the longest reasons.
    fn laden(header: &mut FrameHeader) {
        let reason = "r".repeat(64);
        let lost = LostRange { epoch: header.epoch, first_seq: 1, last_seq: 1, reason: reason.clone() };
        let missed = MissedTicks { from_boottime_ns: 1, to_boottime_ns: 1, ticks: 1, reason };
        header.lost = vec![lost; RANGES_MAX];
        header.missed = vec![missed; RANGES_MAX];
    }

    #[test]
    fn waiting_parts_hold_only_counted_memory() {
        let mut assembly = Assembly::default();
        // A frame of empty parts, each with the largest header.
        for part in 0..PARTS_MAX - 1 {
            let mut record = parts(1, 1, 3000, 512).swap_remove(0);
            laden(&mut record.header);
            (record.part, record.parts, record.body) = (part, PARTS_MAX, Vec::new());
            assert!(add(&mut assembly, &record, i64::from(part)).is_none());
        }
        let set = assembly.sets.values().next().unwrap();
        let heap = |record: &Record| {
            let FrameHeader { boot_id, lost, missed, .. } = &record.header;
            let ranges = lost.len() * size_of::<LostRange>() + missed.len() * size_of::<MissedTicks>();
            let reasons = lost.iter().map(|lost| lost.reason.len()).sum::<usize>()
                + missed.iter().map(|missed| missed.reason.len()).sum::<usize>();
            boot_id.len() + ranges + reasons + record.body.capacity()
        };
        let held = set.records.capacity() * size_of::<Record>() + set.records.iter().map(heap).sum::<usize>();
        assert!(held <= set.bytes, "{held} bytes are held, {} counted", set.bytes);
        // The same for a frame of a single part.
        let mut record = parts(1, 2, 3000, 1 << 20).swap_remove(0);
        laden(&mut record.header);
        let frame = add(&mut assembly, &record, 1).unwrap().frame.unwrap();
        assert_eq!(heap(&Record { header: frame.header, body: Vec::new(), ..record }), 0);
    }

    #[test]
    fn a_forged_part_that_differs_in_nothing_that_is_archived_spoils_nothing() {
        let forgeries: [fn(&mut FrameHeader); 4] = [
            laden,
            |header| header.missed = vec![],
            |header| header.boot_id = "another".to_owned(),
            |header| header.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 8 }),
        ];
        for forge in forgeries {
            let mut good = parts(1, 1, 3000, 512);
            for record in &mut good {
                record.header.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 7 });
                let ticks = MissedTicks { from_boottime_ns: 1, to_boottime_ns: 2, ticks: 1, reason: "overrun".into() };
                record.header.missed = vec![ticks];
            }
            let mut forged = good[1].clone();
            forge(&mut forged.header);
            let mut assembly = Assembly::default();
            assert!(add(&mut assembly, &good[0], 1).is_none());
            assert!(add(&mut assembly, &forged, 2).is_none());
            let wholes: Vec<Whole> = good.iter().filter_map(|part| add(&mut assembly, part, 3)).collect();
            assert_eq!(wholes.len(), 1);
            assert_eq!(wholes[0].frame.as_ref().expect("it is assembled").open(None).unwrap(), noise(3000, 1));
        }
    }

    #[test]
    fn parts_from_before_a_restart_count_despite_forged_later_parts() {
        let good = parts(1, 1, 3000, 512);
        let mut assembly = Assembly::default();
        let note = |assembly: &mut Assembly, record: &Record, offset| {
            let place = Place { received_ns: offset, partition: 0, offset };
            assembly.add(&ArchivedHeader::from(record), place, None)
        };
        assert!(note(&mut assembly, &good[0], 1).is_none());
        let mut forged = good[1].clone();
        forged.header.boot_id = "another".to_owned();
        assert!(add(&mut assembly, &forged, 2).is_none());
        assert!(note(&mut assembly, &good[2], 3).is_none());
        let wholes: Vec<Whole> = good[1..].iter().filter_map(|part| add(&mut assembly, part, 4)).collect();
        assert_eq!(wholes.len(), 1);
        assert!(wholes[0].frame.is_none());
        assert_eq!(wholes[0].places[&1].offset, 4);
        assert_eq!(assembly.sets.len(), 1, "the forged one waits");
    }

    #[test]
    fn forged_parts_in_between_do_not_discard_a_frame() {
        let good = parts(1, 1, 3000, 512);
        let mut assembly = Assembly::default();
        let mut whole = None;
        for (n, part) in good.iter().enumerate() {
            for m in 0..HOST_SETS_MAX - 1 {
                let mut forged = good[0].clone();
                forged.header.boot_id = format!("{n} {m}");
                assert!(add(&mut assembly, &forged, 1).is_none());
            }
            whole = add(&mut assembly, part, 2);
        }
        assert!(whole.unwrap().frame.is_some());
        assert!(assembly.sets.len() <= HOST_SETS_MAX);
    }
}
