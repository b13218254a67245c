//! Collects parts until their frames are complete.
//!
//! Parts belong together when their frame keys and their numbers of parts are equal. The key covers every field of the
//! header, so a part with another header waits in a separate set and spoils no genuine frame. All memory of waiting
//! parts is counted and bounded, per host and in total. An abandoned set is not lost: the records are archived, and a
//! question for that moment finds the frame there.

use std::collections::{BTreeMap, HashMap};

use edr_archive::{ArchivedFrame, ArchivedPart, RecordPosition};
use edr_wire::HostId;
use edr_wire::frame::{Frame, FrameKey, Record};

use crate::event::Event;

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
const PART_BYTES: usize = 2 * size_of::<Record>() + 4 * size_of::<(u32, RecordPosition)>();
/// Memory of a set without parts, in bytes: the set itself and the index entries.
const SET_BYTES: usize = 2 * (size_of::<Set>() + size_of::<(Division, u64)>() + size_of::<u64>());

/// A division of a frame into this many parts. Parts of two divisions do not fit together.
type Division = (FrameKey, u32);

/// A complete frame.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) frame: ArchivedFrame,
    pub(super) places: BTreeMap<u32, RecordPosition>,
    /// The frame with the body; `None` when bytes of a part are missing.
    pub(super) loaded: Option<Frame>,
}

/// The incomplete frames.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The sets, in the order in which their last parts arrived. The first set is abandoned first.
    sets: BTreeMap<u64, Set>,
    by_division: HashMap<Division, u64>,
    of_host: HashMap<HostId, Share>,
    bytes: usize,
    next: u64,
    /// Number of abandoned sets.
    dropped: u64,
}

#[derive(Debug)]
struct Set {
    frame: ArchivedFrame,
    parts: u32,
    places: BTreeMap<u32, RecordPosition>,
    /// The parts that came with their bytes.
    records: Vec<Record>,
    bytes: usize,
    since_ns: i64,
}

impl Set {
    fn division(&self) -> Division {
        (self.frame.key, self.parts)
    }
}

#[derive(Debug, Default)]
struct Share {
    sets: usize,
    bytes: usize,
}

impl Assembly {
    /// Adds a part, with its bytes unless the part comes from the archive. Returns the frame when the part was the
    /// last.
    pub(super) fn add(&mut self, added: &ArchivedPart, mut record: Option<Record>) -> Option<Whole> {
        record.iter_mut().for_each(Record::drop_lists);
        let ArchivedPart { frame, part, parts, place, .. } = *added;
        if parts == 1 {
            let loaded = record.map(|record| Frame::assemble(vec![record])).transpose().ok()?;
            return Some(Whole { frame, places: BTreeMap::from([(0, place)]), loaded });
        }
        let known = self.by_division.get(&(frame.key, parts)).copied();
        let number = known.unwrap_or_else(|| self.start(frame, parts, place));
        let whole = self.put(number, part, place, record);
        self.shed(frame.key.host_id);
        whole
    }

    /// Returns the number of abandoned sets.
    pub(super) fn abandoned(&self) -> u64 {
        self.dropped
    }

    /// Returns when the first part of the oldest set arrived (ns since the epoch), among sets begun after `after_ns`.
    pub(super) fn waiting_since_ns(&self, after_ns: i64) -> Option<i64> {
        self.sets.values().map(|set| set.since_ns).filter(|since| *since > after_ns).min()
    }

    fn start(&mut self, frame: ArchivedFrame, parts: u32, place: RecordPosition) -> u64 {
        let number = self.take_number();
        let (places, records, bytes) = (BTreeMap::new(), Vec::new(), SET_BYTES);
        let set = Set { frame, parts, places, records, bytes, since_ns: place.received_ns };
        self.by_division.insert(set.division(), number);
        self.sets.insert(number, set);
        let share = self.of_host.entry(frame.key.host_id).or_default();
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
    fn put(&mut self, number: u64, part: u32, place: RecordPosition, record: Option<Record>) -> Option<Whole> {
        if self.sets.get(&number)?.places.contains_key(&part) {
            return None;
        }
        let mut set = self.sets.remove(&number)?;
        let bytes = PART_BYTES + record.as_ref().map_or(0, |record| record.body.capacity());
        set.places.insert(part, place);
        set.records.extend(record);
        set.bytes += bytes;
        self.bytes += bytes;
        self.of_host.entry(set.frame.key.host_id).or_default().bytes += bytes;
        let is_whole = set.places.len() == set.parts as usize;
        let newest = self.take_number();
        self.by_division.insert(set.division(), newest);
        self.sets.insert(newest, set);
        if !is_whole {
            return None;
        }
        let set = self.remove(newest)?;
        let has_all = set.records.len() == set.parts as usize;
        let loaded = if has_all { Frame::assemble(set.records).ok() } else { None };
        Some(Whole { frame: set.frame, places: set.places, loaded })
    }

    fn remove(&mut self, number: u64) -> Option<Set> {
        let set = self.sets.remove(&number)?;
        self.by_division.remove(&set.division());
        self.bytes = self.bytes.saturating_sub(set.bytes);
        let host_id = set.frame.key.host_id;
        if let Some(share) = self.of_host.get_mut(&host_id) {
            share.sets -= 1;
            share.bytes = share.bytes.saturating_sub(set.bytes);
            if share.sets == 0 {
                self.of_host.remove(&host_id);
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
                self.sets.iter().find(|(_, set)| set.frame.key.host_id == host_id).map(|(number, _)| *number)
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
                Event::FrameIncomplete,
                EDR_SOURCE = "newest",
                EDR_HOST = host_id.to_string(),
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
    use edr_archive::testing::{header, noise, part, records};

    fn parts_of(header: &FrameHeader, len: usize, part_bytes: usize) -> Vec<Record> {
        let bytes = records(header, &noise(len, header.seq), None, part_bytes);
        bytes.iter().map(|bytes| Record::decode(bytes).unwrap()).collect()
    }

    fn parts(n: u8, seq: u64, len: usize, part_bytes: usize) -> Vec<Record> {
        parts_of(&header(n, seq), len, part_bytes)
    }

    fn add(assembly: &mut Assembly, record: &Record, offset: i64) -> Option<Whole> {
        assembly.add(&part(record, 0, offset), Some(record.clone()))
    }

    /// Returns a changed record as a reader sees the record: with the key of its own content.
    fn changed(record: &Record, change: impl FnOnce(&mut FrameHeader)) -> Record {
        let mut header = record.header.clone();
        change(&mut header);
        let mut of_header = parts_of(&header, 3000, 512);
        of_header.swap_remove(record.part as usize)
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
        assert_eq!(whole.loaded.unwrap().open(None).unwrap(), noise(3000, whole.frame.key.seq));
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
        assert_eq!(wholes[0].loaded.as_ref().unwrap().open(None).unwrap(), noise(3000, 1));
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
            hostile.key.seq = seq;
            assert!(add(&mut assembly, &hostile, 2).is_none());
            assert!(assembly.of_host[&hostile.header.host_id].bytes <= HOST_BYTES_MAX);
            assert!(assembly.of_host[&hostile.header.host_id].sets <= HOST_SETS_MAX);
        }
        assert_eq!(assembly.dropped, 25, "fifteen bodies of 3 MiB with what lies around them");
        assert!(add(&mut assembly, &good[0], 3).unwrap().loaded.is_some(), "another host's frame is not touched");
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
        let largest = changed(&parts(1, 1, 3000, 512)[0], laden);
        for part in 0..PARTS_MAX - 1 {
            let record = Record { part, parts: PARTS_MAX, body: Vec::new(), ..largest.clone() };
            assert!(add(&mut assembly, &record, i64::from(part)).is_none());
        }
        let set = assembly.sets.values().next().unwrap();
        let heap = |record: &Record| record.header.heap_len() + record.body.capacity();
        let held = set.records.capacity() * size_of::<Record>() + set.records.iter().map(heap).sum::<usize>();
        assert!(held <= set.bytes, "{held} bytes are held, {} counted", set.bytes);
        // The same for a frame of a single part.
        let record = Record { part: 0, parts: 1, ..largest };
        let frame = add(&mut assembly, &record, 1).unwrap().loaded.unwrap();
        assert_eq!(frame.header.heap_len(), 0);
    }

    #[test]
    fn a_forged_part_that_differs_in_one_field_of_the_header_spoils_nothing() {
        let forgeries: [fn(&mut FrameHeader); 4] = [
            laden,
            |header| header.missed = vec![],
            |header| header.boot_id = "another".to_owned(),
            |header| header.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 8 }),
        ];
        for forge in forgeries {
            let ticks = MissedTicks { from_boottime_ns: 1, to_boottime_ns: 2, ticks: 1, reason: "overrun".into() };
            let previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 7 });
            let good = parts_of(&FrameHeader { previous_epoch, missed: vec![ticks], ..header(1, 1) }, 3000, 512);
            let forged = changed(&good[1], forge);
            let mut assembly = Assembly::default();
            assert!(add(&mut assembly, &good[0], 1).is_none());
            assert!(add(&mut assembly, &forged, 2).is_none());
            let wholes: Vec<Whole> = good.iter().filter_map(|part| add(&mut assembly, part, 3)).collect();
            assert_eq!(wholes.len(), 1);
            assert_eq!(wholes[0].loaded.as_ref().expect("it is assembled").open(None).unwrap(), noise(3000, 1));
        }
    }

    #[test]
    fn parts_from_before_a_restart_count_despite_forged_later_parts() {
        let good = parts(1, 1, 3000, 512);
        let mut assembly = Assembly::default();
        let note = |assembly: &mut Assembly, record: &Record, offset| assembly.add(&part(record, 0, offset), None);
        assert!(note(&mut assembly, &good[0], 1).is_none());
        let forged = changed(&good[1], |header| header.boot_id = "another".to_owned());
        assert!(add(&mut assembly, &forged, 2).is_none());
        assert!(note(&mut assembly, &good[2], 3).is_none());
        let wholes: Vec<Whole> = good[1..].iter().filter_map(|part| add(&mut assembly, part, 4)).collect();
        assert_eq!(wholes.len(), 1);
        assert!(wholes[0].loaded.is_none());
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
                let forged = changed(&good[0], |header| header.boot_id = format!("{n} {m}"));
                assert!(add(&mut assembly, &forged, 1).is_none());
            }
            whole = add(&mut assembly, part, 2);
        }
        assert!(whole.unwrap().loaded.is_some());
        assert!(assembly.sets.len() <= HOST_SETS_MAX);
    }
}
