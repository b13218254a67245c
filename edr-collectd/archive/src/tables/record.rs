//! The rows of `frames` as received from Kafka.

use edr_wire::frame::Record;

use crate::{PartitionName, RecordPosition};

/// A Kafka record to be archived.
#[derive(Debug, Clone)]
pub struct ReceivedRecord {
    /// The log of the record.
    pub partition: PartitionName,
    /// Offset in the log.
    pub offset: i64,
    /// Kafka's timestamp of the record, ms since the epoch.
    pub kafka_timestamp_ms: Option<i64>,
    /// When the collector received the record, ns since the epoch, by the collector's clock.
    pub received_ns: i64,
    /// Kafka's key, verbatim.
    pub key: Option<Vec<u8>>,
    /// Kafka's value, verbatim; `None` for a record without a value.
    pub record: Option<Vec<u8>>,
    /// The decoded record with an empty `body`, or the fault.
    pub content: Result<Record, String>,
}

impl ReceivedRecord {
    /// Returns the location of the row in the archive.
    pub fn place(&self) -> RecordPosition {
        RecordPosition { received_ns: self.received_ns, partition: self.partition.partition, offset: self.offset }
    }

    /// Returns the approximate memory of the row, in bytes.
    pub fn byte_len(&self) -> usize {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let lists = self.content.as_ref().map_or(0, |record| record.header.heap_len());
        512 + bytes(&self.key) + bytes(&self.record) + lists
    }
}
