//! Fills memory from the archive: first the saved hosts, then the records received since.
//!
//! At the end the number of rows that the archive has of each day is compared with the number of records that were
//! archived, from the table's log alone. A day with another number is read and counted again: so a deleted row becomes
//! a hole in the account of the host. A day without any row has left the archive.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::{SystemTime, UNIX_EPOCH};

use edr_archive::{ArchiveError, ArchivedRow, HostsTable, Reader, day_of};
use edr_model::accounting::CountedRecords;
use edr_model::time_text;

use super::Newest;
use crate::event::Event;

/// Span of receipt, in ns, to read from `frames` at once: an hour of 1,000 hosts is 360,000 rows.
const WINDOW_NS: i64 = 3_600_000_000_000;
const DAY_NS: i64 = 24 * WINDOW_NS;
/// Span of covered time, in ns, to read again: a collector can commit a record this long after receipt, and after
/// another collector's save. Reading a record twice changes nothing.
const MARGIN_NS: i64 = 600_000_000_000;
/// Records between two calls of `alive`.
const SIGN_RECORDS: usize = 10_000;

/// Brings memory up to the state of the archive, from the columns of the records alone. State in memory stays, unless
/// the archive has newer state. `alive` is called at every sign of progress, since this may take minutes.
///
/// # Errors
/// When the archive cannot be read.
pub async fn catch_up(
    newest: &Newest,
    reader: &Reader,
    hosts: Option<&mut HostsTable>,
    alive: &(dyn Fn() + Sync),
) -> Result<(), ArchiveError> {
    alive();
    let saved = match hosts {
        Some(hosts) => hosts.load(reader.damage()).await?,
        None => Default::default(),
    };
    let complete_until_ns = saved.complete_until_ns;
    newest.restore(saved);
    // If the clock was ahead at the save and was set right since, later records have earlier times.
    let from = complete_until_ns.map_or(i64::MIN, |until| until.min(now_ns()).saturating_sub(MARGIN_NS));
    for window in windows(&reader.received().await?, from) {
        read(newest, reader, window, alive).await?;
    }
    check_days(newest, reader, alive).await
}

/// Returns the time of the collector's clock, ns since the epoch.
fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads the rows received in a span.
async fn read(
    newest: &Newest,
    reader: &Reader,
    window: Range<i64>,
    alive: &(dyn Fn() + Sync),
) -> Result<(), ArchiveError> {
    alive();
    let mut rows: Vec<ArchivedRow> = Vec::new();
    let take = |row| {
        rows.push(row);
        if rows.len().is_multiple_of(SIGN_RECORDS) {
            alive();
        }
    };
    reader.rows(window, take).await?;
    rows.sort_unstable_by_key(|row| row.place);
    rows.iter().for_each(|row| newest.note(row));
    Ok(())
}

/// Compares the counted records of each day with the rows in the archive, and counts days with another number again.
/// `newest` must have all archived records; nothing may add records meanwhile.
///
/// # Errors
/// When the archive cannot be read.
pub async fn check_days(newest: &Newest, reader: &Reader, alive: &(dyn Fn() + Sync)) -> Result<(), ArchiveError> {
    alive();
    let counted = newest.counted_days();
    let rows = reader.rows_by_day().await?;
    let today = day_of(now_ns());
    for &day in counted.keys().filter(|day| !rows.contains_key(day)) {
        newest.forget_day(day);
        log::info!("{}: the archive no longer has this day", date(day));
    }
    for (day, rows) in rows {
        let Some(rows) = rows else { continue };
        let counted = counted.get(&day).copied().unwrap_or(CountedRecords { records: 0, is_exact: true });
        if !is_other(counted, rows, day, today) {
            continue;
        }
        if counted.records > rows {
            edr_daemon::limited!(
                log::Level::Warn,
                Event::RowsRemoved,
                EDR_SOURCE = "archive",
                "{}: {} records were archived and the archive has {rows} that can be read: the day is counted again",
                date(day),
                counted.records
            );
        } else {
            // Another collector archived records since this memory was filled.
            log::info!(
                "{}: the archive has {rows} records, {} are counted: counting again",
                date(day),
                counted.records
            );
        }
        recount(newest, day, async |again| read_day(again, reader, day, alive).await).await?;
    }
    Ok(())
}

/// Returns true when the archive has another number of rows of a day than counted. Other collectors archive more rows
/// of today meanwhile, and of later days while a clock is ahead.
fn is_other(counted: CountedRecords, rows: u64, day: i32, today: i32) -> bool {
    let may_grow = counted.records < rows && day >= today;
    counted.is_exact && counted.records != rows && !may_grow
}

/// Counts a day again. `read_day` adds the records of the day to the memory that it is given. After an error nothing is
/// changed: without all records of the day, archived frames would count as unexplained.
async fn recount<E>(newest: &Newest, day: i32, read_day: impl AsyncFnOnce(&Newest) -> Result<(), E>) -> Result<(), E> {
    let again = Newest::unlimited();
    read_day(&again).await?;
    newest.recount_day(day, &again);
    Ok(())
}

/// Reads the rows received on a day.
async fn read_day(newest: &Newest, reader: &Reader, day: i32, alive: &(dyn Fn() + Sync)) -> Result<(), ArchiveError> {
    let midnight = i64::from(day).saturating_mul(DAY_NS);
    // A frame that became complete on this day may have begun before.
    let mut at = midnight.saturating_sub(MARGIN_NS);
    let end = midnight.saturating_add(DAY_NS);
    while at < end {
        let next = at.saturating_add(WINDOW_NS).min(end);
        read(newest, reader, at..next, alive).await?;
        at = next;
    }
    Ok(())
}

/// Returns a day as `2026-03-10`.
fn date(day: i32) -> String {
    time_text(i64::from(day).saturating_mul(DAY_NS)).chars().take(10).collect()
}

/// Returns the time spans to read, for files with records of these times of receipt, sorted by the first time. Times
/// without a file are skipped, even years after a jump of the clock. A file written during a jump spans the jump; times
/// covered only by such files are read in one piece, because such a file holds a single batch.
fn windows(files: &[RangeInclusive<i64>], from: i64) -> Vec<Range<i64>> {
    let ends_later = |file: &&RangeInclusive<i64>| *file.end() >= from;
    let is_wide = |file: &RangeInclusive<i64>| file.end().saturating_sub(*file.start()) > WINDOW_NS;
    let (wide, narrow): (Vec<_>, Vec<_>) = files.iter().filter(ends_later).cloned().partition(is_wide);
    let (mut wide, mut narrow) = (VecDeque::from(wide), VecDeque::from(narrow));
    let mut windows = Vec::new();
    let mut at = from;
    loop {
        for files in [&mut wide, &mut narrow] {
            while files.front().is_some_and(|file| *file.end() < at) {
                files.pop_front();
            }
        }
        let next = |files: &VecDeque<RangeInclusive<i64>>| files.front().map(|file| at.max(*file.start()));
        let hour = |start: i64| start.saturating_add(WINDOW_NS);
        let window = match (next(&wide), next(&narrow)) {
            (None, None) => return windows,
            (Some(start), None) => start..wide.iter().map(|file| *file.end()).max().unwrap_or(start).saturating_add(1),
            (Some(start), Some(stop)) if start < stop => start..stop.max(hour(start)),
            (_, Some(start)) => start..hour(start),
        };
        at = window.end;
        windows.push(window);
        if at == i64::MAX {
            return windows;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use edr_wire::HostId;

    use super::*;
    use edr_archive::testing::{header, partition, records, row};
    use edr_archive::{Frames, RecordPosition};

    const HOUR: i64 = WINDOW_NS;

    #[tokio::test]
    async fn a_clock_that_was_ten_years_ahead_for_a_moment_costs_a_start_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let ahead_ns = 87_000 * HOUR;
        for (offset, received_ns) in [(0, HOUR), (1, ahead_ns), (2, HOUR + 1)] {
            let bytes = records(&header(1, 1 + offset as u64), b"snapshot", None, 1 << 20).remove(0);
            let rows = [row(0, offset, received_ns, &bytes)];
            frames.append(&rows, &BTreeMap::from([(partition(0), offset + 1)])).await.unwrap();
        }
        let (newest, signs) = (Newest::default(), AtomicUsize::new(0));
        let alive = || _ = signs.fetch_add(1, Ordering::Relaxed);
        catch_up(&newest, &Reader::new(dir.path()), None, &alive).await.unwrap();
        assert_eq!(newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 3);
        assert_eq!(signs.into_inner(), 4, "one at the begin, one for each of two windows and one for the comparison");
    }

    /// Deletes rows of `frames`, as someone with access to the files would.
    async fn delete(archive: &std::path::Path, predicate: &str) {
        let url = deltalake::ensure_table_uri(archive.join("frames").to_string_lossy()).unwrap();
        let table = deltalake::open_table(url).await.unwrap();
        table.delete().with_predicate(predicate).await.unwrap();
    }

    #[tokio::test]
    async fn a_deleted_row_is_a_hole_and_a_removed_day_leaves_the_account() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        for offset in 0..6 {
            let bytes = records(&header(1, 1 + offset as u64), b"snapshot", None, 1 << 20).remove(0);
            let rows = [row(0, offset, (1 + offset / 3) * DAY_NS + offset, &bytes)];
            frames.append(&rows, &BTreeMap::from([(partition(0), offset + 1)])).await.unwrap();
        }
        let rows = [row(0, 6, 2 * DAY_NS + 6, b"no frame")];
        frames.append(&rows, &BTreeMap::from([(partition(0), 7)])).await.unwrap();
        let reader = Reader::new(dir.path());
        let host = HostId([1; 16]);
        let newest = Newest::default();
        catch_up(&newest, &reader, None, &|| {}).await.unwrap();
        assert!(newest.account(host).is_complete(), "{:?}", newest.account(host));

        let mut hosts = HostsTable::open(dir.path()).await.unwrap();
        let coverage = BTreeMap::from([(partition(0), (7, 2 * DAY_NS + 100))]);
        hosts.save(newest.save(|_| true), &coverage).await.unwrap();
        let again = Newest::default();
        catch_up(&again, &reader, Some(&mut hosts), &|| {}).await.unwrap();
        assert_eq!(again.account(host), newest.account(host));
        assert_eq!(again.counted_days(), newest.counted_days());

        delete(dir.path(), "seq = 5").await;
        let after = Newest::default();
        catch_up(&after, &reader, Some(&mut hosts), &|| {}).await.unwrap();
        let account = after.account(host);
        let seqs: Vec<_> = account.losses.iter().map(|loss| (loss.kind.name(), loss.seqs)).collect();
        assert_eq!(seqs, [("unexplained", Some((5, 5)))]);
        // The collector that has run since finds the hole, too.
        check_days(&newest, &reader, &|| {}).await.unwrap();
        assert_eq!(newest.account(host), account);

        delete(dir.path(), "seq <= 3").await;
        check_days(&newest, &reader, &|| {}).await.unwrap();
        let account = newest.account(host);
        let seqs: Vec<_> = account.losses.iter().map(|loss| (loss.kind.name(), loss.seqs)).collect();
        assert_eq!((account.archived, seqs), (2, vec![("unexplained", Some((5, 5)))]));
    }

    #[tokio::test]
    async fn a_day_that_cannot_be_read_whole_keeps_its_counts() {
        let note = |newest: &Newest, seqs: &[u64]| {
            for &seq in seqs {
                let record = records(&header(1, seq), b"snapshot", None, 1 << 20).remove(0);
                let record = edr_archive::decode::decode(&record).unwrap();
                let place = RecordPosition { received_ns: DAY_NS, partition: 0, offset: seq as i64 };
                newest.offer(&partition(0), place, record);
            }
        };
        let (newest, host) = (Newest::default(), HostId([1; 16]));
        note(&newest, &[1, 2, 3, 4]);
        let before = newest.save(|_| true);
        let failed = recount(&newest, 1, async |again| {
            note(again, &[1, 2]);
            // What a save would write meanwhile.
            assert_eq!(newest.save(|_| true), before);
            Err("a file cannot be read")
        });
        assert_eq!(failed.await, Err("a file cannot be read"));
        assert_eq!(newest.save(|_| true), before);
        assert!(newest.account(host).is_complete());
        // The number that the archive no longer has is a hole once the rest is read.
        let read = recount(&newest, 1, async |again| {
            note(again, &[1, 2, 4]);
            Ok::<(), ()>(())
        });
        read.await.unwrap();
        assert_eq!(newest.account(host).brief(), "1 unexplained");
    }

    #[test]
    fn only_days_that_may_still_grow_are_excused_from_fewer_counted_records() {
        let counted = |records| CountedRecords { records, is_exact: true };
        let today = 100;
        for (counted_records, rows, day, expected) in [
            (5, 5, 99, false),
            (4, 5, 99, true),
            (6, 5, 99, true),
            (4, 5, 100, false),
            (6, 5, 100, true),
            // After the clock was ahead for a moment, the last day lies in the future, and today still grows.
            (4, 5, 4_000, false),
            (6, 5, 4_000, true),
        ] {
            assert_eq!(is_other(counted(counted_records), rows, day, today), expected, "{counted_records} on {day}");
        }
        assert!(!is_other(CountedRecords { records: 4, is_exact: false }, 5, 99, today));
    }

    #[test]
    fn windows_cover_all_files_and_skip_the_gaps() {
        let day = 24 * HOUR;
        let years = 87_000 * HOUR;
        let cases: [(&[RangeInclusive<i64>], i64, usize); 6] = [
            (&[], 0, 0),
            (&[4..=5, 5..=5], 6, 0),
            // Files within one hour; with a file of another year; with a file that spans a jump of the clock.
            (&[0..=5, 5..=10, 7..=HOUR / 2, HOUR - 1..=HOUR], 0, 2),
            (&[0..=5, 10..=20, years..=years + 9], 0, 2),
            (&[0..=5, 10..=years, years + 5..=years + 9], 0, 3),
            (&[10..=years, day..=day + 1, day + 2..=day + 3, years + 1..=years + 9], 15, 4),
        ];
        for (files, from, count) in cases {
            let windows = windows(files, from);
            assert_eq!(windows.len(), count, "{files:?}: {windows:?}");
            assert!(windows.windows(2).all(|pair| pair[0].end <= pair[1].start), "{windows:?}");
            for at in files.iter().flat_map(|file| [*file.start(), *file.end()]).filter(|at| *at >= from) {
                assert!(windows.iter().any(|window| window.contains(&at)), "{at} of {files:?}: {windows:?}");
            }
        }
    }
}
