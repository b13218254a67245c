//! Types of values: what a column can be compared with.

use super::address::{Network, is_beginning};
use super::amount::Amount;
use super::pattern::Pattern;
use super::test::Test;
use super::word::Word;
use super::{Operator, names};
use crate::column::{Column, Kind, Values};

/// Why a value or an operator does not fit to a column.
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) possible: String,
    /// True when the operator is at fault, not the value.
    pub(super) is_operator: bool,
}

/// Returns the test for `column OPERATOR word`; [`Operator::Differs`] counts as [`Operator::Is`].
pub(super) fn test(column: &Column, operator: Operator, word: &Word, now_ns: i64) -> Result<Test, Refusal> {
    if operator.is_order() && !has_order(column.kind) {
        return Err(Refusal {
            message: format!("`{}` has no order, so `{}` cannot be used", column.name, operator.symbol()),
            possible: "operators: `:` `=` `!=`".into(),
            is_operator: true,
        });
    }
    let refusal = || Refusal {
        message: format!("`{}` is no value of `{}`", edr_wire::visible(word.text().as_bytes()), column.name),
        possible: possible(column),
        is_operator: false,
    };
    if column.kind == Kind::Flag {
        return flag(&word.text()).map(Test::Flag).ok_or_else(refusal);
    }
    if !operator.is_order() && word.is_any() {
        return Ok(Test::Present);
    }
    if !operator.is_order() && word.chars.is_empty() {
        return Ok(Test::Absent);
    }
    if column.kind != Kind::NumberOrWord
        && has_order(column.kind)
        && let Some((low, high)) = word.range()
    {
        return range(column, operator, [&low, &high], now_ns).unwrap_or_else(|| Err(refusal()));
    }
    let test = match column.kind {
        Kind::Text | Kind::Bytes | Kind::List => text(column, operator, word),
        Kind::Address => address(column, operator, word),
        Kind::NumberOrWord => number_or_word(column, operator, word, now_ns),
        _ => Amount::parse(column, &word.text(), now_ns).map(|amount| Test::Amount(amount.wanted(operator))),
    };
    test.ok_or_else(refusal)
}

/// Returns true when a value of several words may follow without quotes: `started>yesterday 03:12`.
pub(super) fn takes_phrases(column: &Column) -> bool {
    matches!(column.kind, Kind::Time | Kind::Size | Kind::Duration)
        || matches!(column.values, Values::Words(words) if words.iter().any(|word| word.contains(' ')))
}

/// Returns the test for a range; `None` when an end is of another type.
fn range(column: &Column, operator: Operator, ends: [&str; 2], now_ns: i64) -> Option<Result<Test, Refusal>> {
    let refusal =
        |message: String, is_operator| Some(Err(Refusal { message, possible: possible(column), is_operator }));
    if ends == ["", ""] {
        return None;
    }
    if operator.is_order() {
        return refusal(format!("a range goes with `:`, `=` or `!=`, not with `{}`", operator.symbol()), true);
    }
    let reversed = || refusal(format!("the range is empty: write {}..{}", ends[1], ends[0]), false);
    if column.kind == Kind::Address {
        let [low, high] = ends.map(Network::parse);
        let (low, high) = (low?, high?);
        if low.is_v4 != high.is_v4 {
            return None;
        }
        return if low.low > high.high {
            reversed()
        } else {
            Some(Ok(Test::Address(Network { high: high.high, ..low })))
        };
    }
    let parse = |end: &str| if end.is_empty() { Some(None) } else { Amount::parse(column, end, now_ns).map(Some) };
    let range = Amount::between(parse(ends[0])?, parse(ends[1])?);
    if range.is_empty() { reversed() } else { Some(Ok(Test::Amount(range))) }
}

fn text(column: &Column, operator: Operator, word: &Word) -> Option<Test> {
    let pattern = Pattern::new(word, operator != Operator::Has);
    let is_possible = match column.values {
        Values::Any => true,
        Values::Words(words) => words.iter().any(|known| pattern.matches(&known.to_lowercase())),
        Values::Letters(letters) => word.chars.iter().all(|&(c, quoted)| {
            letters.chars().any(|letter| letter.eq_ignore_ascii_case(&c)) || (!quoted && (c == '*' || c == '?'))
        }),
    };
    is_possible.then_some(Test::Text(pattern))
}

fn number_or_word(column: &Column, operator: Operator, word: &Word, now_ns: i64) -> Option<Test> {
    if let Some((low, high)) = word.range() {
        return range(column, operator, [&low, &high], now_ns)?.ok();
    }
    if let Some(amount) = Amount::parse(column, &word.text(), now_ns) {
        return Some(Test::Amount(amount.wanted(operator)));
    }
    if operator.is_order() { None } else { text(column, Operator::Is, word) }
}

fn address(column: &Column, operator: Operator, word: &Word) -> Option<Test> {
    let text = word.text();
    if let Some(network) = Network::parse(&text) {
        return network.ordered(operator).map(Test::Address);
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_pattern = word.is_glob() && text.chars().all(|c| c.is_ascii_hexdigit() || ".:*?".contains(c));
    if operator.is_order() {
        None
    } else if is_pattern || (is_number && column.has_context_ids) {
        Some(Test::AddressText(Pattern::new(word, true)))
    } else if operator == Operator::Has && is_beginning(&text) {
        Some(Test::AddressText(Pattern::Begins(text.to_lowercase())))
    } else {
        None
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" | "y" | "on" => Some(true),
        "no" | "false" | "0" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn has_order(kind: Kind) -> bool {
    !matches!(kind, Kind::Text | Kind::Bytes | Kind::List | Kind::Flag)
}

/// Returns a sentence with the values that a column can be compared with.
fn possible(column: &Column) -> String {
    let name = column.name;
    let values = match column.kind {
        Kind::Flag => return format!("values of `{name}`: yes, no"),
        Kind::Text | Kind::Bytes | Kind::List => match column.values {
            Values::Any => "text, \"text in quotes\", a pattern such as py*".to_owned(),
            Values::Words(words) => words.join(", "),
            Values::Letters(letters) => format!("text of these characters: {letters}"),
        },
        Kind::Number | Kind::Numbers if column.unit == "bytes" => {
            "a number, optionally with K, M, G or KiB, MiB, GiB; a range such as 1K..2K".into()
        }
        Kind::Number | Kind::Numbers => {
            "a whole number such as 22; a range such as 1000..2000, 1000.. or ..2000".into()
        }
        Kind::NumberOrWord => {
            let words = if let Values::Words(words) = column.values { words } else { &[] };
            format!("a whole number such as 3; a range such as 3..9; {}", words.join(", "))
        }
        Kind::DangerLevel => "a level from 0 to 5; a range such as 3..5".into(),
        Kind::Percent => "a number with at most two decimals such as 5 or 12.5; a range such as 5..50".into(),
        Kind::Size => "a number of bytes, optionally with K, M, G or KiB, MiB, GiB; a range such as 10M..1G".into(),
        Kind::Duration => "90s, 5m, 2h, 1:30 or 1:02:03; a range such as 1m..5m".into(),
        Kind::Time => format!("{}; a range such as 2026-03-10..2026-03-12", crate::moment::FORMS),
        Kind::Address => {
            let ids = if column.has_context_ids { "; a vsock context id" } else { "" };
            format!("10.0.0.1, 10.0.0.0/8, 10.0.0.1..10.0.0.9, fe80::/10, 10.0.*; the beginning 10.0.{ids}")
        }
    };
    format!("values of `{name}`: {values}; * for any value, \"\" for none")
}

/// Returns a refusal of an unknown column.
pub(super) fn unknown_column(columns: &[Column], name: &str) -> Refusal {
    let shown = edr_wire::visible(name.as_bytes());
    let hint = names::nearest(columns, name).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    Refusal {
        message: format!("there is no column `{shown}`{hint}"),
        possible: format!("{}\nto search for the text itself, write it in quotes", names::all(columns)),
        is_operator: false,
    }
}
