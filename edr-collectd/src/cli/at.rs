//! Parses the moments that people type after `--at`.
//!
//! Times without a zone are UTC, like all times of archive, page and commands. The note on standard error shows the
//! parsed moment.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The accepted forms, for the error message.
pub(super) const FORMS: &str = "write 2026-03-10T03:12:40Z, \"2026-03-10 03:12\", \"today 03:12\", \"yesterday \
03:12\", \
                                \"tuesday 03:12\", -5m or \"5m ago\"; times without a zone are UTC";

/// Parses `text`; returns ns since the epoch.
pub(super) fn parse(text: &str, now: Timestamp) -> Result<i64, String> {
    let moment = understood(text.trim(), now).ok_or_else(|| format!("{text:?} is no moment; {FORMS}"))?;
    i64::try_from(moment.as_nanosecond()).map_err(|_| format!("{text:?} is outside the years 1678 to 2262"))
}

fn understood(text: &str, now: Timestamp) -> Option<Timestamp> {
    if text == "now" {
        return Some(now);
    }
    if let Some(ago) = text.strip_prefix('-').or_else(|| text.strip_suffix("ago")) {
        return now.checked_sub(length(ago.trim())?).ok();
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let is_date = text.starts_with(|c: char| c.is_ascii_digit());
    let (day, time) = match text.split_once(' ').or_else(|| text.split_once('T').filter(|_| is_date)) {
        Some((day, time)) => (day, time_of_day(time.trim())?),
        None => (text, Time::midnight()),
    };
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
    instant(date, time)
}

fn instant(date: Date, time: Time) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).ok()
}

/// Parses `03:12` or `03:12:40`, optionally with a fraction.
fn time_of_day(text: &str) -> Option<Time> {
    let colons = text.bytes().filter(|&byte| byte == b':').count();
    if (1..=2).contains(&colons) { civil(text, ":.")?.parse().ok() } else { None }
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
    let seconds: i64 = match unit.trim() {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    Some(SignedDuration::from_secs(number.parse::<i64>().ok()?.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_parsed_in_all_usual_forms() {
        // 2026-03-11 is a Wednesday.
        let now: Timestamp = "2026-03-11T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("now", "2026-03-11T10:00:00Z"),
            ("2026-03-10T03:12:40Z", "2026-03-10T03:12:40Z"),
            ("2026-03-10T03:12:40+02:00", "2026-03-10T01:12:40Z"),
            ("2026-03-10 03:12", "2026-03-10T03:12:00Z"),
            ("2026-03-10 03:12:40", "2026-03-10T03:12:40Z"),
            ("2026-03-10T03:12", "2026-03-10T03:12:00Z"),
            ("2026-03-10", "2026-03-10T00:00:00Z"),
            ("today 03:12", "2026-03-11T03:12:00Z"),
            ("yesterday 03:12", "2026-03-10T03:12:00Z"),
            ("Tuesday 03:12", "2026-03-10T03:12:00Z"),
            ("wed 03:12", "2026-03-11T03:12:00Z"),
            ("wednesday 10:01", "2026-03-04T10:01:00Z"),
            ("thursday 03:12", "2026-03-05T03:12:00Z"),
            ("-5m", "2026-03-11T09:55:00Z"),
            ("90s ago", "2026-03-11T09:58:30Z"),
            ("2 hours ago", "2026-03-11T08:00:00Z"),
            ("-1w", "2026-03-04T10:00:00Z"),
        ] {
            let parsed = parse(text, now).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(Timestamp::from_nanosecond(parsed.into()).unwrap().to_string(), expected, "{text}");
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
        ] {
            let refused = parse(text, now).unwrap_err();
            assert!(refused.contains("times without a zone are UTC"), "{text}: {refused}");
        }
        assert!(parse("1600-01-01", now).unwrap_err().contains("outside the years"));
    }
}
