//! Fills memory from the archive: first the saved hosts, then the records received since.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::{SystemTime, UNIX_EPOCH};

use edr_archive::{ArchiveError, ArchivedRow, HostsTable, Reader};

use super::Newest;

/// Span of receipt, in ns, to read from `frames` at once: an hour of 1,000 hosts is 360,000 rows.
const WINDOW_NS: i64 = 3_600_000_000_000;
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
        Some(hosts) => hosts.load().await?,
        None => Default::default(),
    };
    newest.restore(saved.hosts);
    // If the clock was ahead at the save and was set right since, later records have earlier times.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let from = saved.complete_until_ns.map_or(i64::MIN, |until| until.min(now_ns).saturating_sub(MARGIN_NS));
    for window in windows(&reader.received().await?, from) {
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
        rows.iter().filter_map(|row| row.content.as_ref()).for_each(|(part, _)| newest.note(part));
    }
    Ok(())
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
    use edr_archive::Frames;
    use edr_archive::testing::{header, partition, records, row};

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
        assert_eq!(signs.into_inner(), 3, "one at the begin and one for each of two windows");
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
