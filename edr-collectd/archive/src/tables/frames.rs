//! `frames`: one row per Kafka record, whatever the content.

use std::path::Path;
use std::time::Duration;

use edr_wire::frame::{FrameHeader, FrameKind, Record};

use super::declared;
use super::record::ReceivedRecord;
use crate::delta::{ArchiveColumn, ArchiveTable, TableDeclaration, TableStorage};
use crate::{ArchiveError, day_of};

/// How the table is stored. Nothing is replaced, so a vacuum only finds the files of commits that were never made.
pub(crate) const STORAGE: TableStorage = TableStorage {
    folder: "frames",
    partition_column: "receive_day",
    checkpoint_commits: 100,
    vacuum_interval: Duration::from_secs(86_400),
};

/// The table of records: the only handle to read and commit Kafka positions.
pub type Frames = ArchiveTable<ReceivedRecord>;

impl Frames {
    /// Opens the table in the archive's folder; creates the table when missing.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        declaration().open(archive).await
    }
}

/// Returns the declaration of the table.
pub(crate) fn declaration() -> TableDeclaration<ReceivedRecord> {
    fn record(row: &ReceivedRecord) -> Option<&Record> {
        row.content.as_ref().ok()
    }
    fn header(row: &ReceivedRecord) -> Option<&FrameHeader> {
        Some(&record(row)?.header)
    }
    let mut columns = vec![
        ArchiveColumn::date("receive_day", |row: &ReceivedRecord| Some(day_of(row.received_ns))).required(),
        ArchiveColumn::long("received_ns", |row: &ReceivedRecord| Some(row.received_ns)).required().statistics(),
        ArchiveColumn::text("cluster", |row: &ReceivedRecord| Some(row.partition.cluster.clone())).required(),
        ArchiveColumn::text("topic", |row: &ReceivedRecord| Some(row.partition.topic.clone())).required(),
        ArchiveColumn::integer("partition", |row: &ReceivedRecord| Some(row.partition.partition))
            .required()
            .statistics(),
        ArchiveColumn::integer("generation", |row: &ReceivedRecord| Some(row.partition.generation)).required(),
        ArchiveColumn::long("offset", |row: &ReceivedRecord| Some(row.offset)).required().statistics(),
        ArchiveColumn::long("kafka_timestamp_ms", |row: &ReceivedRecord| row.kafka_timestamp_ms),
        ArchiveColumn::text("host_id", |row| Some(header(row)?.host_id.to_string())).statistics(),
        ArchiveColumn::text("epoch", |row| Some(header(row)?.epoch.to_string())).statistics(),
        // `decode` refuses larger numbers.
        ArchiveColumn::long("seq", |row| i64::try_from(header(row)?.seq).ok()).statistics(),
        ArchiveColumn::text("kind", |row| Some(kind_name(header(row)?.kind).to_owned())),
        ArchiveColumn::long("base_seq", |row| i64::try_from(header(row)?.base_seq).ok()),
        ArchiveColumn::long("captured_ns", |row| Some(header(row)?.captured_ns)).statistics(),
        ArchiveColumn::long("raw_len", |row| Some(record(row)?.raw_len.into())),
        ArchiveColumn::bytes("raw_hash", |row| Some(record(row)?.raw_hash.as_slice())).incompressible(),
        ArchiveColumn::bytes("content_hash", |row| Some(record(row)?.key.content.0.as_slice()))
            .incompressible()
            .essential(),
        ArchiveColumn::integer("part", |row| i32::try_from(record(row)?.part).ok()),
        ArchiveColumn::integer("parts", |row| i32::try_from(record(row)?.parts).ok()),
        ArchiveColumn::flag("bye", |row| Some(header(row)?.bye)),
        ArchiveColumn::text("previous_epoch", |row| Some(header(row)?.previous_epoch?.id.to_string())),
    ];
    columns.extend(declared::columns());
    columns.extend([
        ArchiveColumn::text("fault", |row: &ReceivedRecord| row.content.as_ref().err().cloned()),
        ArchiveColumn::bytes("key", |row: &ReceivedRecord| row.key.as_deref()),
        ArchiveColumn::bytes("record", |row: &ReceivedRecord| row.record.as_deref()).incompressible(),
    ]);
    TableDeclaration { storage: STORAGE, columns }
}

/// Returns the wire's name of a kind.
fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Key => "key",
        FrameKind::Delta => "delta",
    }
}
