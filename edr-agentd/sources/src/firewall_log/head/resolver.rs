//! Adds year and offset to the local times of a log.

use jiff::civil;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::time::{LineTime, LocalTime};

const SECOND_NS: i64 = 1_000_000_000;
/// A line may be out of order by this time without being of the second hour of two with the same local time.
const DISORDER_NS: i64 = 2 * SECOND_NS;
/// Longest time between a message and its line in the log.
const DELAY_NS: i64 = 600 * SECOND_NS;
/// The clock of a line's writer may be ahead by this time.
const AHEAD_NS: i64 = 60 * SECOND_NS;

/// Year, month, day, hour, minute.
type MinuteKey = (Option<i16>, i8, i8, i8, i8);

/// The two moments at which a local minute starts, Unix time in ns. They differ only in the hour before and after a
/// clock was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MinuteStart {
    first: i64,
    second: i64,
}

/// Resolves the times of a log's lines, in the order of the lines.
#[derive(Debug)]
pub(crate) struct Resolver {
    zone: TimeZone,
    now_ns: i64,
    now: civil::DateTime,
    /// The last resolved minute: lines are mostly in order.
    minute: Option<(MinuteKey, Option<MinuteStart>)>,
    /// The time before which no further line was written, as far as known.
    last_ns: Option<i64>,
    /// True when the last line was of the second of two hours with the same local time.
    in_second: bool,
}

impl Resolver {
    /// Returns a resolver. `now_ns` is the time of reading, `zone` the host's time zone: syslog writes local time.
    pub(crate) fn new(now_ns: i64, zone: TimeZone) -> Self {
        let mut resolver = Self {
            zone: TimeZone::UTC,
            now_ns,
            now: civil::DateTime::default(),
            minute: None,
            last_ns: None,
            in_second: false,
        };
        resolver.set_now(now_ns, zone);
        resolver
    }

    /// Continues with the same log at a later time, perhaps in another zone.
    pub(crate) fn set_now(&mut self, now_ns: i64, zone: TimeZone) {
        if self.zone != zone {
            (self.zone, self.last_ns) = (zone, None);
        }
        let now = jiff::Timestamp::from_nanosecond(now_ns.into()).unwrap_or_default();
        (self.now_ns, self.now, self.minute) = (now_ns, self.zone.to_datetime(now), None);
    }

    /// Notes that all lines up to now were read: further lines are written later.
    pub(crate) fn caught_up(&mut self) {
        self.last_ns = self.last_ns.max(Some(self.now_ns.saturating_sub(DELAY_NS)));
    }

    /// Returns Unix time in ns. A time without a year is taken as the latest possible time up to one day in the future:
    /// the clock may have been set back, and the zone may have been changed after the line was written. A local time
    /// that exists twice is the first that is not before the last line, or else the second.
    pub(crate) fn resolve(&mut self, time: LineTime) -> Option<i64> {
        let local = match time {
            LineTime::Full(ns) => {
                self.last_ns = Some(ns);
                return Some(ns);
            }
            LineTime::Local(local) => local,
        };
        let key = (local.year, local.month, local.day, local.hour, local.minute);
        let minute = match self.minute {
            Some((last, minute)) if last == key => minute,
            _ => {
                let minute = self.minute_of(&local);
                self.minute = Some((key, minute));
                minute
            }
        }?;
        let inside = i64::from(local.second) * SECOND_NS + i64::from(local.ns);
        let first = minute.first.checked_add(inside)?;
        let second = minute.second.checked_add(inside)?;
        let ns = if local.zone[0] != 0 {
            self.by_abbreviation(&local, (first, second))?
        } else if first == second {
            first
        } else {
            let possible = second <= self.now_ns.saturating_add(AHEAD_NS);
            let in_order =
                !self.in_second && self.last_ns.is_some_and(|last| first.saturating_add(DISORDER_NS) >= last);
            if possible && !in_order { second } else { first }
        };
        (self.last_ns, self.in_second) = (Some(ns), ns != first);
        Some(ns)
    }

    /// Chooses the moment at which the zone has the abbreviation of the line; `None` when the zone has another then.
    fn by_abbreviation(&self, local: &LocalTime, (first, second): (i64, i64)) -> Option<i64> {
        let wanted = local.zone.split(|&byte| byte == 0).next()?;
        [first, second].into_iter().find(|&ns| {
            let Ok(moment) = jiff::Timestamp::from_nanosecond(ns.into()) else { return false };
            self.zone.to_offset_info(moment).abbreviation().as_bytes() == wanted
        })
    }

    fn minute_of(&self, local: &LocalTime) -> Option<MinuteStart> {
        let latest = self.now.checked_add(jiff::Span::new().days(1)).unwrap_or(self.now);
        let at = |year| civil::DateTime::new(year, local.month, local.day, local.hour, local.minute, 0, 0).ok();
        let found = match local.year {
            Some(year) => at(year)?,
            // 29 February may be up to eight years back (1896, 1904).
            None => (0..=8).find_map(|back| at(latest.year() - back).filter(|found| *found <= latest))?,
        };
        let offsets = match self.zone.to_ambiguous_timestamp(found).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, offset),
            // The clock was set forward over this time.
            AmbiguousOffset::Gap { before, .. } => (before, before),
            AmbiguousOffset::Fold { before, after } => (before, after),
        };
        let ns = |offset: Offset| {
            let moment = offset.to_timestamp(found).ok()?;
            i64::try_from(moment.as_nanosecond()).ok()
        };
        Some(MinuteStart { first: ns(offsets.0)?, second: ns(offsets.1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::parse_time;
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn zone() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn time(text: &str) -> LineTime {
        parse_time(text.as_bytes()).unwrap().0
    }

    #[test]
    fn a_year_is_the_last_that_fits() {
        let resolve = |now: &str, line: &str| Resolver::new(ns(now), zone()).resolve(time(line));
        assert_eq!(resolve("2026-01-01T00:00:10Z", "Dec 31 23:59:59"), Some(ns("2025-12-31T22:59:59Z")));
        assert_eq!(resolve("2026-01-01T00:00:10Z", "Jan  1 00:00:01"), Some(ns("2025-12-31T23:00:01Z")));
        assert_eq!(resolve("2025-12-31T22:30:00Z", "Jan  1 00:00:01"), Some(ns("2025-12-31T23:00:01Z")), "a day ahead");
        assert_eq!(resolve("2025-12-30T12:00:00Z", "Jan  1 00:00:01"), Some(ns("2024-12-31T23:00:01Z")));
        assert_eq!(resolve("2026-06-01T00:00:00Z", "Feb 29 12:00:00"), Some(ns("2024-02-29T11:00:00Z")));
        assert_eq!(resolve("2026-08-01T00:00:00Z", "Jul  1 12:00:00"), Some(ns("2026-07-01T10:00:00Z")), "summer time");
        assert_eq!(resolve("2026-08-01T00:00:00Z", "Feb 30 12:00:00"), None);
        assert_eq!(resolve("2026-08-01T00:00:00Z", "2019-07-01 12:00:00"), Some(ns("2019-07-01T10:00:00Z")));
        assert_eq!(resolve("2026-08-01T00:00:00Z", "2019-02-29 12:00:00"), None);
    }

    #[test]
    fn an_hour_that_exists_twice_follows_the_order_of_the_lines() {
        let mut resolver = Resolver::new(ns("2026-11-24T00:00:00Z"), zone());
        for (line, expected) in [
            ("Oct 25 01:59:59", "2026-10-24T23:59:59Z"),
            ("Oct 25 02:20:00", "2026-10-25T00:20:00Z"),
            // Slightly out of order.
            ("Oct 25 02:19:59", "2026-10-25T00:19:59Z"),
            ("Oct 25 02:59:58", "2026-10-25T00:59:58Z"),
            ("Oct 25 02:00:01", "2026-10-25T01:00:01Z"),
            ("Oct 25 02:59:59", "2026-10-25T01:59:59Z"),
            ("Oct 25 03:00:00", "2026-10-25T02:00:00Z"),
        ] {
            assert_eq!(resolver.resolve(time(line)), Some(ns(expected)), "{line}");
        }
    }

    #[test]
    fn an_hour_that_exists_twice_is_the_later_of_the_possible_moments_in_a_log_that_is_followed() {
        let resolve = |resolver: &mut Resolver, now: &str, line: &str| {
            resolver.set_now(ns(now), zone());
            resolver.resolve(time(line))
        };
        let new = || Resolver::new(0, zone());
        // Ten minutes after the change: the first lines of a log are only known not to be of the future.
        assert_eq!(resolve(&mut new(), "2026-10-25T01:10:00Z", "Oct 25 02:10:00"), Some(ns("2026-10-25T01:10:00Z")));
        assert_eq!(resolve(&mut new(), "2026-10-25T01:10:00Z", "Oct 25 02:50:00"), Some(ns("2026-10-25T00:50:00Z")));
        assert_eq!(resolve(&mut new(), "2026-10-25T00:10:00Z", "Oct 25 02:10:00"), Some(ns("2026-10-25T00:10:00Z")));
        // All lines until five minutes ago were read, so a new line is not an hour old.
        let mut followed = new();
        assert_eq!(resolve(&mut followed, "2026-10-25T01:05:00Z", "Oct 25 01:00:00"), Some(ns("2026-10-24T23:00:00Z")));
        followed.caught_up();
        assert_eq!(resolve(&mut followed, "2026-10-25T01:10:00Z", "Oct 25 02:10:00"), Some(ns("2026-10-25T01:10:00Z")));
    }

    #[test]
    fn an_abbreviation_decides_and_a_foreign_one_leaves_the_time_open() {
        let mut resolver = Resolver::new(ns("2026-11-24T00:00:00Z"), zone());
        for (line, expected) in [
            ("Sun Oct 25 02:10:00 CEST 2026", Some("2026-10-25T00:10:00Z")),
            ("Sun Oct 25 02:10:00 CET 2026", Some("2026-10-25T01:10:00Z")),
            ("Sun Oct 25 02:10:00 EST 2026", None),
        ] {
            assert_eq!(resolver.resolve(time(line)), expected.map(ns), "{line}");
        }
    }
}
