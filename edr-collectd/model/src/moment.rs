//! Parses the moments that people type: `--at` of a command, *At (UTC)* of a page, times in a filter.
//!
//! Times without a zone are UTC, like all times of archive, page and commands.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The accepted forms, for error messages.
pub const FORMS: &str = "2026-03-10T03:12:40Z, \"2026-03-10 03:12\", \"today 03:12\", \"yesterday 03:12\", \
                         \"tuesday 03:12\", -5m or \"5m ago\"; times without a zone are UTC";

/// A moment as precise as written: `03:12` is a minute, a date is a day, `5m ago` a nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Start, ns since the epoch.
    pub from_ns: i64,
    /// Last nanosecond, ns since the epoch.
    pub last_ns: i64,
}

/// Parses a moment; `now_ns` is the moment to which relative forms refer.
///
/// # Errors
/// A sentence with the accepted forms, or with the years that can be represented.
pub fn parse(text: &str, now_ns: i64) -> Result<Moment, String> {
    let now = Timestamp::from_nanosecond(now_ns.into()).unwrap_or_default();
    let text = text.trim();
    let (from, precision_ns) =
        understood(text, now).ok_or_else(|| format!("{text:?} is no time that can be understood; write {FORMS}"))?;
    let from_ns = i64::try_from(from.as_nanosecond());
    let from_ns = from_ns.map_err(|_| format!("{text:?} is outside the years 1678 to 2262"))?;
    Ok(Moment { from_ns, last_ns: from_ns.saturating_add(precision_ns - 1) })
}

const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// Returns the start of the moment and the length in ns.
fn understood(text: &str, now: Timestamp) -> Option<(Timestamp, i64)> {
    if text.eq_ignore_ascii_case("now") {
        return Some((now, 1));
    }
    if let Some(ago) = text.strip_prefix('-').or_else(|| text.strip_suffix("ago")) {
        return Some((now.checked_sub(length(ago.trim())?).ok()?, 1));
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        let minutes_only = text.bytes().filter(|&byte| byte == b':').count() == 1;
        return Some((timestamp, if minutes_only { 60 * SECOND_NS } else { second_or_fraction(text) }));
    }
    let is_date = text.starts_with(|c: char| c.is_ascii_digit());
    let text = if is_date { text.strip_suffix("UTC").unwrap_or(text).trim_end() } else { text };
    let (day, time) = match text.split_once(' ').or_else(|| text.split_once(['T', 't']).filter(|_| is_date)) {
        Some((day, time)) => (day, Some(time_of_day(time.trim())?)),
        None => (text, None),
    };
    let (time, precision_ns) = time.unwrap_or((Time::midnight(), DAY_NS));
    let today = now.to_zoned_datetime(TimeZone::UTC).date();
    let date = match day.to_ascii_lowercase().as_str() {
        "today" => today,
        "yesterday" => today.yesterday().ok()?,
        name => match weekday(name) {
            // The most recent day with this name; today counts only after the time of day has passed.
            Some(weekday) => {
                let today_is_it = today.weekday() == weekday && instant(today, time)? <= now;
                if today_is_it { today } else { today.nth_weekday(-1, weekday).ok()? }
            }
            None => civil(name, "-")?.parse::<Date>().ok()?,
        },
    };
    Some((instant(date, time)?, precision_ns))
}

fn instant(date: Date, time: Time) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).ok()
}

/// Returns the precision of a text with seconds.
fn second_or_fraction(text: &str) -> i64 {
    let digits = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    SECOND_NS / 10_i64.pow(u32::try_from(digits).unwrap_or(9).min(9))
}

/// Parses `03:12` or `03:12:40`, optionally with a fraction; returns the time and the precision in ns.
fn time_of_day(text: &str) -> Option<(Time, i64)> {
    let precision_ns = match text.bytes().filter(|&byte| byte == b':').count() {
        1 => 60 * SECOND_NS,
        2 => second_or_fraction(text),
        _ => return None,
    };
    Some((civil(text, ":.")?.parse().ok()?, precision_ns))
}

/// Returns `text` if made of digits and `marks` alone. jiff accepts and ignores a zone or an offset after a civil date
/// or time; an error is better than a moment hours away.
fn civil<'a>(text: &'a str, marks: &str) -> Option<&'a str> {
    text.chars().all(|c| c.is_ascii_digit() || marks.contains(c)).then_some(text)
}

fn weekday(name: &str) -> Option<Weekday> {
    let names = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let fits = |known: &str| name == known || (name.len() == 3 && known.starts_with(name));
    names.into_iter().find(|(known, _)| fits(known)).map(|(_, weekday)| weekday)
}

/// Parses a length of time: `90s`, `5m`, `2 hours`, `1d`, `1w`.
fn length(text: &str) -> Option<SignedDuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some(SignedDuration::from_secs(number.parse::<i64>().ok()?.checked_mul(unit_seconds(unit.trim())?)?))
}

/// Returns the seconds of a unit of time.
pub(crate) fn unit_seconds(unit: &str) -> Option<i64> {
    Some(match unit {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_parsed_in_all_usual_forms() {
        // 2026-03-11 is a Wednesday.
        let now: Timestamp = "2026-03-11T10:00:00Z".parse().unwrap();
        let now_ns = i64::try_from(now.as_nanosecond()).unwrap();
        let (day, minute) = (DAY_NS, 60 * SECOND_NS);
        for (text, expected, length_ns) in [
            ("now", "2026-03-11T10:00:00Z", 1),
            ("2026-03-10T03:12:40Z", "2026-03-10T03:12:40Z", SECOND_NS),
            ("2026-03-10T03:12:40+02:00", "2026-03-10T01:12:40Z", SECOND_NS),
            ("2026-03-10T03:12:40.25Z", "2026-03-10T03:12:40.25Z", SECOND_NS / 100),
            ("2026-03-10T03:12:40.123456789Z", "2026-03-10T03:12:40.123456789Z", 1),
            ("2026-03-10 03:12", "2026-03-10T03:12:00Z", minute),
            ("2026-03-10 03:12 UTC", "2026-03-10T03:12:00Z", minute),
            ("2026-03-10 03:12:40", "2026-03-10T03:12:40Z", SECOND_NS),
            ("2026-03-10 03:12:40 UTC", "2026-03-10T03:12:40Z", SECOND_NS),
            ("2026-03-10T03:12", "2026-03-10T03:12:00Z", minute),
            ("2026-03-10t03:12:40", "2026-03-10T03:12:40Z", SECOND_NS),
            ("2026-03-10", "2026-03-10T00:00:00Z", day),
            ("today", "2026-03-11T00:00:00Z", day),
            ("today 03:12", "2026-03-11T03:12:00Z", minute),
            ("yesterday 03:12", "2026-03-10T03:12:00Z", minute),
            ("Tuesday 03:12", "2026-03-10T03:12:00Z", minute),
            ("wed 03:12", "2026-03-11T03:12:00Z", minute),
            ("wednesday 10:01", "2026-03-04T10:01:00Z", minute),
            ("thursday 03:12", "2026-03-05T03:12:00Z", minute),
            ("-5m", "2026-03-11T09:55:00Z", 1),
            ("90s ago", "2026-03-11T09:58:30Z", 1),
            ("2 hours ago", "2026-03-11T08:00:00Z", 1),
            ("-1w", "2026-03-04T10:00:00Z", 1),
        ] {
            let parsed = parse(text, now_ns).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(Timestamp::from_nanosecond(parsed.from_ns.into()).unwrap().to_string(), expected, "{text}");
            assert_eq!(parsed.last_ns - parsed.from_ns + 1, length_ns, "{text}");
        }
        for text in [
            "",
            "3",
            "03",
            "march",
            "2026-13-01",
            "tuesday 25:00",
            "-5",
            "-m",
            "5m",
            "ago",
            "2026-03-10 0312",
            "tuesday 03:12+02:00",
            "2026-03-10 03:12[Europe/Vienna]",
            "2026-03-10[Europe/Vienna]",
            "today 03:12Z",
            "9999999-01-01T00:00:00Z",
        ] {
            let refused = parse(text, now_ns).unwrap_err();
            assert!(refused.contains("times without a zone are UTC"), "{text}: {refused}");
        }
        assert!(parse("1600-01-01", now_ns).unwrap_err().contains("outside the years"));
        assert!(parse("9000-01-01T00:00:00Z", now_ns).unwrap_err().contains("outside the years"));
    }
}
