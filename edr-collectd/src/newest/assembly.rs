//! Parts that wait for the others of their frame.
//!
//! What waits is bounded, for each host and in all. A set that is given up is not lost: its records are archived, and
//! a question for that moment finds them there.

use std::collections::{BTreeMap, HashMap};

use edr_wire::HostId;
use edr_wire::frame::{Frame, Record};

use crate::archive::{ArchivedHeader, Cut, Place};

/// Bytes of waiting parts of one host: the largest frame, and half of another.
const HOST_BYTES_MAX: usize = 48 << 20;
/// Bytes of waiting parts in all.
const BYTES_MAX: usize = 256 << 20;
/// Frames of one host that may be incomplete at once: one, and the same one sent again with other content.
const HOST_SETS_MAX: usize = 4;
/// Incomplete frames in all.
const SETS_MAX: usize = 4_096;

/// A frame with all its parts.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) header: ArchivedHeader,
    pub(super) places: BTreeMap<u32, Place>,
    /// The frame, unless some part came without its bytes.
    pub(super) frame: Option<Frame>,
}

/// Incomplete frames, oldest first.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    sets: BTreeMap<u64, Set>,
    by_cut: HashMap<Cut, u64>,
    of_host: HashMap<HostId, Share>,
    bytes: usize,
    next: u64,
    /// Incomplete frames that were given up.
    dropped: u64,
}

#[derive(Debug)]
struct Set {
    header: ArchivedHeader,
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
    /// Adds one part; the frame, when it was the last one.
    pub(super) fn add(&mut self, header: ArchivedHeader, place: Place, record: Option<Record>) -> Option<Whole> {
        let cut = header.cut();
        let number = match self.by_cut.get(&cut) {
            Some(&number) => number,
            None => self.start(cut, &header, place),
        };
        let set = self.sets.get_mut(&number)?;
        if set.places.contains_key(&header.part) {
            return None;
        }
        let bytes = record.as_ref().map_or(0, |record| record.body.len());
        set.places.insert(header.part, place);
        set.records.extend(record);
        set.bytes += bytes;
        self.bytes += bytes;
        self.of_host.entry(header.host_id).or_default().bytes += bytes;
        if set.places.len() < set.header.parts as usize {
            self.shed(header.host_id);
            return None;
        }
        let set = self.remove(number)?;
        let has_all = set.records.len() == set.header.parts as usize;
        let frame = if has_all { Frame::assemble(set.records).ok() } else { None };
        Some(Whole { header: set.header, places: set.places, frame })
    }

    /// When the first part of the oldest set came.
    pub(super) fn waiting_since_ns(&self) -> Option<i64> {
        self.sets.values().map(|set| set.since_ns).min()
    }

    fn start(&mut self, cut: Cut, header: &ArchivedHeader, place: Place) -> u64 {
        let number = self.next;
        self.next += 1;
        let set = Set {
            header: header.clone(),
            places: BTreeMap::new(),
            records: Vec::new(),
            bytes: 0,
            since_ns: place.received_ns,
        };
        self.sets.insert(number, set);
        self.by_cut.insert(cut, number);
        self.of_host.entry(header.host_id).or_default().sets += 1;
        number
    }

    fn remove(&mut self, number: u64) -> Option<Set> {
        let set = self.sets.remove(&number)?;
        let header = &set.header;
        self.by_cut.remove(&header.cut());
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

    /// Gives up oldest sets until host and all are within their limits.
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
    use super::*;
    use crate::archive::testing::{header, noise, records};

    fn parts(n: u8, seq: u64, len: usize, part_bytes: usize) -> Vec<Record> {
        let bytes = records(&header(n, seq), &noise(len, seq), None, part_bytes);
        bytes.iter().map(|bytes| Record::decode(bytes).unwrap()).collect()
    }

    fn add(assembly: &mut Assembly, record: &Record, offset: i64) -> Option<Whole> {
        let place = Place { received_ns: offset, partition: 0, offset };
        assembly.add(ArchivedHeader::from(record), place, Some(record.clone()))
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
    fn parts_of_one_cut_make_a_frame_whatever_another_cut_of_the_same_content_sent() {
        let (large, small) = (parts(1, 1, 3000, 1024), parts(1, 1, 3000, 512));
        assert!(large.len() > 1 && small.len() > large.len());
        let mut assembly = Assembly::default();
        // One part of a cut that is never finished, as a forger or a smaller limit leaves it.
        assert!(add(&mut assembly, &large[1], 1).is_none());
        let wholes: Vec<Whole> = small.iter().filter_map(|part| add(&mut assembly, part, 2)).collect();
        assert_eq!(wholes.len(), 1);
        assert_eq!(wholes[0].frame.as_ref().unwrap().open(None).unwrap(), noise(3000, 1));
    }

    #[test]
    fn a_host_that_never_finishes_costs_a_bounded_memory_and_only_its_own() {
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
        assert_eq!(assembly.dropped, 36);
        assert!(add(&mut assembly, &good[0], 3).unwrap().frame.is_some(), "another host's frame is not touched");
        assert_eq!(assembly.bytes, assembly.sets.values().map(|set| set.bytes).sum::<usize>());
    }
}
