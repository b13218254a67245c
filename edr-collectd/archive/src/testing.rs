//! Records in the form of an agent's, and archives with records, for tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use deltalake::operations::vacuum::Clock;
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind, Record};
use edr_wire::{Epoch, HostId};

use super::delta::engine::Engine;
use super::delta::values::Columns;
use super::{
    Appended, ArchiveError, ArchivedFrame, ArchivedPart, Frames, PartitionName, ReceivedRecord, RecordPosition,
};

/// Returns the header of a key frame of host and epoch `n`.
pub fn header(n: u8, seq: u64) -> FrameHeader {
    FrameHeader {
        host_id: HostId([n; 16]),
        epoch: Epoch([n; 8]),
        seq,
        kind: FrameKind::Key,
        base_seq: seq,
        boot_id: "boot".into(),
        previous_epoch: None,
        captured_ns: i64::try_from(seq).unwrap_or(0).saturating_mul(10_000_000_000),
        lost: Vec::new(),
        missed: Vec::new(),
        bye: false,
    }
}

/// Returns the header of a delta frame.
pub fn delta(n: u8, seq: u64, base_seq: u64) -> FrameHeader {
    FrameHeader { kind: FrameKind::Delta, base_seq, ..header(n, seq) }
}

/// Returns the Kafka values of a frame.
pub fn records(header: &FrameHeader, raw: &[u8], key_raw: Option<&[u8]>, part_bytes: usize) -> Vec<Vec<u8>> {
    EncodedFrame::encode(header, raw, key_raw, part_bytes).unwrap().records
}

/// Returns a partition of the topic in the tests.
pub fn partition(number: i32) -> PartitionName {
    PartitionName { cluster: "c".into(), topic: "edr.snapshots".into(), partition: number, generation: 0 }
}

/// Returns a record in the form that the consumer gives to the archive.
pub fn row(number: i32, offset: i64, received_ns: i64, bytes: &[u8]) -> ReceivedRecord {
    ReceivedRecord {
        partition: partition(number),
        offset,
        kafka_timestamp_ms: Some(received_ns / 1_000_000),
        received_ns,
        key: Some(b"key".to_vec()),
        record: Some(bytes.to_vec()),
        content: crate::decode::decode(bytes).map(|record| Record { body: Vec::new(), ..record }),
    }
}

/// Returns the columns of a record, received at the time of its offset.
pub fn part(record: &Record, number: i32, offset: i64) -> ArchivedPart {
    ArchivedPart {
        partition: partition(number),
        place: RecordPosition { received_ns: offset, partition: number, offset },
        frame: ArchivedFrame::from(record),
        part: record.part,
        parts: record.parts,
    }
}

/// Returns bytes that do not compress, always the same for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Commits rows together with the position after the last row.
pub async fn append(frames: &mut Frames, rows: &[ReceivedRecord]) -> Result<Appended, ArchiveError> {
    let mut positions = BTreeMap::new();
    for row in rows {
        positions.insert(row.partition.clone(), row.offset + 1);
    }
    frames.append(rows, &positions).await
}

/// Returns the offsets of all rows in `frames`.
pub async fn offsets(frames: &Frames) -> Vec<i64> {
    let mut offsets = Vec::new();
    let mut rows = Engine::new(Arc::default()).scan(&frames.newest_version(), None, &["offset"]).await.unwrap();
    while let Some(batch) = rows.next().await.unwrap() {
        offsets.extend(Columns(&batch).longs("offset").unwrap().values().iter().copied());
    }
    offsets.sort_unstable();
    offsets
}

/// Returns the log entries of a table, by version.
pub fn entries(table: &Path) -> BTreeMap<u64, PathBuf> {
    let files = std::fs::read_dir(table.join("_delta_log")).unwrap().map(|file| file.unwrap().path());
    let version = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok();
    files.filter_map(|path| Some((version(&path)?, path))).collect()
}

/// A clock ahead by ms.
#[derive(Debug)]
pub struct ClockAhead(pub i64);

impl Clock for ClockAhead {
    fn current_timestamp_millis(&self) -> i64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap() + self.0
    }
}
