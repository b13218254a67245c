//! Results of a search: frames, with the locations of their records.

use std::collections::BTreeMap;

use edr_wire::frame::FrameKey;

use crate::{ArchivedFrame, ArchivedPart, RecordPosition};

/// Divisions into parts kept per frame, by the time of the first record: the earliest.
const DIVISIONS_MAX: usize = 8;

/// Order of frames in a search back in time: by the time of the snapshot, as claimed by the host, then by identity.
pub type SearchRank = (i64, FrameKey);

impl ArchivedFrame {
    /// Returns the place of the frame in a search back in time.
    pub(super) fn rank(&self) -> SearchRank {
        (self.captured_ns, self.key)
    }
}

/// A frame with the locations of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFrame {
    /// The frame.
    pub frame: ArchivedFrame,
    /// Locations of the records, by number of parts and by part. Records of two divisions do not fit together.
    divisions: BTreeMap<u32, BTreeMap<u32, RecordPosition>>,
}

impl FoundFrame {
    pub(super) fn new(frame: ArchivedFrame) -> Self {
        Self { frame, divisions: BTreeMap::new() }
    }

    /// Adds a record. The first received record of a part counts.
    pub(super) fn add(&mut self, parts: u32, part: u32, place: RecordPosition) {
        let places = self.divisions.entry(parts).or_default();
        let first = places.entry(part).or_insert(place);
        *first = place.min(*first);
        if self.divisions.len() > DIVISIONS_MAX {
            // Later records must not hide earlier records.
            let last = self.divisions.iter().max_by_key(|(_, places)| places.values().min().copied());
            if let Some(last) = last.map(|(parts, _)| *parts) {
                self.divisions.remove(&last);
            }
        }
    }

    /// Returns the locations of the parts of each complete division, in the order of completion.
    pub fn complete(&self) -> Vec<Vec<RecordPosition>> {
        let complete = self.divisions.iter().filter(|(parts, places)| places.len() == **parts as usize);
        let mut complete: Vec<Vec<RecordPosition>> =
            complete.map(|(_, places)| places.values().copied().collect()).collect();
        complete.sort_by_key(|places| places.iter().max().copied());
        complete
    }

    /// Returns the location of the record that completed the frame; `None` for an incomplete frame.
    pub(super) fn completed(&self) -> Option<RecordPosition> {
        self.complete().first()?.iter().max().copied()
    }

    /// Returns the location of the record received first.
    pub(super) fn first(&self) -> Option<RecordPosition> {
        self.divisions.values().flat_map(BTreeMap::values).min().copied()
    }

    /// Returns when the frame became complete, ns since the epoch.
    pub fn received_ns(&self) -> i64 {
        self.completed().map_or(0, |place| place.received_ns)
    }
}

/// Result of a search back in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Complete frames, newest first. Usually the first frame is readable and is the answer.
    pub found: Vec<FoundFrame>,
    /// Where to continue when none of the frames is readable; `None` when there are no older frames.
    pub rest: Option<SearchRank>,
}

/// Frames found so far, oldest first.
pub(super) type FoundFrames = BTreeMap<SearchRank, FoundFrame>;

/// Adds a record to its frame.
pub(super) fn note_part(frames: &mut FoundFrames, found: &ArchivedPart) {
    let frame = frames.entry(found.frame.rank()).or_insert_with(|| FoundFrame::new(found.frame));
    frame.add(found.parts, found.part, found.place);
}

/// Returns the complete frames, newest first.
pub(super) fn newest_first(frames: FoundFrames) -> Vec<FoundFrame> {
    frames.into_values().rev().filter(|found| found.completed().is_some()).collect()
}
