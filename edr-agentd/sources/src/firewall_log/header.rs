//! The head of a syslog line: priority, time, host, tag, kernel timestamp.
//!
//! ```text
//! [<PRI>] Mar 11 20:35:11 host kernel: [ 3337.368408] ...
//! [<PRI>] 2026-11-24T03:42:03.313386+00:00 host kernel: ...
//! ```

use jiff::civil;
use jiff::tz::TimeZone;

/// The writer of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    Kernel,
    Psad,
    /// Another program, or none: ulogd writes no tag.
    Other,
}

/// The time in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineTime {
    /// Unix time in ns.
    Full(i64),
    /// A time without year and zone.
    Short { month: i8, day: i8, hour: i8, minute: i8, second: i8 },
}

/// The head of a line, and the rest of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineHead<'a> {
    pub(crate) time: LineTime,
    pub(crate) tag: Tag,
    /// Microseconds since boot.
    pub(crate) kernel_us: Option<u64>,
    pub(crate) rest: &'a [u8],
}

/// Length of a time without a year: `Mar 11 20:35:11`.
const SHORT_BYTES: usize = 15;
/// Longest accepted time with a year: nanoseconds and an offset.
const FULL_BYTES_MAX: usize = 40;

/// Parses the head of `line`; `None` without a head.
pub(crate) fn parse_header(line: &[u8]) -> Option<LineHead<'_>> {
    let line = strip_priority(line);
    let (time, rest) = if line.first()?.is_ascii_digit() {
        let end = memchr::memchr(b' ', &line[..line.len().min(FULL_BYTES_MAX)])?;
        (LineTime::Full(parse_full(&line[..end])?), &line[end + 1..])
    } else {
        (parse_short(line.get(..SHORT_BYTES)?)?, line.get(SHORT_BYTES..)?.strip_prefix(b" ")?)
    };
    let host_end = memchr::memchr(b' ', &rest[..rest.len().min(256)]).filter(|&end| end > 0)?;
    let (tag, rest) = strip_tag(&rest[host_end + 1..]);
    let (kernel_us, rest) = match tag {
        Tag::Kernel => strip_kernel_stamp(rest),
        _ => (None, rest),
    };
    Some(LineHead { time, tag, kernel_us, rest })
}

/// Finds the second and later heads in a line. psad's kmsgsd writes blocks instead of lines, so a line can be cut and
/// glued to the next lines. Only heads of the kernel count.
pub(crate) fn glued_headers(line: &[u8]) -> Vec<usize> {
    const TAG: &[u8] = b" kernel: ";
    let mut starts = Vec::new();
    for tag in memchr::memmem::find_iter(line, TAG) {
        // Before the tag is the host, and before the host the time, which may directly follow the cut line.
        let Some(host) = memchr::memrchr(b' ', &line[tag.saturating_sub(256)..tag]) else { continue };
        let before = &line[..tag.saturating_sub(256) + host];
        let full = memchr::memrchr(b'T', &before[before.len().saturating_sub(FULL_BYTES_MAX)..])
            .and_then(|at| (before.len().saturating_sub(FULL_BYTES_MAX) + at).checked_sub(10))
            .filter(|&start| parse_full(&before[start..]).is_some());
        let short = before.len().checked_sub(SHORT_BYTES).filter(|&start| parse_short(&before[start..]).is_some());
        if let Some(mut start) = full.or(short) {
            // A priority belongs to the following head.
            if let Some(open) = memchr::memrchr(b'<', &before[..start])
                && strip_priority(&line[open..start]).is_empty()
            {
                start = open;
            }
            if start > 0 {
                starts.push(start);
            }
        }
    }
    starts
}

fn strip_priority(line: &[u8]) -> &[u8] {
    let Some(rest) = line.strip_prefix(b"<") else { return line };
    let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits) {
        Some(b'>') if (1..=3).contains(&digits) => &rest[digits + 1..],
        _ => line,
    }
}

/// Removes the tag: `kernel: `, `psad: `, `psad[123]: `. busybox's syslogd writes `kern.info` before the tag.
fn strip_tag(rest: &[u8]) -> (Tag, &[u8]) {
    if let Some(rest) = rest.strip_prefix(b"kernel: ") {
        return (Tag::Kernel, rest);
    }
    let named = match memchr::memchr(b' ', &rest[..rest.len().min(32)]) {
        Some(end) if memchr::memchr(b'.', &rest[..end]).is_some() && !rest[..end].ends_with(b":") => &rest[end + 1..],
        _ => rest,
    };
    if let Some(rest) = named.strip_prefix(b"kernel: ") {
        return (Tag::Kernel, rest);
    }
    let Some(after) = named.strip_prefix(b"psad") else { return (Tag::Other, rest) };
    if let Some(text) = after.strip_prefix(b": ") {
        return (Tag::Psad, text);
    }
    let numbered = after.strip_prefix(b"[").and_then(|pid| {
        let digits = pid.iter().take(8).take_while(|byte| byte.is_ascii_digit()).count();
        pid[digits..].strip_prefix(b"]: ").filter(|_| digits > 0)
    });
    numbered.map_or((Tag::Other, rest), |text| (Tag::Psad, text))
}

/// Removes the kernel timestamp `[ 3337.368408] `: seconds and microseconds since boot. A prefix of the firewall may
/// start with `[` too.
pub(crate) fn strip_kernel_stamp(rest: &[u8]) -> (Option<u64>, &[u8]) {
    let stamp = || {
        let inner = rest.strip_prefix(b"[")?.trim_ascii_start();
        let dot = inner.iter().take(12).position(|&byte| byte == b'.')?;
        let end = inner.iter().take(dot + 10).position(|&byte| byte == b']')?;
        let (seconds, micros) = (digits(&inner[..dot])?, digits(inner.get(dot + 1..end)?)?);
        let micros = if end - dot - 1 == 6 { micros } else { return None };
        let after = &inner[end + 1..];
        Some((seconds.checked_mul(1_000_000)?.checked_add(micros)?, after.strip_prefix(b" ").unwrap_or(after)))
    };
    stamp().map_or((None, rest), |(micros, after)| (Some(micros), after))
}

/// Parses `2026-11-24T03:42:03.313386+00:00`, or with `Z`; the second has up to nine decimals, or none. Returns Unix
/// time in ns.
fn parse_full(text: &[u8]) -> Option<i64> {
    let date = text.get(..19)?;
    if date[4] != b'-' || date[7] != b'-' || date[10] != b'T' || date[13] != b':' || date[16] != b':' {
        return None;
    }
    let field = |from: usize, to: usize| digits(&date[from..to]).map(|number| number as i64);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year, month, day)?;
    let mut rest = &text[19..];
    let mut ns = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let scale = [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
        ns = digits(&fraction[..len])? as i64 * *scale.get(len.checked_sub(1)?)?;
        rest = &fraction[len..];
    }
    let offset_s = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), offset @ ..] => {
            let (hours, minutes) = match offset {
                [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?),
                _ => return None,
            };
            if hours > 15 || minutes > 59 {
                return None;
            }
            let offset = (hours * 3600 + minutes * 60) as i64;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    seconds.checked_mul(1_000_000_000)?.checked_add(ns)
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

/// Parses `Mar 11 20:35:11`; a short day is padded with a blank.
fn parse_short(text: &[u8]) -> Option<LineTime> {
    let text: &[u8; SHORT_BYTES] = text.try_into().ok()?;
    if text[3] != b' ' || text[6] != b' ' || text[9] != b':' || text[12] != b':' {
        return None;
    }
    let month = match &text[..3] {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let two = |tens: u8, ones: u8| digits(&[tens, ones]).map(|number| number as i8);
    let day = two(if text[4] == b' ' { b'0' } else { text[4] }, text[5])?;
    let (hour, minute, second) = (two(text[7], text[8])?, two(text[10], text[11])?, two(text[13], text[14])?);
    let valid = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    valid.then_some(LineTime::Short { month, day, hour, minute, second })
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 12 {
        return None;
    }
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Month, day, hour, minute.
type Minute = (i8, i8, i8, i8);

/// Adds year and zone to incomplete times.
#[derive(Debug)]
pub(crate) struct Resolver {
    zone: TimeZone,
    now: civil::DateTime,
    /// The last resolved minute, with the Unix time of the start in ns: lines are mostly in order.
    last: Option<(Minute, Option<i64>)>,
}

impl Resolver {
    /// Returns a resolver. `now_ns` is the time of reading, `zone` the host's time zone: syslog writes local time.
    pub(crate) fn new(now_ns: i64, zone: TimeZone) -> Self {
        let now = jiff::Timestamp::from_nanosecond(now_ns.into()).unwrap_or_default();
        let now = zone.to_datetime(now);
        Self { zone, now, last: None }
    }

    /// Returns Unix time in ns. A time without a year is taken as the latest possible time up to one day in the future:
    /// the clock may have been set back, and the zone may have been changed after the line was written.
    pub(crate) fn resolve(&mut self, time: LineTime) -> Option<i64> {
        let (month, day, hour, minute, second) = match time {
            LineTime::Full(ns) => return Some(ns),
            LineTime::Short { month, day, hour, minute, second } => (month, day, hour, minute, second),
        };
        let key = (month, day, hour, minute);
        let minute_ns = match self.last {
            Some((last, ns)) if last == key => ns,
            _ => {
                let ns = self.minute_ns(month, day, hour, minute);
                self.last = Some((key, ns));
                ns
            }
        };
        minute_ns?.checked_add(i64::from(second) * 1_000_000_000)
    }

    fn minute_ns(&self, month: i8, day: i8, hour: i8, minute: i8) -> Option<i64> {
        let latest = self.now.checked_add(jiff::Span::new().days(1)).unwrap_or(self.now);
        // 29 February may be up to eight years back (1896, 1904).
        (0..=8).find_map(|back| {
            let candidate = civil::DateTime::new(latest.year() - back, month, day, hour, minute, 0, 0).ok()?;
            let timestamp = (candidate <= latest).then(|| self.zone.to_timestamp(candidate).ok()).flatten()?;
            i64::try_from(timestamp.as_nanosecond()).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn both_forms_and_a_priority() {
        let header = parse_header(b"<6>Mar  1 20:35:11 linux kernel: [463490.251762] DROP IN=eth1 OUT= ").unwrap();
        assert_eq!(header.time, LineTime::Short { month: 3, day: 1, hour: 20, minute: 35, second: 11 });
        assert_eq!((header.tag, header.kernel_us), (Tag::Kernel, Some(463_490_251_762)));
        assert_eq!(header.rest, b"DROP IN=eth1 OUT= ");
        let header = parse_header(b"2026-11-24T03:42:03.313386+01:30 fw01 psad[12]: scan detected").unwrap();
        assert_eq!(header.time, LineTime::Full(ns("2026-11-24T03:42:03.313386+01:30")));
        assert_eq!((header.tag, header.rest), (Tag::Psad, &b"scan detected"[..]));
        let header = parse_header(b"Nov 24 04:11:13 fw01 DROP  IN=eth0 OUT= ").unwrap();
        assert_eq!((header.tag, header.rest), (Tag::Other, &b"DROP  IN=eth0 OUT= "[..]));
        let header = parse_header(b"Nov 24 04:11:13 fw01 kern.warn kernel: IN=eth0").unwrap();
        assert_eq!((header.tag, header.rest), (Tag::Kernel, &b"IN=eth0"[..]));
    }

    #[test]
    fn a_prefix_in_brackets_is_no_kernel_stamp() {
        for rest in ["[UFW BLOCK] IN=", "[1] REJ SID2003068 ESTAB IN=", "[1.5] IN=", "[", "[ 12.3", "[12.345678"] {
            assert_eq!(strip_kernel_stamp(rest.as_bytes()), (None, rest.as_bytes()));
        }
        assert_eq!(strip_kernel_stamp(b"[    0.000001] [1] REJ"), (Some(1), &b"[1] REJ"[..]));
    }

    #[test]
    fn full_times_agree_with_jiff() {
        let times = ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59.5Z", "2026-11-24T03:42:03.313386+00:00"];
        for text in times.into_iter().chain(["1999-12-31T23:59:59-11:30", "2100-03-01T00:00:00.123456789+14:00"]) {
            assert_eq!(parse_full(text.as_bytes()), Some(ns(text)), "{text}");
        }
        let wrong = ["2023-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-24T24:00:00Z", "2026-11-24T03:42:03"];
        for text in wrong.into_iter().chain(["2026-11-24T03:42:03.Z", "2026-11-24T03:42:03+1", "2026-00-01T00:00:00Z"])
        {
            assert_eq!(parse_full(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_year_is_the_last_that_fits() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let resolve = |now: &str, line: &str| {
            let time = parse_header(format!("{line} host kernel: x").as_bytes()).unwrap().time;
            Resolver::new(ns(now), zone.clone()).resolve(time)
        };
        assert_eq!(resolve("2026-01-01T00:00:10Z", "Dec 31 23:59:59"), Some(ns("2025-12-31T22:59:59Z")));
        assert_eq!(resolve("2026-01-01T00:00:10Z", "Jan  1 00:00:01"), Some(ns("2025-12-31T23:00:01Z")));
        assert_eq!(resolve("2025-12-31T22:30:00Z", "Jan  1 00:00:01"), Some(ns("2025-12-31T23:00:01Z")), "a day ahead");
        assert_eq!(resolve("2025-12-30T12:00:00Z", "Jan  1 00:00:01"), Some(ns("2024-12-31T23:00:01Z")));
        assert_eq!(resolve("2026-06-01T00:00:00Z", "Feb 29 12:00:00"), Some(ns("2024-02-29T11:00:00Z")));
        assert_eq!(resolve("2026-08-01T00:00:00Z", "Jul  1 12:00:00"), Some(ns("2026-07-01T10:00:00Z")), "summer time");
        assert_eq!(resolve("2026-08-01T00:00:00Z", "Feb 30 12:00:00"), None);
    }

    #[test]
    fn glued_heads_are_found_wherever_the_line_was_cut() {
        let head = "2026-11-24T03:57:33.497355+00:00 fw01 kernel: [ 2846.502240] ";
        let packet = "[UFW BLOCK] IN=eth0 OUT= MAC=46:12 SRC=198.51.100.7 DST=192.0.2.1 LEN=44 ";
        for head in [head, "Nov 24 03:57:33 fw01 kernel: ", "<6>Nov 24 03:57:33 fw01 kernel: "] {
            let line = format!("{head}{packet}");
            assert_eq!(glued_headers(line.as_bytes()), Vec::<usize>::new());
            for cut in head.len()..line.len() {
                let glued = format!("{}{line}", &line[..cut]);
                assert_eq!(glued_headers(glued.as_bytes()), [cut], "{glued}");
            }
        }
    }
}
