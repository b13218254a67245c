//! The records of the next commit.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::archive::{PartitionName, Row};

/// Rows of one commit and the Kafka positions after them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    pub(super) positions: BTreeMap<PartitionName, i64>,
    /// Positions of the archive when the commit began, for a retry.
    pub(super) base: BTreeMap<PartitionName, Option<i64>>,
    pub(super) bytes: usize,
    /// When the first row was added.
    pub(super) since: Option<Instant>,
}

impl Batch {
    pub(super) fn add(&mut self, row: Row) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += row.byte_len();
        self.positions.insert(row.partition.clone(), row.offset + 1);
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
