//! Offsets of the archived records of each Kafka log, by day of receipt: for comparison with the number of rows that
//! the table `frames` has of each day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Runs;

/// Ranges of offsets of one log. Kafka numbers the records of a log without holes, except for transactions and
/// compaction, so a log needs one range for each day.
const RANGES_MAX: usize = 4_096;

/// Archived offsets of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOffsets {
    offsets: Runs,
    /// The last day with offsets dropped for want of room.
    #[serde(default)]
    cut_day: Option<i32>,
}

impl LogOffsets {
    /// Adds an archived record. `day` is the day of receipt.
    pub fn add(&mut self, offset: i64, day: i32, received_ns: i64) {
        if let Ok(offset) = u64::try_from(offset) {
            self.offsets.add(offset, day, received_ns);
            self.shrink();
        }
    }

    /// Adds the records of another count of the same log.
    pub fn merge(&mut self, other: &Self) {
        self.offsets.merge(&other.offsets);
        self.cut_day = self.cut_day.max(other.cut_day);
        self.shrink();
    }

    /// Removes the records of a day.
    pub fn remove_day(&mut self, day: i32) {
        self.offsets.remove_day(day);
    }

    fn shrink(&mut self) {
        while self.offsets.len() > RANGES_MAX {
            self.cut_day = self.cut_day.max(self.offsets.remove_lowest());
        }
    }
}

/// Number of archived records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountedRecords {
    /// Records of the day.
    pub records: u64,
    /// False when records of the day were dropped from the count for want of room.
    pub is_exact: bool,
}

/// Returns the number of records of each day, in all logs together.
pub fn records_by_day<'a>(logs: impl Iterator<Item = &'a LogOffsets>) -> BTreeMap<i32, CountedRecords> {
    let mut days: BTreeMap<i32, CountedRecords> = BTreeMap::new();
    let mut cut_day = None;
    for log in logs {
        cut_day = cut_day.max(log.cut_day);
        for (day, records) in log.offsets.by_day() {
            let counted = days.entry(day).or_insert(CountedRecords { records: 0, is_exact: true });
            counted.records = counted.records.saturating_add(records);
        }
    }
    for (day, counted) in &mut days {
        counted.is_exact = cut_day.is_none_or(|cut| *day > cut);
    }
    days
}
