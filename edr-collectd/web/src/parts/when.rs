//! Formats times for the page: always UTC, with the zone in the text or in the heading.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

const SECOND_NS: i64 = 1_000_000_000;

/// Returns the collector's clock, ns since the epoch.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn timestamp(ns: i64) -> Timestamp {
    // Every i64 of nanoseconds (years 1677 to 2262) is in jiff's range.
    Timestamp::from_nanosecond(ns.into()).unwrap_or_default()
}

/// Formats `2026-11-24T03:12:40.123456789Z`, with as few digits as possible.
pub(crate) fn iso(ns: i64) -> String {
    timestamp(ns).to_string()
}

/// Formats `2026-11-24 03:12:40`, for a column with UTC in the heading.
pub(crate) fn date_and_clock(ns: i64) -> String {
    timestamp(ns).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Formats `2026-11-24 03:12:40 UTC`.
pub(crate) fn stamp(ns: i64) -> String {
    timestamp(ns).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Formats `03:12:40 UTC` on the day of `now_ns`, and with the date on any other day.
pub(crate) fn clock(ns: i64, now_ns: i64) -> String {
    let day = |ns: i64| ns.div_euclid(86_400 * SECOND_NS);
    if day(ns) == day(now_ns) { timestamp(ns).strftime("%H:%M:%S UTC").to_string() } else { stamp(ns) }
}

/// Formats a length of time, ns, in one or two units.
pub(crate) fn span(ns: i64) -> String {
    let seconds = ns.unsigned_abs() / SECOND_NS as u64;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} days {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Returns RFC 3339 for the machine and a clock for the reader.
pub(crate) fn iso_and_clock(ns: i64, now_ns: i64) -> (String, String) {
    (iso(ns), clock(ns, now_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_day_is_named() {
        let now = 1_795_478_402 * SECOND_NS; // 2026-11-24 00:00:02 UTC
        assert_eq!(clock(now, now), "00:00:02 UTC");
        assert_eq!(clock(now - 3 * SECOND_NS, now), "2026-11-23 23:59:59 UTC");
        assert_eq!(clock(i64::MIN, i64::MAX).len(), "1677-09-21 00:12:43 UTC".len());
    }

    #[test]
    fn a_span_has_the_units_that_matter() {
        for (seconds, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_260, "2 h 1 min"), (200_000, "2 days 7 h"), (-4, "4 s")]
        {
            assert_eq!(span(seconds * SECOND_NS), text);
        }
    }
}
