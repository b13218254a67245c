//! The data files of `frames`, from the statistics in the table's log alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use deltalake::kernel::LogicalFileView;
use deltalake::{DeltaTable, DeltaTableError};
use edr_wire::HostId;
use jiff::civil::Date;
use serde::Deserialize;

use crate::delta::Damage;
use crate::delta::engine::{each_file, folder_of};

/// Minimum and maximum values of a file, from the table's log.
#[derive(Deserialize)]
struct FileStatistics {
    #[serde(rename = "minValues")]
    least: FileValues,
    #[serde(rename = "maxValues")]
    most: FileValues,
}

/// A file without any frame has neither a time of capture nor a host.
#[derive(Deserialize)]
struct FileValues {
    received_ns: i64,
    captured_ns: Option<i64>,
    host_id: Option<String>,
}

/// The first snapshot of a host after a moment, as far as a bounded search finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSnapshot {
    /// The snapshot was taken at this time, ns since the epoch.
    At(i64),
    /// The snapshot was not taken before this time, ns since the epoch; the search ended here.
    NotBefore(i64),
    /// The host has no snapshot after the moment.
    Absent,
}

/// A file that may hold snapshots of a host.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// No snapshot in the file was taken before this time, ns since the epoch.
    pub(super) least_ns: i64,
    /// Path of the file in the table.
    pub(super) path: String,
}

fn statistics(file: &LogicalFileView) -> Option<FileStatistics> {
    serde_json::from_str(&file.stats()?).ok()
}

/// Returns when the first and the last record of each file was received, ns since the epoch.
pub(super) async fn received(table: &DeltaTable) -> Result<BTreeSet<(i64, i64)>, DeltaTableError> {
    let mut received = BTreeSet::new();
    let take = |file: &LogicalFileView| match statistics(file) {
        Some(FileStatistics { least, most }) => _ = received.insert((least.received_ns, most.received_ns)),
        // A file without statistics still has its day of receipt: assume records in every hour.
        None => received.extend(day_hours(&file.partition_values_map())),
    };
    each_file(table, take).await?;
    Ok(received)
}

/// Returns the files that may hold snapshots of a host taken after a moment, in order of [`Candidate::least_ns`]; only
/// the first `count_max`.
pub(super) async fn candidates(
    table: &DeltaTable,
    host_id: HostId,
    after_ns: i64,
    count_max: usize,
) -> Result<BTreeSet<Candidate>, DeltaTableError> {
    let host_id = host_id.to_string();
    let mut candidates = BTreeSet::new();
    let take = |file: &LogicalFileView| {
        let mut least_ns = after_ns.saturating_add(1);
        if let Some(FileStatistics { least, most }) = statistics(file) {
            let is_before = most.captured_ns.is_none_or(|captured_ns| captured_ns <= after_ns);
            // A long maximum may be cut.
            let is_above = |most: &str| most < host_id.get(..most.len()).unwrap_or(&host_id);
            if is_before
                || least.host_id.is_some_and(|least| least > host_id)
                || most.host_id.is_some_and(|id| is_above(&id))
            {
                return;
            }
            least_ns = least.captured_ns.map_or(least_ns, |captured_ns| captured_ns.max(least_ns));
        }
        candidates.insert(Candidate { least_ns, path: file.path().into_owned() });
        if candidates.len() > count_max {
            candidates.pop_last();
        }
    };
    each_file(table, take).await?;
    Ok(candidates)
}

/// Returns the number of rows of each day of receipt, without those of damaged files; `None` when the log has no number
/// for a file. Damaged files that the table no longer has are forgotten.
pub(super) async fn rows_by_day(
    table: &DeltaTable,
    damage: &Damage,
) -> Result<BTreeMap<i32, Option<u64>>, DeltaTableError> {
    let folder = folder_of(table)?;
    let mut days: BTreeMap<i32, Option<u64>> = BTreeMap::new();
    let mut damaged = HashSet::new();
    let take = |file: &LogicalFileView| {
        let path = file.path();
        if damage.is_known(&folder, &path) {
            damaged.insert(path.into_owned());
            return;
        }
        let Some(day) = receive_day(&file.partition_values_map()) else { return };
        let deleted = file.deletion_vector_descriptor().map_or(0, |vector| vector.cardinality);
        let rows = file.num_records().and_then(|rows| u64::try_from(rows).ok());
        let rows = rows.and_then(|rows| rows.checked_sub(u64::try_from(deleted).ok()?));
        let sum = days.entry(day).or_insert(Some(0));
        *sum = sum.zip(rows).and_then(|(sum, rows)| sum.checked_add(rows));
    };
    each_file(table, take).await?;
    damage.retain(&folder, |path| damaged.contains(path));
    Ok(days)
}

/// Returns the day of receipt of a file, since 1970-01-01.
fn receive_day(values: &HashMap<String, Option<String>>) -> Option<i32> {
    let day: Date = values.get("receive_day")?.as_ref()?.parse().ok()?;
    Some(Date::constant(1970, 1, 1).until(day).ok()?.get_days())
}

/// Returns the first and last ns (since the epoch) of each hour of a file's day of receipt.
fn day_hours(values: &HashMap<String, Option<String>>) -> Vec<(i64, i64)> {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let midnight = || i64::from(receive_day(values)?).checked_mul(24 * HOUR_NS);
    let hour = |midnight: i64, hour: i64| {
        let from = midnight.saturating_add(hour * HOUR_NS);
        (from, from.saturating_add(HOUR_NS - 1))
    };
    midnight().into_iter().flat_map(|midnight| (0..24).map(move |n| hour(midnight, n))).collect()
}
