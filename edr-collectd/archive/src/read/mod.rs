//! Reads `frames`: searches among headers (columns only), and the bytes of single records.
//!
//! Search filters use columns that exclude whole files: the folder is the day of receipt, and the table's log keeps
//! minimum and maximum of times, offsets and sequence numbers per file.

mod files;
mod found;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use deltalake::arrow::record_batch::RecordBatch;
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::frame::{Frame, FrameError, Record};
use edr_wire::limits::RAW_BYTES_MAX;
use edr_wire::{Epoch, HostId};
use tokio::sync::Mutex;

use self::files::Candidate;
pub use self::files::FirstSnapshot;
pub use self::found::{Candidates, Found, SearchRank};
use self::found::{FoundFrames, newest_first, note_part};
use crate::delta::engine::Engine;
use crate::delta::values::{Columns, binary};
use crate::delta::{exists, unloaded};
use crate::tables::rows::{ArchivedPart, ArchivedRow, DECLARED_COLUMNS, PART_COLUMNS, parts_of, rows_of};
use crate::{ArchiveError, PartitionName, Place, day_of, tables};

/// Frames kept by a search back in time, complete or not; a continued search looks below the last.
const CANDIDATES_MAX: usize = 256;
/// Contents kept per place of a frame, by the time of the first record: the earliest.
const CONTENTS_MAX: usize = 256;
/// Total body bytes of one frame: the largest snapshot, even if incompressible, and a quarter more.
const BODY_BYTES_MAX: usize = RAW_BYTES_MAX + RAW_BYTES_MAX / 4;
/// Records in memory at once while a frame is read, each of at most
/// [`RECORD_BYTES_MAX`](edr_wire::limits::RECORD_BYTES_MAX).
const RECORDS_AT_ONCE: usize = 8;
/// Time spans, in ns, that a search tries before the whole archive.
const WINDOWS_NS: [i64; 2] = [600_000_000_000, 86_400_000_000_000];
/// Files read by a search for the first snapshot of a host.
const FIRST_FILES_MAX: usize = 64;
/// Largest age of a key frame relative to its delta, in ns of the host's clock, unless that clock jumped.
const KEY_AGE_NS_MAX: i64 = 2 * 86_400_000_000_000;

/// Reader of the archive. Cheap to keep; every query sees the newest version of the table.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    table: Mutex<Option<DeltaTable>>,
    engine: Engine,
}

impl Reader {
    /// Makes a reader of the archive in this folder; the folder need not exist yet.
    pub fn new(archive: &Path) -> Self {
        Self { path: archive.join(tables::frames::STORAGE.folder), table: Mutex::new(None), engine: Engine::new() }
    }

    /// Returns the table without loading it: each scan reads the newest version, and only the part of the file list
    /// that the filter needs.
    async fn table(&self) -> Result<DeltaTable, ArchiveError> {
        let mut known = self.table.lock().await;
        if let Some(table) = known.as_ref() {
            return Ok(table.clone());
        }
        if !exists(&self.path).await? {
            return Err(ArchiveError::Missing(self.path.clone()));
        }
        Ok(known.insert(unloaded(&self.path)?).clone())
    }

    /// Passes every row received in this span (ns since the epoch) to `take`, in no particular order.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn rows(&self, span: Range<i64>, mut take: impl FnMut(ArchivedRow)) -> Result<(), ArchiveError> {
        let filter = col("receive_day")
            .gt_eq(day(day_of(span.start)))
            .and(col("receive_day").lt_eq(day(day_of(span.end))))
            .and(col("received_ns").gt_eq(lit(span.start)))
            .and(col("received_ns").lt(lit(span.end)));
        let columns = [PART_COLUMNS.as_slice(), &DECLARED_COLUMNS].concat();
        let table = self.table().await?;
        let read = async {
            let mut rows = self.engine.scan(&table, Some(filter), &columns).await?;
            while let Some(batch) = rows.next().await? {
                rows_of(&batch, &mut take)?;
            }
            Ok(())
        };
        read.await.map_err(ArchiveError::store("search", &self.path))
    }

    /// Returns when the first and the last record of each file was received (ns since the epoch), ordered by the first,
    /// from the table's log alone.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received(&self) -> Result<Vec<RangeInclusive<i64>>, ArchiveError> {
        let store = self.table().await?.log_store();
        let received = files::received(&store).await.map_err(ArchiveError::store("read", &self.path))?;
        Ok(received.into_iter().map(|(first, last)| first..=last).collect())
    }

    /// Returns the number of rows of each day of receipt, from the table's log alone; `None` when the log has no number.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn rows_by_day(&self) -> Result<BTreeMap<i32, Option<u64>>, ArchiveError> {
        let store = self.table().await?.log_store();
        files::rows_by_day(&store).await.map_err(ArchiveError::store("read", &self.path))
    }

    /// Returns the last complete frames of a host taken at or before `at_ns`, by the host's clock. With `below`, the
    /// `rest` of the previous search, only frames before that rank are returned.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn last_before(
        &self,
        host_id: HostId,
        at_ns: i64,
        below: Option<SearchRank>,
    ) -> Result<Candidates, ArchiveError> {
        let at_ns = below.map_or(at_ns, |(captured_ns, _)| captured_ns.min(at_ns));
        let of_host = col("host_id").eq(lit(host_id.to_string())).and(col("captured_ns").lt_eq(lit(at_ns)));
        for window_ns in WINDOWS_NS {
            // A snapshot is received after its capture; a day of tolerance for clocks.
            let recent = col("captured_ns")
                .gt(lit(at_ns.saturating_sub(window_ns)))
                .and(col("receive_day").gt_eq(day(day_of(at_ns) - 1)));
            let (frames, _) = self.newest_frames(of_host.clone().and(recent), below).await?;
            if let Some(&rest) = frames.keys().next() {
                return Ok(Candidates { found: newest_first(frames), rest: Some(rest) });
            }
        }
        let (frames, has_more) = self.newest_frames(of_host, below).await?;
        let rest = frames.keys().next().copied().filter(|_| has_more);
        Ok(Candidates { found: newest_first(frames), rest })
    }

    /// Returns all complete contents of these places of a host, by (epoch, sequence number); the contents of a place
    /// are in order of completion. A range `captured_ns` limits the search to frames of that time and saves a search of
    /// the whole archive.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn frames_of(
        &self,
        host_id: HostId,
        wanted: &BTreeSet<(Epoch, u64)>,
        captured_ns: Option<RangeInclusive<i64>>,
    ) -> Result<HashMap<(Epoch, u64), Vec<Found>>, ArchiveError> {
        let numbers = wanted.iter().filter_map(|(_, seq)| i64::try_from(*seq).ok()).map(lit).collect();
        let mut filter = col("host_id").eq(lit(host_id.to_string())).and(col("seq").in_list(numbers, false));
        if let Some(range) = captured_ns {
            filter = filter
                .and(col("captured_ns").gt_eq(lit(*range.start())))
                .and(col("captured_ns").lt_eq(lit(*range.end())));
        }
        let mut places: HashMap<(Epoch, u64), FoundFrames> = HashMap::new();
        let mut take = |part: ArchivedPart| {
            let place = part.frame.key.place();
            if !wanted.contains(&place) {
                return;
            }
            let contents = places.entry(place).or_default();
            note_part(contents, &part);
            if contents.len() > CONTENTS_MAX {
                // The last received content is dropped: later records must not hide earlier records.
                let last = contents.iter().max_by_key(|(_, found)| found.first()).map(|(rank, _)| *rank);
                if let Some(last) = last {
                    contents.remove(&last);
                }
            }
        };
        self.search(filter, &mut take).await?;
        let in_order = |contents: FoundFrames| {
            let mut found: Vec<Found> = contents.into_values().filter(|found| found.completed().is_some()).collect();
            found.sort_by_key(Found::completed);
            found
        };
        Ok(places.into_iter().map(|(place, contents)| (place, in_order(contents))).collect())
    }

    /// Returns all complete contents of a place of a host, in order of completion. `captured_ns` is the time of a frame
    /// nearby and usually saves a search of the whole archive.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn frame_of(
        &self,
        host_id: HostId,
        epoch: Epoch,
        seq: u64,
        captured_ns: i64,
    ) -> Result<Vec<Found>, ArchiveError> {
        let wanted = BTreeSet::from([(epoch, seq)]);
        let near = captured_ns.saturating_sub(KEY_AGE_NS_MAX)..=captured_ns.saturating_add(KEY_AGE_NS_MAX);
        for range in [Some(near), None] {
            let found = self.frames_of(host_id, &wanted, range).await?.remove(&(epoch, seq)).unwrap_or_default();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Returns when the first snapshot of a host after a moment was taken, by the host's clock. At most
    /// [`FIRST_FILES_MAX`] files are read, those with the earliest snapshots.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn first_after(&self, host_id: HostId, after_ns: i64) -> Result<FirstSnapshot, ArchiveError> {
        let table = self.table().await?;
        let failed = |error| ArchiveError::store("search", &self.path)(error);
        let found = files::candidates(&table.log_store(), host_id, after_ns, FIRST_FILES_MAX + 1).await;
        let mut files: VecDeque<Candidate> = found.map_err(failed)?.into_iter().collect();
        let filter = col("host_id").eq(lit(host_id.to_string())).and(col("captured_ns").gt(lit(after_ns)));
        let (mut first, mut at_once, mut read) = (None, 1, 0);
        while read < FIRST_FILES_MAX
            && let Some(next) = files.front()
            && first.is_none_or(|first| next.least_ns < first)
        {
            let count = at_once.min(files.len()).min(FIRST_FILES_MAX - read);
            let paths: Vec<String> = files.drain(..count).map(|file| file.path).collect();
            let rows = self.engine.scan_files(&table, &paths, Some(filter.clone()), &["captured_ns"]).await;
            let mut rows = rows.map_err(failed)?;
            while let Some(batch) = rows.next().await.map_err(failed)? {
                let times = Columns(&batch).longs("captured_ns").map_err(failed)?;
                first = times.iter().flatten().chain(first).min();
            }
            (read, at_once) = (read + count, at_once * 4);
        }
        Ok(match (first, files.front()) {
            (Some(first), None) => FirstSnapshot::At(first),
            (Some(first), Some(next)) if first <= next.least_ns => FirstSnapshot::At(first),
            (_, Some(next)) => FirstSnapshot::NotBefore(next.least_ns),
            (None, None) => FirstSnapshot::Absent,
        })
    }

    /// Reads the frame with records at these places, without the texts and lists of the header
    /// ([`Record::drop_lists`]).
    ///
    /// # Errors
    /// When the archive cannot be read, a record is missing, or the records are parts of different frames.
    pub async fn frame(&self, places: &[Place]) -> Result<Frame, ArchiveError> {
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
    pub async fn found(&self, found: &Found) -> Result<Frame, ArchiveError> {
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
        places: &[Place],
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
        let wanted: HashSet<Place> = places.iter().copied().collect();
        let columns = ["received_ns", "partition", "offset", "record"];
        let engine = self.engine.by(RECORDS_AT_ONCE);
        let mut rows = engine.scan(&table, Some(filter), &columns).await.map_err(store)?;
        while let Some(batch) = rows.next().await.map_err(store)? {
            for (place, bytes) in records_of(&batch).map_err(store)? {
                if wanted.contains(&place) {
                    let record = Record::decode(&bytes).and_then(&mut take);
                    record.map_err(|error| self.unreadable(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the newest frames among the matching rows, complete or not, and whether older frames were dropped.
    async fn newest_frames(
        &self,
        filter: Expr,
        below: Option<SearchRank>,
    ) -> Result<(FoundFrames, bool), ArchiveError> {
        let mut frames = FoundFrames::new();
        let mut has_more = false;
        let mut take = |part: ArchivedPart| {
            if below.is_some_and(|below| part.frame.rank() >= below) {
                return;
            }
            note_part(&mut frames, &part);
            if frames.len() > CANDIDATES_MAX {
                frames.pop_first();
                has_more = true;
            }
        };
        self.search(filter, &mut take).await?;
        Ok((frames, has_more))
    }

    async fn search(&self, filter: Expr, take: &mut impl FnMut(ArchivedPart)) -> Result<(), ArchiveError> {
        let table = self.table().await?;
        self.part_rows(&table, filter, take).await.map_err(ArchiveError::store("search", &self.path))
    }

    async fn part_rows(
        &self,
        table: &DeltaTable,
        filter: Expr,
        take: &mut impl FnMut(ArchivedPart),
    ) -> Result<(), DeltaTableError> {
        let filter = filter.and(col("host_id").is_not_null());
        let mut rows = self.engine.scan(table, Some(filter), &PART_COLUMNS).await?;
        while let Some(batch) = rows.next().await? {
            parts_of(&batch, take)?;
        }
        Ok(())
    }
}

/// Returns the records of a batch with their locations.
fn records_of(batch: &RecordBatch) -> Result<Vec<(Place, Vec<u8>)>, DeltaTableError> {
    let columns = Columns(batch);
    let (times, partitions) = (columns.longs("received_ns")?, columns.integers("partition")?);
    let (offsets, bytes) = (columns.longs("offset")?, columns.binaries("record")?);
    let record = |at: usize| {
        let place = Place { received_ns: times.value(at), partition: partitions.value(at), offset: offsets.value(at) };
        Some((place, binary(&bytes, at)?.to_vec()))
    };
    Ok((0..batch.num_rows()).filter_map(record).collect())
}

fn too_large() -> FrameError {
    FrameError::Parts(format!("its parts have more than {BODY_BYTES_MAX} bytes together"))
}

fn day(days: i32) -> Expr {
    Expr::Literal(ScalarValue::Date32(Some(days)), None)
}
