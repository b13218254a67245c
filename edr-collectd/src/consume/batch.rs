//! The records of the next commit.

use std::collections::BTreeMap;
use std::time::Duration;

use edr_archive::{PartitionName, ReceivedRecord};
use tokio::time::Instant;

/// Time from the first record to the commit when no commit was made for a while: the other parts of a frame, and frames
/// of other hosts, arrive together.
const GATHER: Duration = Duration::from_millis(50);

/// Rows of one commit, and the Kafka positions after the rows.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<ReceivedRecord>,
    pub(super) positions: BTreeMap<PartitionName, i64>,
    pub(super) bytes: usize,
}

/// The batch that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    batch: Batch,
    /// Shortest time between two batches, and longest wait of a record.
    interval: Duration,
    /// Size, in bytes, of a full batch.
    bytes_max: usize,
    /// When the first row was added.
    since: Option<Instant>,
    /// When the last batch was taken.
    taken_at: Option<Instant>,
    /// True when the batch must not wait for the interval.
    is_urgent: bool,
}

impl Filling {
    pub(super) fn new(interval: Duration, bytes_max: usize) -> Self {
        Self { batch: Batch::default(), interval, bytes_max, since: None, taken_at: None, is_urgent: false }
    }

    /// Adds a row. `next` is the offset after the row, and after all records that the row stands for.
    pub(super) fn add(&mut self, row: ReceivedRecord, next: i64) {
        self.since.get_or_insert_with(Instant::now);
        self.batch.bytes += row.byte_len();
        self.batch.positions.insert(row.partition.clone(), next);
        self.batch.rows.push(row);
    }

    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        self.batch.rows.len()
    }

    /// Returns true when no more records should be added.
    pub(super) fn is_full(&self) -> bool {
        self.batch.bytes >= self.bytes_max
    }

    /// Returns when the batch is to be committed; `None` for an empty batch. Batches follow each other in the commit
    /// interval, so the first record after a pause waits only for [`GATHER`].
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.since?;
        if self.is_urgent || self.is_full() {
            return Some(since);
        }
        let gathered = since + GATHER.min(self.interval);
        Some(self.taken_at.map_or(gathered, |taken_at| gathered.max(taken_at + self.interval)))
    }

    /// Makes the current batch due.
    pub(super) fn hurry(&mut self) {
        self.is_urgent = self.since.is_some();
    }

    /// Takes the batch and begins the next batch.
    pub(super) fn take(&mut self) -> Batch {
        (self.since, self.taken_at, self.is_urgent) = (None, Some(Instant::now()), false);
        std::mem::take(&mut self.batch)
    }

    /// Drops the records.
    pub(super) fn clear(&mut self) {
        (self.batch, self.since, self.is_urgent) = (Batch::default(), None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edr_archive::testing::{header, records, row};

    /// Returns true when the moment is `delay` after a moment between `begin` and now.
    fn is_after(due: Option<Instant>, begin: Instant, delay: Duration) -> bool {
        due.is_some_and(|due| (begin + delay..=Instant::now() + delay).contains(&due))
    }

    #[test]
    fn the_first_record_after_a_pause_is_due_soon_and_the_next_batch_after_the_interval() {
        let interval = Duration::from_secs(3_600);
        let bytes = records(&header(1, 1), b"raw", None, 1 << 20).remove(0);
        let mut filling = Filling::new(interval, 1 << 20);
        assert_eq!(filling.due(), None);
        let begin = Instant::now();
        filling.add(row(0, 0, 0, &bytes), 1);
        assert!(is_after(filling.due(), begin, GATHER), "{filling:?}");
        assert_eq!(filling.take().positions.into_values().collect::<Vec<_>>(), [1]);
        assert_eq!(filling.due(), None);

        filling.add(row(0, 1, 0, &bytes), 2);
        assert!(is_after(filling.due(), begin, interval), "{filling:?}");
        filling.hurry();
        assert!(is_after(filling.due(), begin, Duration::ZERO), "{filling:?}");
        filling.clear();
        assert_eq!((filling.due(), filling.len()), (None, 0));

        // A full batch waits for nothing.
        let mut filling = Filling::new(interval, 2 * bytes.len());
        filling.take();
        while !filling.is_full() {
            filling.add(row(0, 2, 0, &bytes), 3);
        }
        assert!(is_after(filling.due(), begin, Duration::ZERO), "{filling:?}");
    }
}
