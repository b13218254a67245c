//! Where to start reading a partition: where the archive ends, as far as Kafka still has it.

use crate::archive::PartitionName;

/// Where to start, and what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// The log the records belong to.
    pub(super) partition: PartitionName,
    /// The first offset to read.
    pub(super) offset: i64,
    /// What is not as it should be, for people.
    pub(super) note: Option<String>,
}

/// Decides from the archive's newest position of a partition and the offsets that Kafka has: `low` is the first, `high`
/// the one after the last.
pub(super) fn start(archived: (PartitionName, Option<i64>), low: i64, high: i64) -> Start {
    let (partition, position) = archived;
    match position {
        None => Start { partition, offset: low, note: None },
        // The log ends before the position: it is another log, or it lost its tail. What was archived stays, and the
        // new log gets a position of its own.
        Some(position) if position > high => {
            let next = PartitionName { generation: partition.generation + 1, ..partition.clone() };
            let note = format!(
                "{partition}: the archive ends at offset {position}, the log at {high}: the topic was made anew, or its \
                 end was lost and with it what was acknowledged there; what is archived stays, and reading starts at \
                 offset {low} as log {}",
                next.generation + 1
            );
            Start { partition: next, offset: low, note: Some(note) }
        }
        Some(position) if position < low => {
            let note = format!(
                "{partition}: {} records, offsets {position} to {}, were deleted by Kafka before they were archived: the \
                 topic's retention is shorter than the collector was away; reading starts at offset {low}",
                low - position,
                low - 1
            );
            Start { partition, offset: low, note: Some(note) }
        }
        Some(position) => Start { partition, offset: position, note: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::partition;

    #[test]
    fn reading_goes_on_where_the_archive_ends() {
        let at = |position| start((partition(0), position), 10, 20);
        assert_eq!(at(None), Start { partition: partition(0), offset: 10, note: None });
        for position in [10, 15, 20] {
            assert_eq!(at(Some(position)), Start { partition: partition(0), offset: position, note: None });
        }
    }

    #[test]
    fn what_kafka_deleted_is_named_by_its_offsets() {
        let start = start((partition(0), Some(4)), 10, 20);
        assert_eq!((start.offset, start.partition.generation), (10, 0));
        assert!(start.note.unwrap().contains("6 records, offsets 4 to 9, were deleted"));
    }

    #[test]
    fn a_log_that_ends_before_the_position_is_another_log() {
        let start = start((partition(0), Some(21)), 0, 20);
        assert_eq!((start.offset, start.partition.generation), (0, 1));
        assert!(start.note.unwrap().contains("the archive ends at offset 21, the log at 20"));
    }
}
