//! Results of a search: headers of records, and the cuts of frames that the records belong to.

use std::collections::BTreeMap;

use deltalake::DeltaTableError;
use deltalake::arrow::record_batch::RecordBatch;
use edr_model::accounting::Declarations;
use edr_wire::frame::FrameKind;

use super::declared::declarations_of;
use super::delta::values::{Columns, binary, integer, long, text};
use super::{ArchivedHeader, Cut, PartitionName, Place};

/// Records kept per part of a cut, in order of receipt. Several records can claim to be the same part, and belong to
/// frames that differ only in header fields without a column.
const ALIKE_MAX: usize = 8;

/// The columns of [`Header`].
pub(super) const HEADER_COLUMNS: [&str; 18] = [
    "cluster",
    "topic",
    "partition",
    "generation",
    "offset",
    "received_ns",
    "host_id",
    "epoch",
    "seq",
    "kind",
    "base_seq",
    "captured_ns",
    "raw_len",
    "raw_hash",
    "part",
    "parts",
    "bye",
    "previous_epoch",
];

/// The columns of [`ArchivedRow`] beside the [`HEADER_COLUMNS`].
pub(super) const DECLARED_COLUMNS: [&str; 4] = ["boot_id", "previous_last_seq", "lost", "missed"];

/// A row of `frames`, without the record's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedRow {
    /// The log of the record.
    pub partition: PartitionName,
    /// Location of the record.
    pub place: Place,
    /// Header and declarations; `None` for a record that is no frame.
    pub content: Option<(ArchivedHeader, Declarations)>,
}

/// The columns of one record in `frames`, without the record's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The log of the record.
    pub partition: PartitionName,
    /// Location of the record.
    pub place: Place,
    /// The frame and the part of the record.
    pub content: ArchivedHeader,
}

/// A cut of a frame, with the locations of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Header of the first record found; all fields except `part` are equal in all records of the cut.
    pub header: ArchivedHeader,
    /// Locations of the records, by part, in the order of receipt. A part has several locations when several records
    /// claim to be that part.
    pub places: BTreeMap<u32, Vec<Place>>,
}

impl Found {
    pub(super) fn is_whole(&self) -> bool {
        self.places.len() == self.header.parts as usize
    }

    /// Returns when the frame became complete, ns since the epoch.
    pub fn received_ns(&self) -> i64 {
        self.whole_at().map_or(0, |place| place.received_ns)
    }

    /// Returns the location of the record that completed the frame.
    pub(super) fn whole_at(&self) -> Option<Place> {
        self.first_places().max()
    }

    /// Returns the location of the first record of each part.
    pub(super) fn first_places(&self) -> impl Iterator<Item = Place> {
        self.places.values().filter_map(|places| places.first().copied())
    }
}

/// Result of a search back in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Complete frames, newest first. Usually the first frame is readable and is the answer.
    pub found: Vec<Found>,
    /// Where to continue when none of the frames is readable; `None` when there are no older frames.
    pub rest: Option<Cut>,
}

/// Adds a record to its cut.
pub(super) fn note_part(cuts: &mut BTreeMap<Cut, Found>, header: Header) {
    let Header { place, content, .. } = header;
    let part = content.part;
    let found = cuts.entry(content.cut()).or_insert_with(|| Found { header: content, places: BTreeMap::new() });
    let places = found.places.entry(part).or_default();
    if let Err(at) = places.binary_search(&place) {
        places.insert(at, place);
        places.truncate(ALIKE_MAX);
    }
}

/// Returns the complete cuts, newest first.
pub(super) fn newest_first(cuts: BTreeMap<Cut, Found>) -> Vec<Found> {
    cuts.into_values().rev().filter(Found::is_whole).collect()
}

/// Passes the headers of a batch to `take`; rows with missing or invalid columns are skipped.
pub(super) fn headers_of(batch: &RecordBatch, take: &mut impl FnMut(Header)) -> Result<(), DeltaTableError> {
    numbered_headers_of(batch, &mut |_, header| take(header))
}

/// Passes every row of a batch to `take`, frames and other records.
pub(super) fn rows_of(batch: &RecordBatch, take: &mut impl FnMut(ArchivedRow)) -> Result<(), DeltaTableError> {
    let columns = Columns(batch);
    let (clusters, topics) = (columns.texts("cluster")?, columns.texts("topic")?);
    let (partitions, generations) = (columns.integers("partition")?, columns.integers("generation")?);
    let (offsets, received) = (columns.longs("offset")?, columns.longs("received_ns")?);
    let mut headers: Vec<Option<Header>> = vec![None; batch.num_rows()];
    numbered_headers_of(batch, &mut |at, header| headers[at] = Some(header))?;
    for ((at, header), declared) in headers.into_iter().enumerate().zip(declarations_of(batch)?) {
        let partition = PartitionName {
            cluster: text(&clusters, at).unwrap_or_default().to_owned(),
            topic: text(&topics, at).unwrap_or_default().to_owned(),
            partition: partitions.value(at),
            generation: generations.value(at),
        };
        let place =
            Place { received_ns: received.value(at), partition: partition.partition, offset: offsets.value(at) };
        take(ArchivedRow { partition, place, content: header.map(|header| (header.content, declared)) });
    }
    Ok(())
}

/// Like [`headers_of`], with the index of each row.
fn numbered_headers_of(batch: &RecordBatch, take: &mut impl FnMut(usize, Header)) -> Result<(), DeltaTableError> {
    let columns = Columns(batch);
    let (clusters, topics) = (columns.texts("cluster")?, columns.texts("topic")?);
    let (partitions, generations) = (columns.integers("partition")?, columns.integers("generation")?);
    let (offsets, received) = (columns.longs("offset")?, columns.longs("received_ns")?);
    let (hosts, epochs, seqs) = (columns.texts("host_id")?, columns.texts("epoch")?, columns.longs("seq")?);
    let (kinds, bases, captured) = (columns.texts("kind")?, columns.longs("base_seq")?, columns.longs("captured_ns")?);
    let (lengths, hashes) = (columns.longs("raw_len")?, columns.binaries("raw_hash")?);
    let (parts, counts) = (columns.integers("part")?, columns.integers("parts")?);
    let (byes, previous) = (columns.integers("bye")?, columns.texts("previous_epoch")?);
    let header = |at: usize| {
        let partition = PartitionName {
            cluster: text(&clusters, at)?.to_owned(),
            topic: text(&topics, at)?.to_owned(),
            partition: integer(&partitions, at)?,
            generation: integer(&generations, at)?,
        };
        let number = partition.partition;
        Some(Header {
            partition,
            place: Place { received_ns: long(&received, at)?, partition: number, offset: long(&offsets, at)? },
            content: ArchivedHeader {
                host_id: text(&hosts, at)?.parse().ok()?,
                epoch: text(&epochs, at)?.parse().ok()?,
                seq: long(&seqs, at)?.try_into().ok()?,
                kind: if text(&kinds, at)? == "key" { FrameKind::Key } else { FrameKind::Delta },
                base_seq: long(&bases, at)?.try_into().ok()?,
                captured_ns: long(&captured, at)?,
                raw_len: long(&lengths, at)?.try_into().ok()?,
                raw_hash: binary(&hashes, at)?.try_into().ok()?,
                part: integer(&parts, at)?.try_into().ok()?,
                parts: integer(&counts, at)?.try_into().ok()?,
                bye: integer(&byes, at) == Some(1),
                previous_epoch: text(&previous, at).and_then(|epoch| epoch.parse().ok()),
            },
        })
    };
    (0..batch.num_rows()).filter_map(|at| Some((at, header(at)?))).for_each(|(at, header)| take(at, header));
    Ok(())
}
