//! A value of a table: the order, and the forms for terminal, page, JSON and CSV.

use std::cmp::Ordering;
use std::fmt;

use edr_wire::{Bytes, escaped, visible};
use serde::Serialize;

/// Bytes of a value that a join repeats in several rows; the kernel's longest `comm` is 64.
pub const JOINED_BYTES_MAX: usize = 256;

/// Word on a page for danger level 0.
pub const NO_DANGER: &str = "none";

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Empty,
    /// Text of the collector.
    Text(String),
    /// Bytes of the host.
    Bytes(Bytes),
    /// Several byte strings with significant boundaries: the arguments of a command line.
    List(Vec<Bytes>),
    /// A count or an id.
    Number(i128),
    /// Several ids.
    Numbers(Vec<u64>),
    /// A number with two decimals, in hundredths.
    Hundredths(i64),
    /// A size in bytes.
    Size(u64),
    /// A time, ns since the epoch.
    Time(i64),
    /// A length of time, ns.
    Duration(u64),
    /// Yes or no.
    Flag(bool),
}

impl Cell {
    /// Makes a cell from bytes of the host; empty for no bytes.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.is_empty() { Self::Empty } else { Self::Bytes(Bytes::from(bytes)) }
    }

    /// Makes a number.
    pub fn number(number: impl Into<i128>) -> Self {
        Self::Number(number.into())
    }

    /// Makes a number, or an empty cell.
    pub fn optional(number: Option<impl Into<i128>>) -> Self {
        number.map_or(Self::Empty, |number| Self::Number(number.into()))
    }

    /// Makes a number; an empty cell for 0, where 0 stands for no value.
    pub fn nonzero(number: impl Into<i128>) -> Self {
        match number.into() {
            0 => Self::Empty,
            number => Self::Number(number),
        }
    }

    /// Makes a count.
    pub fn count(count: usize) -> Self {
        Self::Number(i128::try_from(count).unwrap_or(i128::MAX))
    }

    /// Makes several numbers; an empty cell for none.
    pub fn numbers(numbers: Vec<u64>) -> Self {
        if numbers.is_empty() { Self::Empty } else { Self::Numbers(numbers) }
    }

    /// Makes several byte strings; an empty cell for none.
    pub fn list(list: Vec<Bytes>) -> Self {
        if list.is_empty() { Self::Empty } else { Self::List(list) }
    }

    /// Makes a time from ns since the epoch; an empty cell for 0, where 0 stands for an unknown time.
    pub fn nonzero_time(ns: i64) -> Self {
        if ns == 0 { Self::Empty } else { Self::Time(ns) }
    }

    /// Makes a cell with the wire's name of a value of a closed list (`listen`, `regular`, `rw`).
    pub fn wire_name<T: Serialize>(value: &T) -> Self {
        match serde_json::to_value(value) {
            Ok(serde_json::Value::String(name)) => Self::Text(name),
            _ => Self::Empty,
        }
    }

    /// Makes a percentage; empty without a whole.
    pub fn percent(part: u64, whole: u64) -> Self {
        match (u128::from(part) * 10_000).checked_div(whole.into()) {
            Some(hundredths) => Self::Hundredths(i64::try_from(hundredths).unwrap_or(i64::MAX)),
            None => Self::Empty,
        }
    }

    /// Makes a time from Unix seconds; empty for 0, which psad writes for an unknown time.
    pub fn seconds(seconds: u64) -> Self {
        match i64::try_from(seconds).ok().and_then(|s| s.checked_mul(1_000_000_000)) {
            None | Some(0) => Self::Empty,
            Some(ns) => Self::Time(ns),
        }
    }

    /// Returns the value as a single line, without any character that a terminal or a page would act on. Times are UTC.
    pub fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => visible_text(text),
            Self::Bytes(bytes) => visible(&bytes.0),
            Self::List(list) => {
                let words: Vec<String> = list.iter().map(|bytes| word(&bytes.0)).collect();
                words.join(" ")
            }
            Self::Number(number) => number.to_string(),
            Self::Numbers(numbers) => {
                let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
                words.join(" ")
            }
            Self::Hundredths(number) => {
                let sign = if *number < 0 { "-" } else { "" };
                format!("{sign}{}.{:02}", number.unsigned_abs() / 100, number.unsigned_abs() % 100)
            }
            Self::Size(bytes) => bytes.to_string(),
            Self::Time(ns) => time_text(*ns),
            Self::Duration(ns) => {
                let seconds = ns / 1_000_000_000;
                if seconds >= 3600 {
                    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
                } else {
                    format!("{}:{:02}", seconds / 60, seconds % 60)
                }
            }
            Self::Flag(true) => "yes".into(),
            Self::Flag(false) => String::new(),
        }
    }

    /// Like [`Cell::text`], but for at most `bytes_max` bytes of the host, since a byte can become many bytes in a
    /// page. A cut text ends with the full length.
    pub fn text_within(&self, bytes_max: usize) -> String {
        let len = match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.0.len(),
            Self::List(list) => list.iter().map(|bytes| bytes.0.len() + 1).sum(),
            Self::Numbers(numbers) => 8 * numbers.len(),
            _ => 0,
        };
        if len <= bytes_max {
            return self.text();
        }
        let mut room = bytes_max;
        let mut take = |len: usize| {
            let taken = room.min(len);
            room -= taken;
            taken
        };
        let cut = match self {
            Self::Text(text) => Self::Bytes(Bytes::from(&text.as_bytes()[..take(text.len())])),
            Self::Bytes(bytes) => Self::Bytes(Bytes::from(&bytes.0[..take(bytes.0.len())])),
            Self::List(list) => {
                let mut words = Vec::new();
                for bytes in list {
                    let taken = take(bytes.0.len() + 1);
                    if taken == 0 {
                        break;
                    }
                    words.push(Bytes::from(&bytes.0[..taken.min(bytes.0.len())]));
                }
                Self::List(words)
            }
            Self::Numbers(numbers) => Self::Numbers(numbers[..bytes_max / 8].to_vec()),
            other => other.clone(),
        };
        format!("{} … ({len} bytes in all; JSON and CSV have them)", cut.text())
    }

    /// Returns the exact value for JSON: [`escaped`] text for bytes, RFC 3339 for times, seconds for durations.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Empty => Value::Null,
            Self::Text(text) => Value::from(text.as_str()),
            Self::Bytes(bytes) => Value::from(escaped(&bytes.0)),
            Self::List(list) => list.iter().map(|bytes| escaped(&bytes.0)).collect(),
            Self::Number(number) => serde_json::Number::from_i128(*number).map_or(Value::Null, Value::Number),
            Self::Numbers(numbers) => numbers.iter().copied().collect(),
            Self::Hundredths(number) => Value::from(*number as f64 / 100.0),
            Self::Size(bytes) => Value::from(*bytes),
            Self::Time(ns) => jiff::Timestamp::from_nanosecond((*ns).into())
                .map_or_else(|_| Value::from(*ns), |time| Value::from(time.to_string())),
            Self::Duration(ns) => Value::from(*ns as f64 / 1e9),
            Self::Flag(flag) => Value::from(*flag),
        }
    }

    /// Returns the value for a spreadsheet. Text that a spreadsheet would run as a formula gets a leading `'`, and no
    /// character is left that a terminal would act on.
    pub fn csv(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => no_formula(text.as_bytes()),
            Self::Bytes(bytes) => no_formula(&bytes.0),
            // Text with a leading bracket is no formula.
            Self::List(_) => visible_text(&self.json().to_string()),
            Self::Time(_) => self.json().as_str().map_or_else(|| self.text(), str::to_owned),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(_) | Self::Numbers(_) | Self::Hundredths(_) | Self::Size(_) => self.text(),
            Self::Duration(_) => self.json().to_string(),
        }
    }

    /// Compares two values of a column: first empty values, then numbers by size, then text with its digits by size
    /// (`10.0.0.9` before `10.0.0.10`).
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Numbers(a), Self::Numbers(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => {
                let unequal = a.iter().zip(b).map(|(a, b)| natural(&a.0, &b.0)).find(|order| order.is_ne());
                unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ => match (self.amount(), other.amount()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => self.rank().cmp(&other.rank()).then_with(|| natural(self.raw(), other.raw())),
            },
        }
    }

    /// Returns a copy of bounded size, to sort by.
    pub(crate) fn sort_key(&self) -> Self {
        const BYTES_MAX: usize = 256;
        let cut = |bytes: &[u8]| Bytes::from(&bytes[..bytes.len().min(BYTES_MAX)]);
        match self {
            Self::Text(text) => Self::Bytes(cut(text.as_bytes())),
            Self::Bytes(bytes) => Self::Bytes(cut(&bytes.0)),
            Self::List(list) => Self::List(list.iter().take(4).map(|bytes| cut(&bytes.0)).collect()),
            Self::Numbers(numbers) => Self::Numbers(numbers.iter().copied().take(4).collect()),
            other => other.clone(),
        }
    }

    /// Returns the number, in the smallest unit of the type.
    pub(crate) fn amount(&self) -> Option<i128> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Hundredths(number) => Some((*number).into()),
            Self::Size(number) | Self::Duration(number) => Some((*number).into()),
            Self::Time(ns) => Some((*ns).into()),
            Self::Flag(flag) => Some((*flag).into()),
            Self::Empty | Self::Text(_) | Self::Bytes(_) | Self::List(_) | Self::Numbers(_) => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Text(_) | Self::Bytes(_) | Self::List(_) => 2,
            _ => 1,
        }
    }

    fn raw(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => &bytes.0,
            _ => &[],
        }
    }
}

/// Formats a time as `2026-03-10 03:12:40` in UTC; a time outside of the calendar is shown as a number.
pub fn time_text(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(ns.into())
        .map_or_else(|_| ns.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Formats a whole number in groups of three digits: `1,234,567`.
pub fn grouped(number: impl fmt::Display) -> String {
    let text = number.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let mut grouped = sign.to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a number of bytes with the unit that leaves one to four digits: `812 B`, `1.2 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10) as usize;
    // An approximation; JSON and CSV have the exact number.
    let value = bytes as f64 / (1_u64 << (10 * exponent)) as f64;
    let unit = UNITS[exponent - 1];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Formats the age of a moment at `now_ns`: `4 s ago`, `3 min ago`, `2 d ago`.
pub fn ages(ns: i64, now_ns: i64) -> String {
    let seconds = now_ns.saturating_sub(ns) / 1_000_000_000;
    match seconds {
        ..0 => format!("{} s ahead of this clock", seconds.unsigned_abs()),
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Makes text of the collector safe to show: the text may contain bytes of a host, such as an error with a path.
fn visible_text(text: &str) -> String {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'\\') {
        return text.to_owned();
    }
    visible(text.as_bytes())
}

fn no_formula(bytes: &[u8]) -> String {
    let text = visible(bytes);
    match bytes.first() {
        Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r') => format!("'{text}"),
        _ => text,
    }
}

/// Returns an argument of a command line, in quotes when its boundaries would be invisible.
fn word(bytes: &[u8]) -> String {
    let text = visible(bytes);
    if text.is_empty() || text.contains([' ', '\'', '"']) { format!("'{}'", text.replace('\'', "'\\''")) } else { text }
}

/// Compares text: runs of digits as numbers, letters first without regard to case.
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, rest_of_left) = digits(left);
                let (y, rest_of_right) = digits(right);
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order.is_ne() {
                    return order;
                }
                (left, right) = (rest_of_left, rest_of_right);
            }
            (Some(x), Some(y)) => {
                let order = x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase());
                if order.is_ne() {
                    return order;
                }
                (left, right) = (&left[1..], &right[1..]);
            }
        }
    }
}

/// Splits `text` after the leading digits; leading zeros are dropped.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    let zeros = run.iter().position(|&byte| byte != b'0').unwrap_or(run.len());
    (&run[zeros..], rest)
}

/// Cuts a value that a join repeats, at [`JOINED_BYTES_MAX`].
pub fn joined(bytes: &[u8]) -> Bytes {
    if bytes.len() <= JOINED_BYTES_MAX {
        return Bytes::from(bytes);
    }
    let mut cut = bytes[..JOINED_BYTES_MAX].to_vec();
    cut.extend_from_slice("…".as_bytes());
    Bytes(cut)
}
