//! Durations and sizes with their units: `10s`, `768KiB`.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Parses a duration: `10s`, `1h`, `500ms`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// Parses a size: `768KiB`, `2GiB`, `1MB`.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// Formats a duration exactly, in the largest possible unit; rounded down to a millisecond.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &DURATIONS)
}

/// Formats a size exactly, in the largest possible binary unit.
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, &SIZES[..5])
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |unit: &&(&str, u64)| value.is_multiple_of(unit.1) && value >= unit.1;
    match units.iter().rev().find(fits) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{}", units.first().map_or("", |unit| unit.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_needs_a_known_unit() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("90 m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_bytes("768KiB"), Some(768 << 10));
        for wrong in ["", "10", "s", "10S", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d", "10s "] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert_eq!(parse_bytes("768kib"), None);
    }

    #[test]
    fn printed_values_read_back_the_same() {
        for millis in [0, 1, 999, 1_000, 1_500, 60_000, 61_000, 3_600_000, 86_400_000, 90_000_000] {
            let shown = show_duration(Duration::from_millis(millis));
            assert_eq!(parse_duration(&shown), Some(Duration::from_millis(millis)), "{shown}");
        }
        for bytes in [0, 1, 1_023, 1_024, 786_432, 1 << 30, 3 << 40] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
        assert_eq!(show_bytes(768 << 10), "768KiB");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
    }
}
