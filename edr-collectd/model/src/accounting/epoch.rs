//! The account of one epoch.

use edr_wire::Epoch;
use edr_wire::frame::LostRange;
use serde::{Deserialize, Serialize};

use super::ranges::{Range, Ranges, Runs, take};

/// Reasons of ranges that may include numbers of other reasons, most specific first: the agent thinned a full spool, or
/// joined ranges of several reasons.
const JOINED: [&str; 2] = ["thinned", "many"];

/// Sequence numbers of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochAccount {
    pub(super) epoch: Epoch,
    /// Boot of the last frame.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) boot_id: String,
    /// Numbers up to this number are not in the account.
    #[serde(default)]
    pub(super) floor: u64,
    /// Last number of the epoch, named by the next epoch or seen before a day was counted again.
    #[serde(default)]
    announced: u64,
    #[serde(default)]
    pub(super) archived: Runs,
    /// Numbers with an archived part, and without the other parts.
    #[serde(default)]
    parts: Ranges,
    /// Numbers declared lost, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<(String, Ranges)>,
}

/// The classes of an epoch's numbers that are not archived.
#[derive(Debug, Default)]
pub(super) struct Holes {
    /// By reason.
    pub(super) lost: Vec<(String, Vec<Range>)>,
    pub(super) incomplete: Vec<Range>,
    pub(super) unexplained: Vec<Range>,
}

impl EpochAccount {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            boot_id: String::new(),
            floor: 0,
            announced: 0,
            archived: Runs::default(),
            parts: Ranges::default(),
            lost: Vec::new(),
        }
    }

    pub(super) fn archive(&mut self, seq: u64, day: i32, captured_ns: i64) {
        if seq > self.floor {
            self.archived.add(seq, day, captured_ns);
            self.parts.remove(&[(seq, seq)]);
        }
    }

    pub(super) fn part(&mut self, seq: u64) {
        if seq > self.floor && !self.archived.contains(seq) {
            self.parts.add((seq, seq));
        }
    }

    pub(super) fn announce(&mut self, last_seq: u64) {
        self.announced = self.announced.max(last_seq);
    }

    pub(super) fn lose(&mut self, lost: &LostRange) {
        let first = lost.first_seq.max(self.floor.saturating_add(1));
        if lost.last_seq > self.floor && first <= lost.last_seq {
            self.of_reason(&lost.reason).add((first, lost.last_seq));
        }
    }

    fn of_reason(&mut self, reason: &str) -> &mut Ranges {
        let at = self.lost.iter().position(|(known, _)| known == reason).unwrap_or_else(|| {
            // A joined range also covers numbers with a specific reason in another declaration.
            let order = |reason: &str| (JOINED.iter().position(|joined| *joined == reason), reason.to_owned());
            let at = self.lost.partition_point(|(known, _)| order(known) < order(reason));
            self.lost.insert(at, (reason.to_owned(), Ranges::default()));
            at
        });
        &mut self.lost[at].1
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.boot_id.clone_from(&other.boot_id);
        self.announce(other.announced);
        self.archived.merge(&other.archived);
        other.parts.as_slice().iter().for_each(|range| self.parts.add(*range));
        self.parts.remove(&self.archived.ranges());
        for (reason, ranges) in &other.lost {
            let known = self.of_reason(reason);
            ranges.as_slice().iter().for_each(|range| known.add(*range));
        }
        self.raise_floor(self.floor.max(other.floor));
    }

    /// Takes the numbers up to `floor` out of the account.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.archived.clip(self.floor);
        self.parts.clip(self.floor);
        self.lost.iter_mut().for_each(|(_, ranges)| ranges.clip(self.floor));
        self.lost.retain(|(_, ranges)| ranges.len() > 0);
    }

    pub(super) fn entries(&self) -> usize {
        self.archived.len() + self.parts.len() + self.lost.iter().map(|(_, ranges)| ranges.len()).sum::<usize>()
    }

    /// Drops the range with the lowest numbers. Returns false when there is none.
    pub(super) fn drop_lowest(&mut self) -> bool {
        let archived = self.archived.as_slice().first().map(|run| (run.first, run.last));
        let sets = self.lost.iter().map(|(_, ranges)| ranges).chain([&self.parts]);
        let lowest = sets.filter_map(Ranges::lowest).chain(archived).min();
        lowest.map(|(_, last)| self.raise_floor(last)).is_some()
    }

    /// Returns the highest known number.
    pub(super) fn highest(&self) -> u64 {
        let lost = self.lost.iter().map(|(_, ranges)| ranges.last());
        lost.chain([self.announced, self.archived.last(), self.parts.last()]).max().unwrap_or(0)
    }

    /// Divides the numbers that are not archived.
    pub(super) fn holes(&self) -> Holes {
        let highest = self.highest();
        let mut left = if self.floor < highest { vec![(self.floor + 1, highest)] } else { Vec::new() };
        take(&mut left, &self.archived.ranges());
        let lost = self.lost.iter().map(|(reason, ranges)| (reason.clone(), take(&mut left, ranges.as_slice())));
        let lost: Vec<_> = lost.filter(|(_, ranges)| !ranges.is_empty()).collect();
        let incomplete = take(&mut left, self.parts.as_slice());
        Holes { lost, incomplete, unexplained: left }
    }
}
