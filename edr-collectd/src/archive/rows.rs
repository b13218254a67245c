//! The rows of `frames`: records, and the header fields with a column.

use edr_model::accounting::Declarations;
use edr_wire::frame::{FrameKind, Record};
use edr_wire::{Epoch, HostId};

use super::{PartitionName, Place};

/// A Kafka record to be archived.
#[derive(Debug, Clone)]
pub struct Row {
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
    /// The decoded header, or the fault.
    pub content: Result<ArchivedHeader, String>,
    /// Declarations in the header; none for a fault.
    pub declared: Declarations,
}

/// Header fields with a column: identity of the frame and of the part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedHeader {
    /// The host.
    pub host_id: HostId,
    /// Epoch of the host.
    pub epoch: Epoch,
    /// Sequence number.
    pub seq: u64,
    /// Key or delta.
    pub kind: FrameKind,
    /// Sequence number of the key frame for a delta.
    pub base_seq: u64,
    /// When the snapshot was taken, ns since the epoch, by the host's clock.
    pub captured_ns: i64,
    /// Size of the snapshot, bytes.
    pub raw_len: u32,
    /// BLAKE3 of the snapshot.
    pub raw_hash: [u8; 32],
    /// Number of this part, from 0.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
    /// True for the last frame before a clean stop.
    pub bye: bool,
    /// The preceding epoch, if known to the host.
    pub previous_epoch: Option<Epoch>,
}

/// A division of a frame's content into parts: the fields shared by all parts of the cut. Parts of two cuts do not
/// belong together, even with equal sequence number and content: a frame is sent again in smaller parts when the
/// topic's size limit was lowered.
///
/// Cuts are ordered by the time of the snapshot, as claimed by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cut {
    /// When the snapshot was taken, ns since the epoch, by the host's clock.
    pub captured_ns: i64,
    seq: u64,
    epoch: Epoch,
    raw_hash: [u8; 32],
    raw_len: u32,
    parts: u32,
    is_delta: bool,
    base_seq: u64,
    bye: bool,
    previous_epoch: Option<Epoch>,
    host_id: HostId,
}

impl ArchivedHeader {
    /// Returns the fields shared by all parts of the cut.
    pub fn cut(&self) -> Cut {
        Cut {
            captured_ns: self.captured_ns,
            seq: self.seq,
            epoch: self.epoch,
            raw_hash: self.raw_hash,
            raw_len: self.raw_len,
            parts: self.parts,
            is_delta: self.kind == FrameKind::Delta,
            base_seq: self.base_seq,
            bye: self.bye,
            previous_epoch: self.previous_epoch,
            host_id: self.host_id,
        }
    }
}

impl From<&Record> for ArchivedHeader {
    fn from(record: &Record) -> Self {
        let header = &record.header;
        Self {
            host_id: header.host_id,
            epoch: header.epoch,
            seq: header.seq,
            kind: header.kind,
            base_seq: header.base_seq,
            captured_ns: header.captured_ns,
            raw_len: record.raw_len,
            raw_hash: record.raw_hash,
            part: record.part,
            parts: record.parts,
            bye: header.bye,
            previous_epoch: header.previous_epoch.map(|previous| previous.id),
        }
    }
}

impl Row {
    /// Returns the location of the row in the archive.
    pub fn place(&self) -> Place {
        Place { received_ns: self.received_ns, partition: self.partition.partition, offset: self.offset }
    }

    /// Returns the approximate memory of the row, in bytes.
    pub fn byte_len(&self) -> usize {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        256 + bytes(&self.key) + bytes(&self.record) + self.declared.byte_len()
    }
}
