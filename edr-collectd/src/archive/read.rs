//! Reading `frames`: which records there are (columns only), and the bytes of a few of them.
//!
//! Searches go by columns that let whole files be passed over: the folder is the receive day, and the log keeps minimum
//! and maximum of times, offsets and sequence numbers of every file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::arrow::record_batch::RecordBatch;
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::context::SessionContext;
use deltalake::datafusion::execution::memory_pool::GreedyMemoryPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::datafusion::prelude::SessionConfig;
use deltalake::kernel::Snapshot;
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::frame::{Frame, FrameKind, Record};
use edr_wire::{Epoch, HostId};
use futures::TryStreamExt as _;
use jiff::civil::Date;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::columns::{Columns, binary, integer, long, text};
use super::{ArchiveError, ArchivedHeader, Cut, FRAMES, PartitionName, Place, day_of};

/// Memory a query may use beside the batches it hands out.
const QUERY_BYTES_MAX: usize = 256 << 20;
/// Cuts remembered of a search back in time, whole or not; a search on goes below them.
const CANDIDATES_MAX: usize = 256;
/// Cuts remembered of one frame: those whose first part came first.
const CUTS_MAX: usize = 256;
/// How far back a search looks before it looks at everything.
const WINDOWS_NS: [i64; 2] = [600_000_000_000, 86_400_000_000_000];
/// A key frame is this much older than its delta at most, by the host's clock, unless that clock jumped.
const KEY_AGE_NS_MAX: i64 = 2 * 86_400_000_000_000;

/// The columns of [`Header`].
const HEADER_COLUMNS: [&str; 18] = [
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

/// Minimum and maximum that the table's log keeps of a file.
#[derive(Deserialize)]
struct Statistics {
    #[serde(rename = "minValues")]
    least: Times,
    #[serde(rename = "maxValues")]
    most: Times,
}

#[derive(Deserialize)]
struct Times {
    received_ns: i64,
}

/// What `frames` tells of one record beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The log it came from.
    pub partition: PartitionName,
    /// Where it lies.
    pub place: Place,
    /// Which frame it is a part of.
    pub content: ArchivedHeader,
}

/// One cut of a frame that a search found, with the places of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What its records say alike.
    pub header: ArchivedHeader,
    /// Where they lie, by part.
    pub places: BTreeMap<u32, Place>,
}

impl Found {
    fn is_whole(&self) -> bool {
        self.places.len() == self.header.parts as usize
    }

    /// When its last record came.
    pub fn received_ns(&self) -> i64 {
        self.places.values().map(|place| place.received_ns).max().unwrap_or(0)
    }
}

/// What a search back in time found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Whole frames, newest first. Usually the first one is the answer.
    pub found: Vec<Found>,
    /// Where to search on when none of them can be read; `None` when nothing is below them.
    pub rest: Option<Cut>,
}

/// Reads the archive. Cheap to keep; every question sees the newest version of the table.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    table: Mutex<Option<DeltaTable>>,
}

impl Reader {
    /// A reader of the archive in this folder, which need not exist yet.
    pub fn new(archive: &Path) -> Self {
        Self { path: archive.join(FRAMES), table: Mutex::new(None) }
    }

    /// The table, not loaded: each scan reads its newest version, and of the list of its files only what the filter needs.
    async fn table(&self) -> Result<DeltaTable, ArchiveError> {
        let mut known = self.table.lock().await;
        if let Some(table) = known.as_ref() {
            return Ok(table.clone());
        }
        if !super::exists(&self.path).await? {
            return Err(ArchiveError::Missing(self.path.clone()));
        }
        Ok(known.insert(super::table_at(&self.path)?).clone())
    }

    /// Gives the header of every record received in this span (ns since the epoch) to `take`, in no particular order;
    /// records that are no frame are left out.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn headers(&self, span: Range<i64>, mut take: impl FnMut(Header)) -> Result<(), ArchiveError> {
        let filter = col("receive_day")
            .gt_eq(day(day_of(span.start)))
            .and(col("receive_day").lt_eq(day(day_of(span.end))))
            .and(col("received_ns").gt_eq(lit(span.start)))
            .and(col("received_ns").lt(lit(span.end)));
        self.search(filter, &mut take).await
    }

    /// When the first and the last record of each file was received (ns since the epoch), by the first, from the table's
    /// log alone.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received(&self) -> Result<Vec<RangeInclusive<i64>>, ArchiveError> {
        let store = self.table().await?.log_store();
        let failed = |error| ArchiveError::store("read", &self.path)(error);
        let snapshot = Snapshot::try_new(&store, None).await.map_err(failed)?;
        let mut files = snapshot.file_views(&store, None);
        let mut received = BTreeSet::new();
        while let Some(file) = files.try_next().await.map_err(failed)? {
            match file.stats().and_then(|text| serde_json::from_str::<Statistics>(&text).ok()) {
                Some(Statistics { least, most }) => _ = received.insert((least.received_ns, most.received_ns)),
                // A file whose statistics somebody dropped still has its day: any hour of it.
                None => received.extend(day_hours(&file.partition_values_map())),
            }
        }
        Ok(received.into_iter().map(|(first, last)| first..=last).collect())
    }

    /// The last frames of a host taken at or before `at_ns`, by their own word, with all their parts; of those below
    /// `below`, when it is given: the `rest` of the search before.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn last_before(
        &self,
        host_id: HostId,
        at_ns: i64,
        below: Option<&Cut>,
    ) -> Result<Candidates, ArchiveError> {
        let at_ns = below.map_or(at_ns, |below| below.captured_ns.min(at_ns));
        let of_host = col("host_id").eq(lit(host_id.to_string())).and(col("captured_ns").lt_eq(lit(at_ns)));
        for window_ns in WINDOWS_NS {
            // What was taken at that time came at that time or later; a day of margin for clocks.
            let recent = col("captured_ns")
                .gt(lit(at_ns.saturating_sub(window_ns)))
                .and(col("receive_day").gt_eq(day(day_of(at_ns) - 1)));
            let (cuts, _) = self.newest_cuts(of_host.clone().and(recent), below).await?;
            if let Some(&rest) = cuts.keys().next() {
                return Ok(Candidates { found: newest_first(cuts), rest: Some(rest) });
            }
        }
        let (cuts, has_more) = self.newest_cuts(of_host, below).await?;
        let rest = cuts.keys().next().copied().filter(|_| has_more);
        Ok(Candidates { found: newest_first(cuts), rest })
    }

    /// All whole cuts of these frames of a host, by (epoch, sequence number), each frame's in the order in which they
    /// became whole. Only those taken within `captured_ns`, when it is given: that saves looking through all of the
    /// archive.
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
        let mut frames: HashMap<(Epoch, u64), BTreeMap<Cut, Found>> = HashMap::new();
        let mut take = |header: Header| {
            let frame = (header.content.epoch, header.content.seq);
            if !wanted.contains(&frame) {
                return;
            }
            let cuts = frames.entry(frame).or_default();
            note_part(cuts, header);
            if cuts.len() > CUTS_MAX {
                // What comes later hides nothing that came before.
                let last = cuts.iter().max_by_key(|(_, found)| found.places.values().min()).map(|(cut, _)| *cut);
                if let Some(last) = last {
                    cuts.remove(&last);
                }
            }
        };
        self.search(filter, &mut take).await?;
        let in_order = |cuts: BTreeMap<Cut, Found>| {
            let mut found: Vec<Found> = cuts.into_values().filter(Found::is_whole).collect();
            found.sort_by_key(|found| found.places.values().max().copied());
            found
        };
        Ok(frames.into_iter().map(|(frame, cuts)| (frame, in_order(cuts))).collect())
    }

    /// All whole cuts of one frame of a host, in the order in which they became whole. `captured_ns` of a frame near it
    /// saves looking through all of the archive.
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

    /// When the first snapshot of a host was taken.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn first_captured_ns(&self, host_id: HostId) -> Result<Option<i64>, ArchiveError> {
        let mut first: Option<i64> = None;
        let mut take = |header: Header| {
            let captured_ns = header.content.captured_ns;
            first = Some(first.map_or(captured_ns, |first| first.min(captured_ns)));
        };
        self.search(col("host_id").eq(lit(host_id.to_string())), &mut take).await?;
        Ok(first)
    }

    /// The frame whose records lie at these places.
    ///
    /// # Errors
    /// When the archive cannot be read, or a record is not there, or the records are not all parts of one frame.
    pub async fn frame(&self, places: &[Place]) -> Result<Frame, ArchiveError> {
        let table = self.table().await?;
        let store = |error| ArchiveError::store("read records of", &self.path)(error);
        let records = self.records(&table, places).await.map_err(store)?;
        let unreadable = |error: edr_wire::frame::FrameError| store(DeltaTableError::generic(error.to_string()));
        let records: Vec<Record> =
            records.iter().map(|record| Record::decode(record)).collect::<Result<_, _>>().map_err(unreadable)?;
        Frame::assemble(records).map_err(unreadable)
    }

    /// The bytes that were archived from one offset of a log; `None` when there is no such row or it has none.
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
        let mut rows = Engine::new().scan(table, Some(filter), &["record"]).await?;
        while let Some(batch) = rows.next().await? {
            let bytes = Columns(&batch).binaries("record")?;
            if let Some(record) = (0..batch.num_rows()).find_map(|at| binary(&bytes, at)) {
                return Ok(Some(record.to_vec()));
            }
        }
        Ok(None)
    }

    async fn records(&self, table: &DeltaTable, places: &[Place]) -> Result<Vec<Vec<u8>>, DeltaTableError> {
        let days: Vec<Expr> = places.iter().map(|place| day(day_of(place.received_ns))).collect();
        let times: Vec<Expr> = places.iter().map(|place| lit(place.received_ns)).collect();
        let offsets: Vec<Expr> = places.iter().map(|place| lit(place.offset)).collect();
        let least = places.iter().map(|place| place.received_ns).min().unwrap_or(0);
        let most = places.iter().map(|place| place.received_ns).max().unwrap_or(0);
        // The range passes over files; the lists pick the rows.
        let filter = col("receive_day")
            .in_list(days, false)
            .and(col("received_ns").gt_eq(lit(least)))
            .and(col("received_ns").lt_eq(lit(most)))
            .and(col("received_ns").in_list(times, false))
            .and(col("offset").in_list(offsets, false));
        let wanted: HashSet<Place> = places.iter().copied().collect();
        let mut rows =
            Engine::new().scan(table, Some(filter), &["received_ns", "partition", "offset", "record"]).await?;
        let mut records = Vec::new();
        while let Some(batch) = rows.next().await? {
            let columns = Columns(&batch);
            let (times, partitions) = (columns.longs("received_ns")?, columns.integers("partition")?);
            let (offsets, bytes) = (columns.longs("offset")?, columns.binaries("record")?);
            for at in 0..batch.num_rows() {
                let place =
                    Place { received_ns: times.value(at), partition: partitions.value(at), offset: offsets.value(at) };
                if wanted.contains(&place)
                    && let Some(record) = binary(&bytes, at)
                {
                    records.push(record.to_vec());
                }
            }
        }
        Ok(records)
    }

    /// The newest cuts among the rows that match, whole or not, and whether there were more of them.
    async fn newest_cuts(
        &self,
        filter: Expr,
        below: Option<&Cut>,
    ) -> Result<(BTreeMap<Cut, Found>, bool), ArchiveError> {
        let mut cuts = BTreeMap::new();
        let mut has_more = false;
        let mut take = |header: Header| {
            if below.is_some_and(|below| header.content.cut() >= *below) {
                return;
            }
            note_part(&mut cuts, header);
            if cuts.len() > CANDIDATES_MAX {
                cuts.pop_first();
                has_more = true;
            }
        };
        self.search(filter, &mut take).await?;
        Ok((cuts, has_more))
    }

    async fn search(&self, filter: Expr, take: &mut impl FnMut(Header)) -> Result<(), ArchiveError> {
        let table = self.table().await?;
        self.header_rows(&table, filter, take).await.map_err(ArchiveError::store("search", &self.path))
    }

    async fn header_rows(
        &self,
        table: &DeltaTable,
        filter: Expr,
        take: &mut impl FnMut(Header),
    ) -> Result<(), DeltaTableError> {
        let filter = filter.and(col("host_id").is_not_null());
        let mut rows = Engine::new().scan(table, Some(filter), &HEADER_COLUMNS).await?;
        while let Some(batch) = rows.next().await? {
            headers_of(&batch, take)?;
        }
        Ok(())
    }
}

/// Adds a part to its cut. The same part twice: the first that came counts.
fn note_part(cuts: &mut BTreeMap<Cut, Found>, header: Header) {
    let Header { place, content, .. } = header;
    let part = content.part;
    let found = cuts.entry(content.cut()).or_insert_with(|| Found { header: content, places: BTreeMap::new() });
    let known = found.places.entry(part).or_insert(place);
    *known = place.min(*known);
}

/// The whole ones.
fn newest_first(cuts: BTreeMap<Cut, Found>) -> Vec<Found> {
    cuts.into_values().rev().filter(Found::is_whole).collect()
}

/// The headers of a batch; a row whose columns contradict each other is passed over.
fn headers_of(batch: &RecordBatch, take: &mut impl FnMut(Header)) -> Result<(), DeltaTableError> {
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
    (0..batch.num_rows()).filter_map(header).for_each(take);
    Ok(())
}

/// First and last nanosecond of each hour of the receive day in a file's partition values.
fn day_hours(values: &HashMap<String, Option<String>>) -> Vec<(i64, i64)> {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let midnight = || -> Option<i64> {
        let day: Date = values.get("receive_day")?.as_ref()?.parse().ok()?;
        let days = Date::constant(1970, 1, 1).until(day).ok()?.get_days();
        i64::from(days).checked_mul(24 * HOUR_NS)
    };
    let hour = |midnight: i64, hour: i64| {
        let from = midnight.saturating_add(hour * HOUR_NS);
        (from, from.saturating_add(HOUR_NS - 1))
    };
    midnight().into_iter().flat_map(|midnight| (0..24).map(move |n| hour(midnight, n))).collect()
}

fn day(days: i32) -> Expr {
    Expr::Literal(ScalarValue::Date32(Some(days)), None)
}

/// A query engine with a memory budget.
pub(super) struct Engine(SessionContext);

impl Engine {
    pub(super) fn new() -> Self {
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            .set_bool("datafusion.execution.parquet.reorder_filters", true);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(QUERY_BYTES_MAX)));
        let context = match runtime.build_arc() {
            Ok(runtime) => SessionContext::new_with_config_rt(config, runtime),
            Err(_) => SessionContext::new_with_config(config),
        };
        Self(context)
    }

    /// Rows of a table that match, with these columns.
    pub(super) async fn scan(
        &self,
        table: &DeltaTable,
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<Rows, DeltaTableError> {
        let generic =
            |error: deltalake::datafusion::error::DataFusionError| DeltaTableError::generic(error.to_string());
        let provider = table.table_provider().await.map_err(generic)?;
        table.update_datafusion_session(&self.0.state())?;
        let mut frame = self.0.read_table(provider).map_err(generic)?;
        if let Some(filter) = filter {
            frame = frame.filter(filter).map_err(generic)?;
        }
        let frame = frame.select_columns(columns).map_err(generic)?;
        Ok(Rows(frame.execute_stream().await.map_err(generic)?))
    }
}

/// Batches of an answer, one at a time.
pub(super) struct Rows(SendableRecordBatchStream);

impl Rows {
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, DeltaTableError> {
        self.0.try_next().await.map_err(|error| DeltaTableError::generic(error.to_string()))
    }
}
