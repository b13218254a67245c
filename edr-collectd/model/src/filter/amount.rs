//! Amounts: numbers, percentages, sizes, times and durations, as whole numbers of the smallest unit of the column.

use std::ops::RangeInclusive;

use super::Operator;
use crate::cell::{self, Cell};
use crate::column::{Column, Kind};
use crate::moment;

/// A typed amount. A value that stands for a range, such as a date or `1.2 MiB`, is equal to the whole range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    /// First and last equal amount.
    equal: (i128, i128),
    /// Amounts below are less.
    below: i128,
    /// Amounts above are more.
    above: i128,
}

impl Amount {
    fn exact(amount: i128) -> Self {
        Self { equal: (amount, amount), below: amount, above: amount }
    }

    /// Parses a value of the column's type; `None` for a value of another type. `now_ns` is the moment to which
    /// relative times refer.
    pub(super) fn parse(column: &Column, text: &str, now_ns: i64) -> Option<Self> {
        match column.kind {
            Kind::Number | Kind::Numbers | Kind::NumberOrWord => {
                let plain = number(text).map(Self::exact);
                if column.unit == "bytes" { plain.or_else(|| size(text)) } else { plain }
            }
            Kind::DangerLevel if text.eq_ignore_ascii_case(cell::NO_DANGER) => Some(Self::exact(0)),
            Kind::DangerLevel => number(text).filter(|level| (0..=5).contains(level)).map(Self::exact),
            Kind::Percent => percent(text),
            Kind::Size => size(text),
            Kind::Duration => duration(text),
            Kind::Time => {
                let moment = moment::parse(text, now_ns).ok()?;
                let (from, last) = (moment.from_ns.into(), moment.last_ns.into());
                Some(Self { equal: (from, last), below: from, above: last })
            }
            Kind::Text | Kind::Bytes | Kind::List | Kind::Address | Kind::Flag => None,
        }
    }

    /// Returns the amounts for which `amount OPERATOR self` is true; [`Operator::Differs`] counts as equal.
    pub(super) fn wanted(self, operator: Operator) -> RangeInclusive<i128> {
        match operator {
            Operator::Has | Operator::Is | Operator::Differs => self.equal.0..=self.equal.1,
            Operator::Less => i128::MIN..=self.below.saturating_sub(1),
            Operator::LessOrEqual => i128::MIN..=self.above,
            Operator::Greater => self.above.saturating_add(1)..=i128::MAX,
            Operator::GreaterOrEqual => self.below..=i128::MAX,
        }
    }

    /// Returns the amounts from `low` to `high`; an absent end is open.
    pub(super) fn between(low: Option<Self>, high: Option<Self>) -> RangeInclusive<i128> {
        low.map_or(i128::MIN, |low| low.equal.0)..=high.map_or(i128::MAX, |high| high.equal.1)
    }
}

/// Returns true when an amount of the cell is within the range.
pub(super) fn is_within(range: &RangeInclusive<i128>, cell: &Cell) -> bool {
    match cell {
        Cell::Numbers(numbers) => numbers.iter().any(|&number| range.contains(&number.into())),
        other => other.amount().is_some_and(|amount| range.contains(&amount)),
    }
}

/// Parses a whole number, optionally in groups of three digits, as a page shows amounts: `1,234`.
fn number(text: &str) -> Option<i128> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut groups = text.split(',');
    let first = groups.next().filter(|first| is_digits(first))?;
    let is_grouped = text.contains(',');
    if is_grouped && (first.len() > 3 || !groups.all(|group| group.len() == 3 && is_digits(group))) {
        return None;
    }
    text.replace(',', "").parse().ok()
}

/// Digits accepted in a number with a unit: fewer than overflow.
const DIGITS_MAX: usize = 18;

/// A number with a decimal point, in units of `10^-decimals`.
struct Decimal {
    digits: i128,
    decimals: u32,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let decimals = if text.contains('.') { fraction.len() } else { 0 };
        let digits = format!("{whole}{}", &fraction[..decimals.min(fraction.len())]);
        let is_digits = !whole.is_empty() && !fraction.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits || digits.len() > DIGITS_MAX {
            return None;
        }
        Some(Self { digits: digits.parse().ok()?, decimals: u32::try_from(decimals).ok()? })
    }

    /// Returns the number times `unit`, and half of the last digit times `unit`.
    fn times(&self, unit: i128) -> (i128, i128) {
        let scale = 10_i128.pow(self.decimals);
        (self.digits * unit / scale, unit / (2 * scale))
    }
}

/// Returns the amount of a rounded number.
fn rounded(decimal: &Decimal, unit: i128) -> Amount {
    let (amount, half) = decimal.times(unit);
    Amount { equal: (amount - half, amount + (half - 1).max(0)), below: amount, above: amount }
}

/// Parses `50`, `12.5` or `12.5%`, in hundredths.
fn percent(text: &str) -> Option<Amount> {
    let decimal = Decimal::parse(text.strip_suffix('%').unwrap_or(text).trim_end())?;
    (decimal.decimals <= 2).then(|| rounded(&decimal, 100))
}

/// Parses a number of bytes with an optional unit: `812`, `12M`, `1.2 MiB`, `10kB`. As in the core utilities, `K`,
/// `M`, `G` and `KiB` are powers of 1,024, and `kB`, `MB`, `GB` are powers of 1,000.
fn size(text: &str) -> Option<Amount> {
    if let Some(bytes) = number(text) {
        return Some(Amount::exact(bytes));
    }
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (digits, unit) = text.split_at(end);
    let unit = unit.to_ascii_lowercase();
    let decimal = Decimal::parse(digits.trim_end())?;
    if matches!(unit.as_str(), "b" | "byte" | "bytes") {
        return (decimal.decimals == 0).then(|| Amount::exact(decimal.digits));
    }
    let exponent = u32::try_from("kmgtpe".find(unit.chars().next()?)?).ok()? + 1;
    let base: i128 = match &unit[1..] {
        "" | "ib" => 1_024,
        "b" => 1_000,
        _ => return None,
    };
    Some(rounded(&decimal, base.pow(exponent)))
}

/// Parses `90`, `1.5`, `90s`, `5m`, `2 hours`, `1:30` or `1:02:03`, in ns. A page cuts durations to whole seconds, so a
/// value is equal to all durations that begin with the value.
fn duration(text: &str) -> Option<Amount> {
    const SECOND: i128 = 1_000_000_000;
    let (amount, precision) = if text.contains(':') {
        let parts: Vec<&str> = text.split(':').collect();
        let is_part = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let (first, rest) = parts.split_first()?;
        if rest.len() > 2 || !rest.iter().all(|part| is_part(part) && *part < "60") {
            return None;
        }
        let seconds = rest
            .iter()
            .try_fold(number(first)?, |sum, part| sum.checked_mul(60)?.checked_add(part.parse::<i128>().ok()?))?;
        (seconds.checked_mul(SECOND)?, SECOND)
    } else {
        let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let seconds = if unit.is_empty() { 1 } else { moment::unit_seconds(&unit.to_ascii_lowercase())? };
        let (amount, half) = Decimal::parse(digits.trim_end())?.times(SECOND * i128::from(seconds));
        (amount, (2 * half).max(1))
    };
    Some(Amount { equal: (amount, amount + precision - 1), below: amount, above: amount })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: Kind, operator: Operator, text: &str) -> Option<(i128, i128)> {
        let range = Amount::parse(&Column::new(kind, "a", "A"), text, 0)?.wanted(operator);
        Some((*range.start(), *range.end()))
    }

    #[test]
    fn a_value_is_equal_to_what_a_page_shows_as_the_value() {
        let is = |kind, text| wanted(kind, Operator::Has, text);
        assert_eq!(is(Kind::Number, "1,234"), Some((1_234, 1_234)));
        assert_eq!(is(Kind::Size, "812"), Some((812, 812)));
        assert_eq!(is(Kind::Size, "1.5K"), Some((1_485, 1_586)));
        assert_eq!(is(Kind::Size, "2 MiB"), Some((3 << 19, (5 << 19) - 1)));
        assert_eq!(is(Kind::Size, "1kB"), Some((500, 1_499)));
        assert_eq!(is(Kind::Size, "7 B"), Some((7, 7)));
        assert_eq!(is(Kind::Percent, "50"), Some((4_950, 5_049)));
        assert_eq!(is(Kind::Percent, "50.25%"), Some((5_025, 5_025)));
        assert_eq!(is(Kind::Duration, "1:30"), Some((90_000_000_000, 90_999_999_999)));
        assert_eq!(is(Kind::Duration, "1:00:00"), Some((3_600_000_000_000, 3_600_999_999_999)));
        assert_eq!(is(Kind::Duration, "2 hours"), Some((7_200_000_000_000, 10_799_999_999_999)));
        assert_eq!(is(Kind::Duration, "0.5"), Some((500_000_000, 599_999_999)));
        assert_eq!(is(Kind::DangerLevel, "none"), Some((0, 0)));
    }

    #[test]
    fn an_order_compares_with_the_exact_value_and_with_the_ends_of_a_day() {
        assert_eq!(wanted(Kind::Size, Operator::Greater, "1M"), Some(((1 << 20) + 1, i128::MAX)));
        assert_eq!(wanted(Kind::Size, Operator::GreaterOrEqual, "1M"), Some((1 << 20, i128::MAX)));
        let day_ns = 86_400_000_000_000;
        assert_eq!(wanted(Kind::Time, Operator::Greater, "1970-01-02"), Some((2 * day_ns, i128::MAX)));
        assert_eq!(wanted(Kind::Time, Operator::Less, "1970-01-02"), Some((i128::MIN, day_ns - 1)));
        assert_eq!(wanted(Kind::Time, Operator::LessOrEqual, "1970-01-02"), Some((i128::MIN, 2 * day_ns - 1)));
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (kind, texts) in [
            (
                Kind::Number,
                vec!["", "abc", "-1", "1.5", "1e3", "12,34", "1,2345", ",123", "10M", "0x10", "9".repeat(50).as_str()],
            ),
            (Kind::Size, vec!["", "M", "big", "1.5", "10 apples", "10Mi", "1..2", "-1M", ".5M", "5.M", "1.5 B"]),
            (Kind::Percent, vec!["", "%", "high", "1.234", "-1", "1,5", "10 %%"]),
            (Kind::Duration, vec!["", "long", "1:2", "1:60", "1:00:00:00", "5 parsecs", ":30", "s"]),
            (Kind::DangerLevel, vec!["", "6", "high", "-1"]),
            (Kind::Time, vec!["", "soon", "2026-13-01", "5m"]),
        ] {
            for text in texts {
                assert_eq!(wanted(kind, Operator::Is, text), None, "{kind:?} {text}");
            }
        }
    }
}
