//! Computes where to start reading a partition: at the end of the archive, if Kafka still has the offset.

use edr_archive::PartitionName;

/// Start of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// The log of the records.
    pub(super) partition: PartitionName,
    /// The first offset to archive.
    pub(super) offset: i64,
    /// True when Kafka still has the record before `offset`. A comparison with the archived record then proves the
    /// identity of the log.
    pub(super) has_proof: bool,
    /// A loss or an inconsistency to report, for people.
    pub(super) note: Option<String>,
}

/// Computes the start from the archive's newest position of a partition and Kafka's offsets: `low` is the first offset,
/// `high` the one after the last. `is_replaced` is true when the log was found to differ from the archived log.
pub(super) fn start(archived: (PartitionName, Option<i64>), low: i64, high: i64, is_replaced: bool) -> Start {
    let (partition, position) = archived;
    match position {
        None => Start { partition, offset: low, has_proof: false, note: None },
        // The topic was recreated, or the log lost its end. The archived records stay, and the new log gets a new
        // position.
        Some(position) if position > high || is_replaced => {
            let next = PartitionName { generation: partition.generation + 1, ..partition.clone() };
            let reason = if is_replaced {
                format!("the record at offset {} is not the one that was archived from there", position - 1)
            } else {
                format!("the archive ends at offset {position}, the log at {high}")
            };
            let note = format!(
                "{partition}: {reason}: the topic was made anew, or its end was lost and with it what was acknowledged \
                 there; what is archived stays, and reading starts at offset {low} as log {}",
                next.generation + 1
            );
            Start { partition: next, offset: low, has_proof: false, note: Some(note) }
        }
        Some(position) if position < low => {
            let note = format!(
                "{partition}: {} records, offsets {position} to {}, were deleted by Kafka before they were archived: \
                the \
                 topic's retention is shorter than the collector was away; reading starts at offset {low}",
                low - position,
                low - 1
            );
            Start { partition, offset: low, has_proof: false, note: Some(note) }
        }
        Some(position) => Start { partition, offset: position, has_proof: position > low, note: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edr_archive::testing::partition;

    fn at(position: Option<i64>, is_replaced: bool) -> Start {
        start((partition(0), position), 10, 20, is_replaced)
    }

    #[test]
    fn reading_goes_on_where_the_archive_ends() {
        for (position, offset, has_proof) in
            [(None, 10, false), (Some(10), 10, false), (Some(15), 15, true), (Some(20), 20, true)]
        {
            assert_eq!(at(position, false), Start { partition: partition(0), offset, has_proof, note: None });
        }
    }

    #[test]
    fn what_kafka_deleted_is_named_by_its_offsets() {
        let start = at(Some(4), false);
        assert_eq!((start.offset, start.partition.generation), (10, 0));
        assert!(start.note.unwrap().contains("6 records, offsets 4 to 9, were deleted"));
    }

    #[test]
    fn a_log_that_ends_before_the_position_or_has_another_record_there_is_another_log() {
        for (start, reason) in [
            (at(Some(21), false), "the archive ends at offset 21, the log at 20"),
            (at(Some(15), true), "the record at offset 14 is not the one"),
        ] {
            assert_eq!((start.offset, start.partition.generation, start.has_proof), (10, 1, false));
            assert!(start.note.unwrap().contains(reason));
        }
    }
}
