//! Searches among the frames of a host: back in time, by sequence number, and for the first snapshot.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::RangeInclusive;

use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::{Epoch, HostId};

use super::files::{self, Candidate, FirstSnapshot};
use super::found::{Candidates, FoundFrame, FoundFrames, SearchRank, newest_first, note_part};
use super::{Reader, day};
use crate::delta::values::Columns;
use crate::tables::rows::{ArchivedPart, PART_COLUMNS, parts_of};
use crate::{ArchiveError, day_of};

/// Frames kept by a search back in time, complete or not; a continued search looks below the last.
const CANDIDATES_MAX: usize = 256;
/// Contents kept per place of a frame, by the time of the first record: the earliest.
const CONTENTS_MAX: usize = 256;
/// Time spans, in ns, that a search tries before the whole archive.
const WINDOWS_NS: [i64; 2] = [600_000_000_000, 86_400_000_000_000];
/// Files read by a search for the first snapshot of a host.
const FIRST_FILES_MAX: usize = 64;
/// Largest age of a key frame relative to its delta, in ns of the host's clock, unless that clock jumped.
const KEY_AGE_NS_MAX: i64 = 2 * 86_400_000_000_000;

impl Reader {
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
    ) -> Result<HashMap<(Epoch, u64), Vec<FoundFrame>>, ArchiveError> {
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
            let mut found: Vec<FoundFrame> =
                contents.into_values().filter(|found| found.completed().is_some()).collect();
            found.sort_by_key(FoundFrame::completed);
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
    ) -> Result<Vec<FoundFrame>, ArchiveError> {
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
        let found = files::candidates(&table, host_id, after_ns, FIRST_FILES_MAX + 1).await;
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
