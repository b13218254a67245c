//! The time in the head of a line, in the forms of syslog daemons, journalctl(1), dmesg(1), date(1) and OpenWrt.
//!
//! ```text
//! Mar 11 20:35:11[.313386]            2026-11-24T03:42:03[.313386][+00:00]
//! Nov 24 2026 03:42:03                2026-11-24 03:42:03,313 [+0000]
//! Tue Nov 24 03:42:03 [UTC] 2026      Tue 2026-11-24 03:42:03 UTC
//! [Tue Nov 24 03:42:03 2026]          24/Nov/2026:03:42:03 +0000
//! 1795491723.313386
//! ```

/// The time in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineTime {
    /// Unix time in ns.
    Full(i64),
    Local(LocalTime),
}

/// A time without an offset: in the zone of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LocalTime {
    pub(crate) year: Option<i16>,
    pub(crate) month: i8,
    pub(crate) day: i8,
    pub(crate) hour: i8,
    pub(crate) minute: i8,
    /// 60 in a leap second.
    pub(crate) second: i8,
    pub(crate) ns: u32,
    /// Abbreviation of the zone (`CET`), padded with zeros; zeros without an abbreviation.
    pub(crate) zone: [u8; ZONE_BYTES_MAX],
}

/// Longest accepted abbreviation of a zone.
pub(crate) const ZONE_BYTES_MAX: usize = 5;
/// Length of a time without a year: `Mar 11 20:35:11`.
const SHORT_BYTES: usize = 15;

/// Parses the time at the start of `text`. Returns the time and the text after the following blanks.
pub(crate) fn parse_time(text: &[u8]) -> Option<(LineTime, &[u8])> {
    // The forms of nearly all lines need no search for words.
    if text.get(10) == Some(&b'T') {
        let end = memchr::memchr(b' ', &text[..text.len().min(48)]).unwrap_or(text.len().min(48));
        if let Some(time) = parse_iso(&text[..end]) {
            return Some((time, skip_blanks(&text[end..])));
        }
    } else if text.get(SHORT_BYTES) == Some(&b' ')
        && let Some(time) = parse_short(&text[..SHORT_BYTES])
    {
        let rest = skip_blanks(&text[SHORT_BYTES..]);
        if !is_year(word(rest)) {
            return Some((LineTime::Local(time), rest));
        }
    }
    parse_words(text)
}

/// Hour, minute, second, nanosecond.
type Clock = (i8, i8, i8, u32);

/// Words of a date, in any order that a word's place makes clear.
#[derive(Debug, Default)]
struct DateWords {
    words: usize,
    month: Option<i8>,
    day: Option<i8>,
    year: Option<i16>,
    /// The year stands before the time, so an abbreviation after the time can only be a zone.
    year_is_first: bool,
    clock: Option<Clock>,
    offset_s: Option<i32>,
    zone: [u8; ZONE_BYTES_MAX],
    weekday: bool,
}

fn parse_words(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let bracketed = text.first() == Some(&b'[');
    let mut rest = if bracketed { &text[1..] } else { text };
    let (mut date, mut is_closed) = (DateWords::default(), !bracketed);
    if !rest.first()?.is_ascii_alphanumeric() {
        return None;
    }
    if let Some(time) = parse_unix(word(rest)) {
        return Some((time, skip_blanks(&rest[word(rest).len()..])));
    }
    loop {
        let next = word(rest);
        let after = &rest[next.len()..];
        let closed = bracketed && next.ends_with(b"]");
        let bare = next.strip_suffix(b"]").filter(|_| closed).unwrap_or(next);
        let bare = bare.strip_suffix(b",").unwrap_or(bare);
        if bare.is_empty() || !date.take(bare, word(skip_blanks(after))) {
            break;
        }
        rest = skip_blanks(after);
        if closed {
            is_closed = true;
            break;
        }
    }
    Some((date.finish().filter(|_| is_closed)?, rest))
}

impl DateWords {
    /// Takes a word of the date; false for a word that belongs to no date, or not there.
    fn take(&mut self, word: &[u8], next: &[u8]) -> bool {
        let is_first = self.words == 0;
        self.words += 1;
        if let Some((hour, minute, second, ns)) = self.clock {
            return match word {
                b"AM" | b"am" if (1..=12).contains(&hour) => {
                    self.clock = Some((hour % 12, minute, second, ns));
                    true
                }
                b"PM" | b"pm" if (1..=12).contains(&hour) => {
                    self.clock = Some((hour % 12 + 12, minute, second, ns));
                    true
                }
                _ if self.year.is_none() && is_year(word) => {
                    self.year = number(word);
                    true
                }
                _ if self.offset_s.is_none() && parse_offset(word).is_some() => {
                    self.offset_s = parse_offset(word);
                    true
                }
                // A host may have a name of capitals, so an abbreviation counts only where date(1) and journalctl(1)
                // write one.
                _ if (2..=ZONE_BYTES_MAX).contains(&word.len()) && word.iter().all(u8::is_ascii_uppercase) => {
                    let is_zone = self.zone[0] == 0
                        && self.offset_s.is_none()
                        && ((self.year.is_none() && is_year(next)) || (self.weekday && self.year_is_first));
                    if is_zone {
                        self.zone[..word.len()].copy_from_slice(word);
                    }
                    is_zone
                }
                _ => false,
            };
        }
        if word.contains(&b':') && self.month.is_some() && self.day.is_some() {
            return self.take_clock(word);
        }
        if let (None, Some(month)) = (self.month, month_of(word)) {
            self.month = Some(month);
            return true;
        }
        if (is_first || self.month.is_some()) && self.year.is_none() && is_year(word) {
            (self.year, self.year_is_first) = (number(word), true);
            return true;
        }
        if word.len() <= 2 && self.day.is_none() {
            self.day = number(word).filter(|day| (1..=31).contains(day));
            return self.day.is_some();
        }
        if self.month.is_none() && self.day.is_none() && self.year.is_none() {
            if !self.weekday && is_weekday(word) {
                self.weekday = true;
                return true;
            }
            return self.take_date(word);
        }
        false
    }

    /// `2026-11-24`, `2026/11/24`, `24/Nov/2026`, `24-Nov-2026`; the time may follow after `T`, `_` or `:`.
    fn take_date(&mut self, word: &[u8]) -> bool {
        let Some(at) = word.iter().position(|byte| matches!(byte, b'-' | b'/')) else { return false };
        let mut parts = word.splitn(3, |&byte| byte == word[at]);
        let (Some(first), Some(second), Some(last)) = (parts.next(), parts.next(), parts.next()) else { return false };
        let (year, month, day, rest) = if is_year(first) {
            let Some((day, rest)) = last.split_at_checked(2) else { return false };
            (number(first), number(second), number(day), rest)
        } else {
            let Some((year, rest)) = last.split_at_checked(4) else { return false };
            (number(year).filter(|_| is_year(year)), month_of(second), number(first), rest)
        };
        (self.year, self.month, self.day, self.year_is_first) = (year, month, day, true);
        let is_date = year.is_some()
            && month.is_some_and(|month| (1..=12).contains(&month))
            && day.is_some_and(|day| (1..=31).contains(&day));
        is_date
            && match rest {
                [] => true,
                [b'T' | b'_' | b':', clock @ ..] => self.take_clock(clock),
                _ => false,
            }
    }

    /// `03:42:03`, with a fraction and an offset behind.
    fn take_clock(&mut self, word: &[u8]) -> bool {
        let Some((clock, rest)) = parse_clock(word) else { return false };
        let offset_s = parse_offset(rest);
        if !rest.is_empty() && offset_s.is_none() {
            return false;
        }
        (self.clock, self.offset_s) = (Some(clock), offset_s);
        true
    }

    fn finish(self) -> Option<LineTime> {
        let (hour, minute, second, ns) = self.clock?;
        let (month, day) = (self.month?, self.day?);
        let local = LocalTime { year: self.year, month, day, hour, minute, second, ns, zone: self.zone };
        match (self.offset_s, self.year) {
            (Some(offset_s), Some(_)) => at_offset(local, offset_s),
            // A year is needed with an offset: without one the host's zone decides.
            _ => Some(LineTime::Local(local)),
        }
    }
}

/// Parses `2026-11-24T03:42:03.313386+00:00`: the second has any number of decimals, or none; without an offset the
/// time is local.
fn parse_iso(word: &[u8]) -> Option<LineTime> {
    let (date, rest) = word.split_at_checked(11)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..10])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let ((hour, minute, second, ns), rest) = parse_clock(rest)?;
    let local = LocalTime { year: Some(year), month, day, hour, minute, second, ns, zone: [0; ZONE_BYTES_MAX] };
    if rest.is_empty() {
        return Some(LineTime::Local(local));
    }
    at_offset(local, parse_offset(rest)?)
}

/// Parses `Mar 11 20:35:11`; a short day is padded with a blank.
fn parse_short(text: &[u8]) -> Option<LocalTime> {
    let text: &[u8; SHORT_BYTES] = text.try_into().ok()?;
    if text[3] != b' ' || text[6] != b' ' {
        return None;
    }
    let day: i8 = number(if text[4] == b' ' { &text[5..6] } else { &text[4..6] })?;
    let ((hour, minute, second, ns), rest) = parse_clock(&text[7..])?;
    let month = month_of(&text[..3])?;
    let valid = (1..=31).contains(&day) && rest.is_empty();
    valid.then_some(LocalTime { month, day, hour, minute, second, ns, ..LocalTime::default() })
}

/// Parses `1795491723.313386`, the time of `journalctl -o short-unix`.
fn parse_unix(word: &[u8]) -> Option<LineTime> {
    let (seconds, fraction) = word.split_at_checked(10)?;
    let ns = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => fraction_ns(digits)?,
        _ => return None,
    };
    number::<i64>(seconds)?.checked_mul(1_000_000_000)?.checked_add(i64::from(ns)).map(LineTime::Full)
}

/// Parses hour, minute, second and nanosecond; returns the rest of the word, too.
#[inline]
fn parse_clock(word: &[u8]) -> Option<(Clock, &[u8])> {
    let (clock, mut rest) = word.split_first_chunk::<8>()?;
    if clock[2] != b':' || clock[5] != b':' {
        return None;
    }
    let (hour, minute, second): (i8, i8, i8) = (number(&clock[..2])?, number(&clock[3..5])?, number(&clock[6..])?);
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut ns = 0;
    if let [b'.' | b',', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        ns = fraction_ns(&fraction[..digits])?;
        rest = &fraction[digits..];
    }
    Some(((hour, minute, second, ns), rest))
}

/// The nanoseconds in decimals of a second. Digits beyond the ninth are left out.
fn fraction_ns(digits: &[u8]) -> Option<u32> {
    let scale = [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let kept = digits.len().min(scale.len());
    Some(number::<u32>(&digits[..kept])? * scale.get(kept.checked_sub(1)?)?)
}

/// Parses `Z`, `UTC`, `+0100`, `-05:30`, `+01`; seconds east of Greenwich.
fn parse_offset(word: &[u8]) -> Option<i32> {
    if matches!(word, b"Z" | b"UTC" | b"GMT") {
        return Some(0);
    }
    let (hours, minutes): (i32, i32) = match word.get(1..)? {
        [h1, h2] => (number(&[*h1, *h2])?, 0),
        [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => (number(&[*h1, *h2])?, number(&[*m1, *m2])?),
        _ => return None,
    };
    let offset = (hours <= 15 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
    match word[0] {
        b'+' => Some(offset),
        b'-' => Some(-offset),
        _ => None,
    }
}

fn at_offset(local: LocalTime, offset_s: i32) -> Option<LineTime> {
    let days = days_from_civil(i64::from(local.year?), i64::from(local.month), i64::from(local.day))?;
    let seconds = i64::from(local.hour) * 3600 + i64::from(local.minute) * 60 + i64::from(local.second);
    let seconds = days * 86_400 + seconds - i64::from(offset_s);
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(local.ns)).map(LineTime::Full)
}

/// Days from 1970-01-01, proleptic Gregorian; `None` for an invalid date.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_of_month = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month.checked_sub(1)?).ok()?;
    if day < 1 || day > *days_of_month.get(index)? {
        return None;
    }
    let before = days_of_month[..index].iter().sum::<i64>();
    let years = year - 1;
    let since_year_one = years * 365 + years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    Some(since_year_one + before + day - 1 - 719_162)
}

fn month_of(word: &[u8]) -> Option<i8> {
    let months: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let index = months.iter().position(|month| word == *month)?;
    i8::try_from(index + 1).ok()
}

fn is_weekday(word: &[u8]) -> bool {
    matches!(word, b"Mon" | b"Tue" | b"Wed" | b"Thu" | b"Fri" | b"Sat" | b"Sun")
}

fn is_year(word: &[u8]) -> bool {
    matches!(word, [b'1', b'9', _, _] | [b'2', b'0' | b'1', _, _]) && word.iter().all(u8::is_ascii_digit)
}

/// The bytes before the first blank.
pub(super) fn word(text: &[u8]) -> &[u8] {
    let end = text.iter().take(64).position(|&byte| byte == b' ' || byte == b'\t');
    &text[..end.unwrap_or_else(|| memchr::memchr(b' ', text).unwrap_or(text.len()))]
}

pub(super) fn skip_blanks(text: &[u8]) -> &[u8] {
    match text {
        [b' ', next, ..] if !matches!(next, b' ' | b'\t') => &text[1..],
        _ => text.trim_ascii_start(),
    }
}

/// Parses one to twelve digits.
#[inline]
pub(super) fn number<T: TryFrom<u64>>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || digits.len() > 12 {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))?;
    T::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn full_times_agree_with_jiff() {
        let times = ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59.5Z", "2026-11-24T03:42:03.313386+00:00"];
        for text in times.into_iter().chain(["1999-12-31T23:59:59-11:30", "2100-03-01T00:00:00.123456789+14:00"]) {
            assert_eq!(parse_time(text.as_bytes()), Some((LineTime::Full(ns(text)), &b""[..])), "{text}");
        }
        for text in [
            "2023-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T03:42:03.Z",
            "2026-11-24T03:42:03+1",
            "2026-00-01T00:00:00Z",
            "2026-11-24T03:42:03Zx",
            "2026-11-24",
            "Nov 24 03:42",
            "Nov 32 03:42:03",
            "24 03:42:03",
            "Nov 03:42:03",
            "03:42:03",
            "1 Nov 24 03:42:03",
            "",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_form_of_one_moment() {
        let full = LineTime::Full(ns("2026-11-24T03:42:03Z"));
        for text in [
            "2026-11-24T03:42:03Z",
            "2026-11-24T04:42:03+0100",
            "2026-11-24T04:42:03+01",
            "2026-11-24 03:42:03 UTC",
            "2026-11-24 04:42:03+01:00",
            "2026-11-24 04:42:03 +0100",
            "2026/11/24 03:42:03 GMT",
            "2026-11-24_03:42:03Z",
            "Tue Nov 24 03:42:03 UTC 2026",
            "Tue Nov 24 03:42:03 AM UTC 2026",
            "Tue 24 Nov 2026 03:42:03 AM UTC",
            "Tue, 24 Nov 2026 04:42:03 +0100",
            "Tue 2026-11-24 03:42:03 UTC",
            "24/Nov/2026:04:42:03 +0100",
            "1795491723",
        ] {
            for end in ["", " fw kernel: x"] {
                let line = format!("{text}{end}");
                assert_eq!(parse_time(line.as_bytes()), Some((full, end.trim_start().as_bytes())), "{line}");
            }
        }
        let local = |year, ns, zone: &[u8]| {
            let mut local =
                LocalTime { year, month: 11, day: 4, hour: 15, minute: 42, second: 3, ns, ..Default::default() };
            local.zone[..zone.len()].copy_from_slice(zone);
            LineTime::Local(local)
        };
        for (text, expected) in [
            ("Nov  4 15:42:03", local(None, 0, b"")),
            ("Nov 4 15:42:03", local(None, 0, b"")),
            ("Nov 04 15:42:03.5", local(None, 500_000_000, b"")),
            ("Wed Nov  4 15:42:03", local(None, 0, b"")),
            ("Nov  4 2026 15:42:03", local(Some(2026), 0, b"")),
            ("Nov  4 15:42:03 2026", local(Some(2026), 0, b"")),
            ("2026 Nov  4 15:42:03", local(Some(2026), 0, b"")),
            ("Wed Nov  4 15:42:03 2026", local(Some(2026), 0, b"")),
            ("[Wed Nov  4 15:42:03 2026]", local(Some(2026), 0, b"")),
            ("Wed Nov  4 03:42:03 PM CET 2026", local(Some(2026), 0, b"CET")),
            ("Wed 2026-11-04 15:42:03 CEST", local(Some(2026), 0, b"CEST")),
            ("2026-11-04T15:42:03", local(Some(2026), 0, b"")),
            ("2026-11-04 15:42:03,313", local(Some(2026), 313_000_000, b"")),
            ("2026-11-04T15:42:03.1234567891", local(Some(2026), 123_456_789, b"")),
        ] {
            for end in ["", " fw kernel: x", " FW kernel: x", " 192.0.2.1 kernel: x"] {
                // A name of capitals after a weekday and a year is taken for a zone, as journalctl(1) writes there.
                if end.starts_with(" FW") && text.starts_with("Wed 2026") {
                    continue;
                }
                let line = format!("{text}{end}");
                assert_eq!(parse_time(line.as_bytes()), Some((expected, end.trim_start().as_bytes())), "{line}");
            }
        }
    }
}
