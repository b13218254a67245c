//! The logs being read: the next offset of each partition, and the proof that the log is the archived log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use edr_archive::PartitionName;

/// A log being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) partition: PartitionName,
    /// The next offset to archive.
    pub(super) next: i64,
    /// The archived bytes of the record before `next`, until the comparison with Kafka's record.
    pub(super) proof: Option<Vec<u8>>,
}

impl Log {
    /// Returns the first offset to fetch: with a proof, the record before `next` is fetched again.
    pub(super) fn fetch_from(&self) -> i64 {
        self.next - i64::from(self.proof.is_some())
    }
}

/// Relation of a received record, or of a range of offsets, to the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The record is to be archived. `missing` has the offsets before the record that Kafka no longer has; `first` is
    /// the first offset that was not archived before.
    Next { partition: PartitionName, missing: Range<i64>, first: i64 },
    /// The record is archived already, or belongs to a partition that is not being read.
    Ignored,
    /// The record is not the archived record of this offset: the log is another one.
    Replaced,
}

/// All logs being read, by partition number.
#[derive(Debug, Default)]
pub(super) struct Logs {
    reading: BTreeMap<i32, Log>,
    /// Partitions with a log that differs from the archived log, until the next start.
    pub(super) replaced: BTreeSet<i32>,
}

impl Logs {
    /// Starts reading these logs instead of the current logs.
    pub(super) fn start(&mut self, logs: Vec<Log>) {
        self.replaced.clear();
        self.reading = logs.into_iter().map(|log| (log.partition.partition, log)).collect();
    }

    /// Stops reading, and returns the numbers of the partitions. Records that arrive later are ignored.
    pub(super) fn stop(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.reading).into_keys().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.reading.len()
    }

    /// Returns true when this log is being read.
    pub(super) fn has(&self, partition: &PartitionName) -> bool {
        self.reading.get(&partition.partition).is_some_and(|log| log.partition == *partition)
    }

    /// Judges a received record, or the record in whose place a range of offsets is archived, and moves on behind the
    /// offsets.
    pub(super) fn arrive(&mut self, number: i32, offsets: RangeInclusive<i64>, payload: Option<&[u8]>) -> Arrival {
        let Some(log) = self.reading.get_mut(&number) else { return Arrival::Ignored };
        let (first, last) = offsets.into_inner();
        let proof = log.proof.take();
        if last < log.next {
            let is_other = last + 1 == log.next && proof.is_some_and(|proof| payload != Some(&proof));
            if is_other {
                self.replaced.insert(number);
                return Arrival::Replaced;
            }
            return Arrival::Ignored;
        }
        let first = first.max(log.next);
        let missing = log.next..first;
        log.next = last + 1;
        Arrival::Next { partition: log.partition.clone(), missing, first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edr_archive::testing::partition;

    fn logs(next: i64, proof: Option<&[u8]>) -> Logs {
        let mut logs = Logs::default();
        let log = Log { partition: partition(0), next, proof: proof.map(<[u8]>::to_vec) };
        assert_eq!(log.fetch_from(), next - i64::from(proof.is_some()));
        logs.start(vec![log]);
        logs
    }

    fn next(missing: Range<i64>) -> Arrival {
        Arrival::Next { partition: partition(0), first: missing.end, missing }
    }

    #[test]
    fn every_offset_is_taken_once_and_missing_offsets_are_named() {
        let mut logs = logs(5, None);
        assert_eq!(logs.arrive(0, 4..=4, Some(b"old")), Arrival::Ignored);
        assert_eq!(logs.arrive(0, 5..=5, Some(b"a")), next(5..5));
        assert_eq!(logs.arrive(0, 5..=5, Some(b"a")), Arrival::Ignored);
        assert_eq!(logs.arrive(0, 8..=8, None), next(6..8));
        assert_eq!(logs.arrive(1, 0..=0, Some(b"a")), Arrival::Ignored);
        // A range that begins before the position: only the rest is new.
        assert_eq!(logs.arrive(0, 7..=11, None), Arrival::Next { partition: partition(0), missing: 9..9, first: 9 });
        assert_eq!(logs.arrive(0, 14..=15, None), next(12..14));
        assert!(logs.has(&partition(0)));
        assert!(!logs.has(&PartitionName { generation: 1, ..partition(0) }));
        assert_eq!(logs.stop(), [0]);
        assert_eq!(logs.arrive(0, 16..=16, Some(b"late")), Arrival::Ignored);
    }

    #[test]
    fn another_record_before_the_position_is_another_log() {
        let mut same = logs(5, Some(b"proof"));
        assert_eq!(same.arrive(0, 4..=4, Some(b"proof")), Arrival::Ignored);
        assert_eq!(same.arrive(0, 5..=5, Some(b"a")), next(5..5));
        for payload in [Some(b"other".as_slice()), None] {
            let mut other = logs(5, Some(b"proof"));
            assert_eq!(other.arrive(0, 4..=4, payload), Arrival::Replaced);
            assert_eq!(other.replaced, BTreeSet::from([0]));
        }
        // Kafka no longer has the record: nothing to compare.
        let mut compacted = logs(5, Some(b"proof"));
        assert_eq!(compacted.arrive(0, 7..=7, Some(b"a")), next(5..7));
    }
}
