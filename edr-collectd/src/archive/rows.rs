//! The rows of `frames`: their columns, and the conversion of records.

use std::sync::Arc;

use deltalake::DeltaTableError;
use deltalake::arrow::array::{ArrayRef, new_null_array};
use deltalake::arrow::datatypes::{Field, Schema};
use deltalake::arrow::record_batch::RecordBatch;
use deltalake::kernel::{DataType, PrimitiveType, StructField};
use edr_model::accounting::Declarations;
use edr_wire::frame::{FrameKind, Record};
use edr_wire::{Epoch, HostId};

use super::columns::{binaries, dates, flags, integers, longs, texts};
use super::declared::{self, signed};
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

/// Returns the columns of `frames`, in order. Delta keeps minimum and maximum of the [`STATS_COLUMNS`] per file.
pub(super) fn columns() -> Vec<StructField> {
    let not_null = |name: &str, kind| StructField::new(name, DataType::Primitive(kind), false);
    let nullable = |name: &str, kind| StructField::new(name, DataType::Primitive(kind), true);
    let mut columns = vec![
        not_null("receive_day", PrimitiveType::Date),
        not_null("received_ns", PrimitiveType::Long),
        not_null("cluster", PrimitiveType::String),
        not_null("topic", PrimitiveType::String),
        not_null("partition", PrimitiveType::Integer),
        not_null("generation", PrimitiveType::Integer),
        not_null("offset", PrimitiveType::Long),
        nullable("kafka_timestamp_ms", PrimitiveType::Long),
        nullable("host_id", PrimitiveType::String),
        nullable("epoch", PrimitiveType::String),
        nullable("seq", PrimitiveType::Long),
        nullable("kind", PrimitiveType::String),
        nullable("base_seq", PrimitiveType::Long),
        nullable("captured_ns", PrimitiveType::Long),
        nullable("raw_len", PrimitiveType::Long),
        nullable("raw_hash", PrimitiveType::Binary),
        nullable("part", PrimitiveType::Integer),
        nullable("parts", PrimitiveType::Integer),
        nullable("bye", PrimitiveType::Boolean),
        nullable("previous_epoch", PrimitiveType::String),
    ];
    columns.extend(declared::columns());
    columns.extend([
        nullable("fault", PrimitiveType::String),
        nullable("key", PrimitiveType::Binary),
        nullable("record", PrimitiveType::Binary),
    ]);
    columns
}

/// Columns with statistics, for excluding files from a search; the bytes themselves have none.
pub(super) const STATS_COLUMNS: &str = "received_ns,partition,offset,host_id,epoch,seq,captured_ns";

/// Converts rows to columns.
pub(super) fn batch(rows: &[Row], schema: Arc<Schema>) -> Result<RecordBatch, DeltaTableError> {
    let arrays = schema.fields().iter().map(|field| column(field, rows)).collect();
    Ok(RecordBatch::try_new(schema, arrays)?)
}

fn column(field: &Field, rows: &[Row]) -> ArrayRef {
    let header = |row: &Row| row.content.as_ref().ok().cloned();
    match field.name().as_str() {
        "receive_day" => dates(rows, |row| Some(super::day_of(row.received_ns))),
        "received_ns" => longs(rows, |row| Some(row.received_ns)),
        "cluster" => texts(rows, |row| Some(row.partition.cluster.clone())),
        "topic" => texts(rows, |row| Some(row.partition.topic.clone())),
        "partition" => integers(rows, |row| Some(row.partition.partition)),
        "generation" => integers(rows, |row| Some(row.partition.generation)),
        "offset" => longs(rows, |row| Some(row.offset)),
        "kafka_timestamp_ms" => longs(rows, |row| row.kafka_timestamp_ms),
        "host_id" => texts(rows, |row| Some(header(row)?.host_id.to_string())),
        "epoch" => texts(rows, |row| Some(header(row)?.epoch.to_string())),
        // `decode` refuses larger numbers.
        "seq" => longs(rows, |row| i64::try_from(header(row)?.seq).ok()),
        "kind" => texts(rows, |row| Some(kind_name(header(row)?.kind).to_owned())),
        "base_seq" => longs(rows, |row| i64::try_from(header(row)?.base_seq).ok()),
        "captured_ns" => longs(rows, |row| Some(header(row)?.captured_ns)),
        "raw_len" => longs(rows, |row| Some(header(row)?.raw_len.into())),
        "raw_hash" => binaries(rows, |row| row.content.as_ref().ok().map(|header| header.raw_hash.as_slice())),
        "part" => integers(rows, |row| i32::try_from(header(row)?.part).ok()),
        "parts" => integers(rows, |row| i32::try_from(header(row)?.parts).ok()),
        "bye" => flags(rows, |row| Some(header(row)?.bye)),
        "previous_epoch" => texts(rows, |row| header(row)?.previous_epoch.map(|epoch| epoch.to_string())),
        "boot_id" => texts(rows, |row| Some(declarations(row)?.boot_id.clone())),
        "previous_last_seq" => {
            longs(rows, |row| declarations(row)?.previous_epoch.map(|previous| signed(previous.last_seq)))
        }
        "lost" => declared::lost(rows, declarations),
        "missed" => declared::missed(rows, declarations),
        "fault" => texts(rows, |row| row.content.as_ref().err().cloned()),
        "key" => binaries(rows, |row| row.key.as_deref()),
        "record" => binaries(rows, |row| row.record.as_deref()),
        // A column of the table that this version does not know, added by a later version: null.
        _ => new_null_array(field.data_type(), rows.len()),
    }
}

/// Returns the declarations of a frame; `None` for a record that is no frame.
fn declarations(row: &Row) -> Option<&Declarations> {
    row.content.is_ok().then_some(&row.declared)
}

/// Returns the wire's name of a kind.
pub(super) fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Key => "key",
        FrameKind::Delta => "delta",
    }
}
