//! Reads the bytes of single records, and frames made of records.

use std::collections::{BTreeSet, HashSet};

use deltalake::arrow::record_batch::RecordBatch;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::frame::{Frame, FrameError, Record};
use edr_wire::limits::RAW_BYTES_MAX;

use super::{FoundFrame, Reader, day};
use crate::delta::values::{Columns, binary};
use crate::{ArchiveError, PartitionName, RecordPosition, day_of};

/// Total body bytes of one frame: the largest snapshot, even if incompressible, and a quarter more.
const BODY_BYTES_MAX: usize = RAW_BYTES_MAX + RAW_BYTES_MAX / 4;
/// Records in memory at once while a frame is read, each of at most
/// [`RECORD_BYTES_MAX`](edr_wire::limits::RECORD_BYTES_MAX).
const RECORDS_AT_ONCE: usize = 8;

impl Reader {
    /// Reads the frame with records at these places, without the texts and lists of the header
    /// ([`Record::drop_lists`]).
    ///
    /// # Errors
    /// When the archive cannot be read, a record is missing, or the records are parts of different frames.
    pub async fn frame(&self, places: &[RecordPosition]) -> Result<Frame, ArchiveError> {
        let (mut records, mut left) = (Vec::new(), BODY_BYTES_MAX);
        let take = |mut record: Record| {
            left = left.checked_sub(record.body.len()).ok_or_else(too_large)?;
            record.drop_lists();
            records.push(record);
            Ok(())
        };
        self.records(places, take).await?;
        Frame::assemble(records).map_err(|error| self.unreadable(&error))
    }

    /// Reads the frame of a search result: of several divisions into parts, the first readable one.
    ///
    /// # Errors
    /// As [`frame`](Self::frame), for the division that was complete first.
    pub async fn found(&self, found: &FoundFrame) -> Result<Frame, ArchiveError> {
        let mut first_error = None;
        for places in found.complete() {
            match self.frame(&places).await {
                Ok(frame) => return Ok(frame),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        let incomplete = || self.unreadable(&FrameError::Parts("some of its parts are not archived".to_owned()));
        Err(first_error.unwrap_or_else(incomplete))
    }

    fn unreadable(&self, error: &FrameError) -> ArchiveError {
        ArchiveError::store("read records of", &self.path)(DeltaTableError::generic(error.to_string()))
    }

    /// Returns the archived bytes of the record at an offset of a log; `None` when there is no such row, or the record
    /// had no value.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn record_at(&self, log: &PartitionName, offset: i64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let table = self.table().await?;
        self.record_of(&table, log, offset).await.map_err(ArchiveError::store("search", &self.path))
    }

    async fn record_of(
        &self,
        table: &DeltaTable,
        log: &PartitionName,
        offset: i64,
    ) -> Result<Option<Vec<u8>>, DeltaTableError> {
        let filter = col("offset")
            .eq(lit(offset))
            .and(col("partition").eq(lit(log.partition)))
            .and(col("generation").eq(lit(log.generation)))
            .and(col("topic").eq(lit(log.topic.clone())))
            .and(col("cluster").eq(lit(log.cluster.clone())));
        let mut rows = self.engine.by(RECORDS_AT_ONCE).scan(table, Some(filter), &["record"]).await?;
        while let Some(batch) = rows.next().await? {
            let bytes = Columns(&batch).binaries("record")?;
            if let Some(record) = (0..batch.num_rows()).find_map(|at| binary(&bytes, at)) {
                return Ok(Some(record.to_vec()));
            }
        }
        Ok(None)
    }

    /// Passes the records at these places to `take`, in no particular order, a few at a time.
    async fn records(
        &self,
        places: &[RecordPosition],
        mut take: impl FnMut(Record) -> Result<(), FrameError>,
    ) -> Result<(), ArchiveError> {
        let table = self.table().await?;
        let store = |error| ArchiveError::store("read records of", &self.path)(error);
        let days: BTreeSet<i32> = places.iter().map(|place| day_of(place.received_ns)).collect();
        let days: Vec<Expr> = days.into_iter().map(day).collect();
        let times: Vec<Expr> = places.iter().map(|place| lit(place.received_ns)).collect();
        let offsets: Vec<Expr> = places.iter().map(|place| lit(place.offset)).collect();
        let least = places.iter().map(|place| place.received_ns).min().unwrap_or(0);
        let most = places.iter().map(|place| place.received_ns).max().unwrap_or(0);
        // The range excludes files; the lists select rows.
        let filter = col("receive_day")
            .in_list(days, false)
            .and(col("received_ns").gt_eq(lit(least)))
            .and(col("received_ns").lt_eq(lit(most)))
            .and(col("received_ns").in_list(times, false))
            .and(col("offset").in_list(offsets, false));
        let mut wanted: HashSet<RecordPosition> = places.iter().copied().collect();
        let columns = ["received_ns", "partition", "offset", "record"];
        let engine = self.engine.by(RECORDS_AT_ONCE);
        let mut rows = engine.scan(&table, Some(filter), &columns).await.map_err(store)?;
        while let Some(batch) = rows.next().await.map_err(store)? {
            for (place, bytes) in records_of(&batch).map_err(store)? {
                // A row may come twice.
                if wanted.remove(&place) {
                    let record = Record::decode(&bytes).and_then(&mut take);
                    record.map_err(|error| self.unreadable(&error))?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the records of a batch with their locations.
fn records_of(batch: &RecordBatch) -> Result<Vec<(RecordPosition, Vec<u8>)>, DeltaTableError> {
    let columns = Columns(batch);
    let (times, partitions) = (columns.longs("received_ns")?, columns.integers("partition")?);
    let (offsets, bytes) = (columns.longs("offset")?, columns.binaries("record")?);
    let record = |at: usize| {
        let place =
            RecordPosition { received_ns: times.value(at), partition: partitions.value(at), offset: offsets.value(at) };
        Some((place, binary(&bytes, at)?.to_vec()))
    };
    Ok((0..batch.num_rows()).filter_map(record).collect())
}

fn too_large() -> FrameError {
    FrameError::Parts(format!("its parts have more than {BODY_BYTES_MAX} bytes together"))
}
