//! The rows of `frames` as read from the archive, without the records' bytes.

use deltalake::DeltaTableError;
use deltalake::arrow::record_batch::RecordBatch;
use edr_model::accounting::Declarations;
use edr_wire::frame::{FrameKey, FrameKind, Record};
use edr_wire::{ContentHash, Epoch};
use serde::{Deserialize, Serialize};

use super::declared::declarations_of;
use crate::delta::values::{Columns, binary, integer, long, text};
use crate::{PartitionName, RecordPosition};

/// The columns of [`ArchivedPart`].
pub(crate) const PART_COLUMNS: [&str; 17] = [
    "cluster",
    "topic",
    "partition",
    "generation",
    "offset",
    "received_ns",
    "host_id",
    "epoch",
    "seq",
    "content_hash",
    "kind",
    "base_seq",
    "captured_ns",
    "previous_epoch",
    "bye",
    "part",
    "parts",
];

/// The columns of [`ArchivedRow`] beside the [`PART_COLUMNS`].
pub(crate) const DECLARED_COLUMNS: [&str; 4] = ["boot_id", "previous_last_seq", "lost", "missed"];

/// A frame as the archive's columns describe the frame: small enough for memory and for the table of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedFrame {
    /// Identity of the frame.
    pub key: FrameKey,
    /// Key or delta.
    pub kind: FrameKind,
    /// Sequence number of the key frame for a delta.
    pub base_seq: u64,
    /// When the snapshot was taken, ns since the epoch, by the host's clock.
    pub captured_ns: i64,
    /// The preceding epoch, if known to the host.
    pub previous_epoch: Option<Epoch>,
    /// True for the last frame before a clean stop.
    pub bye: bool,
}

impl From<&Record> for ArchivedFrame {
    fn from(record: &Record) -> Self {
        let header = &record.header;
        Self {
            key: record.key,
            kind: header.kind,
            base_seq: header.base_seq,
            captured_ns: header.captured_ns,
            previous_epoch: header.previous_epoch.map(|previous| previous.id),
            bye: header.bye,
        }
    }
}

/// The columns of one record in `frames`, without the record's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedPart {
    /// The log of the record.
    pub partition: PartitionName,
    /// Location of the record.
    pub place: RecordPosition,
    /// The frame of the record.
    pub frame: ArchivedFrame,
    /// Number of the part, from 0.
    pub part: u32,
    /// Number of parts of the frame.
    pub parts: u32,
}

/// A row of `frames`, without the record's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedRow {
    /// The log of the record.
    pub partition: PartitionName,
    /// Location of the record.
    pub place: RecordPosition,
    /// The part and the declarations in its header; `None` for a record that is no frame.
    pub content: Option<(ArchivedPart, Declarations)>,
}

/// Passes the parts of a batch to `take`; rows with missing or invalid columns are skipped.
pub(crate) fn parts_of(batch: &RecordBatch, take: &mut impl FnMut(ArchivedPart)) -> Result<(), DeltaTableError> {
    numbered_parts_of(batch, &mut |_, part| take(part))
}

/// Passes every row of a batch to `take`, frames and other records.
pub(crate) fn rows_of(batch: &RecordBatch, take: &mut impl FnMut(ArchivedRow)) -> Result<(), DeltaTableError> {
    let columns = Columns(batch);
    let (clusters, topics) = (columns.texts("cluster")?, columns.texts("topic")?);
    let (partitions, generations) = (columns.integers("partition")?, columns.integers("generation")?);
    let (offsets, received) = (columns.longs("offset")?, columns.longs("received_ns")?);
    let mut parts: Vec<Option<ArchivedPart>> = vec![None; batch.num_rows()];
    numbered_parts_of(batch, &mut |at, part| parts[at] = Some(part))?;
    for ((at, part), declared) in parts.into_iter().enumerate().zip(declarations_of(batch)?) {
        let partition = PartitionName {
            cluster: text(&clusters, at).unwrap_or_default().to_owned(),
            topic: text(&topics, at).unwrap_or_default().to_owned(),
            partition: partitions.value(at),
            generation: generations.value(at),
        };
        let place = RecordPosition {
            received_ns: received.value(at),
            partition: partition.partition,
            offset: offsets.value(at),
        };
        take(ArchivedRow { partition, place, content: part.map(|part| (part, declared)) });
    }
    Ok(())
}

/// Like [`parts_of`], with the index of each row.
fn numbered_parts_of(batch: &RecordBatch, take: &mut impl FnMut(usize, ArchivedPart)) -> Result<(), DeltaTableError> {
    let columns = Columns(batch);
    let (clusters, topics) = (columns.texts("cluster")?, columns.texts("topic")?);
    let (partitions, generations) = (columns.integers("partition")?, columns.integers("generation")?);
    let (offsets, received) = (columns.longs("offset")?, columns.longs("received_ns")?);
    let (hosts, epochs, seqs) = (columns.texts("host_id")?, columns.texts("epoch")?, columns.longs("seq")?);
    let (kinds, bases, captured) = (columns.texts("kind")?, columns.longs("base_seq")?, columns.longs("captured_ns")?);
    let (contents, previous) = (columns.binaries("content_hash")?, columns.texts("previous_epoch")?);
    let (parts, counts, byes) = (columns.integers("part")?, columns.integers("parts")?, columns.integers("bye")?);
    let part = |at: usize| {
        let partition = PartitionName {
            cluster: text(&clusters, at)?.to_owned(),
            topic: text(&topics, at)?.to_owned(),
            partition: integer(&partitions, at)?,
            generation: integer(&generations, at)?,
        };
        let number = partition.partition;
        Some(ArchivedPart {
            partition,
            place: RecordPosition { received_ns: long(&received, at)?, partition: number, offset: long(&offsets, at)? },
            frame: ArchivedFrame {
                key: FrameKey {
                    host_id: text(&hosts, at)?.parse().ok()?,
                    epoch: text(&epochs, at)?.parse().ok()?,
                    seq: long(&seqs, at)?.try_into().ok()?,
                    content: ContentHash(binary(&contents, at)?.try_into().ok()?),
                },
                kind: if text(&kinds, at)? == "key" { FrameKind::Key } else { FrameKind::Delta },
                base_seq: long(&bases, at)?.try_into().ok()?,
                captured_ns: long(&captured, at)?,
                previous_epoch: text(&previous, at).and_then(|epoch| epoch.parse().ok()),
                bye: integer(&byes, at) == Some(1),
            },
            part: integer(&parts, at)?.try_into().ok()?,
            parts: integer(&counts, at)?.try_into().ok()?,
        })
    };
    (0..batch.num_rows()).filter_map(|at| Some((at, part(at)?))).for_each(|(at, part)| take(at, part));
    Ok(())
}
