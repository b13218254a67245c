//! Filters: one grammar for the page and the commands. `docs/filter.md` has the grammar with examples.
//!
//! A filter is parsed for the columns of a table, and a parsed filter is right: every column exists, every operator
//! fits to the column, every value has the column's type. An empty table after a filter thus means that no row matches.
//! Everything else is a [`FilterError`] that points at the fault and lists what is possible.
//!
//! 1. [`parse`] reads words, quotes, parentheses, `and`, `or`, `not`, and `column OPERATOR value`.
//! 2. [`names`] finds the columns of a name, heading or alias.
//! 3. [`value`] types the value: [`amount`] has numbers, sizes and times, [`address`] has networks, [`pattern`] has
//!    text.
//! 4. [`test`] compares the cells of a row.
//!
//! The clock is a parameter: relative times refer to the moment that is shown.

mod address;
mod amount;
mod error;
mod names;
mod parse;
mod pattern;
mod test;
#[cfg(test)]
mod tests;
mod value;
mod word;

use std::fmt;

pub use self::error::FilterError;
use self::test::{Search, Test};
use crate::catalogue::Cells;
use crate::column::Column;

/// Longest filter, in characters.
pub const CHARS_MAX: usize = 1_000;
/// Most conditions of a filter.
const CONDITIONS_MAX: usize = 100;
/// Most parentheses and `not` inside each other.
const DEPTH_MAX: usize = 30;

/// A condition for the rows of a table. The default matches every row.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    columns: Vec<Column>,
    condition: Option<Condition>,
}

#[derive(Debug, Clone)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// A cell of any of these columns passes a test.
    Column {
        tests: Vec<(usize, Test)>,
        words: String,
    },
    /// Any column has the text.
    Search {
        search: Search,
        words: String,
    },
}

/// An operator between a column and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// `:`: text contains the value, everything else is equal.
    Has,
    Is,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    const ALL: [Self; 7] =
        [Self::Has, Self::Is, Self::Differs, Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual];

    fn symbol(self) -> &'static str {
        match self {
            Self::Has => ":",
            Self::Is => "=",
            Self::Differs => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    fn is_order(self) -> bool {
        !matches!(self, Self::Has | Self::Is | Self::Differs)
    }
}

impl Filter {
    /// Parses a filter for a table with these columns; an empty text matches every row. `now_ns` is the moment to which
    /// relative times refer.
    ///
    /// # Errors
    /// When the text is no filter, or names an unknown column or a value of the wrong type.
    pub fn parse(text: &str, columns: &[Column], now_ns: i64) -> Result<Self, FilterError> {
        let condition = parse::condition(text, columns, now_ns)?;
        Ok(Self { columns: columns.to_vec(), condition })
    }

    /// Parses several filters that a row must match all.
    ///
    /// # Errors
    /// As [`Filter::parse`], for the first wrong filter.
    pub fn parse_all(texts: &[String], columns: &[Column], now_ns: i64) -> Result<Self, FilterError> {
        let mut conditions = Vec::new();
        for text in texts {
            conditions.extend(parse::condition(text, columns, now_ns)?);
        }
        let condition = if conditions.is_empty() { None } else { Some(Condition::all(conditions)) };
        Ok(Self { columns: columns.to_vec(), condition })
    }

    /// Returns true when every row matches.
    pub fn is_empty(&self) -> bool {
        self.condition.is_none()
    }

    /// Returns true when the row matches.
    pub fn matches(&self, cells: &Cells<'_>) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.matches(&self.columns, cells))
    }
}

/// The filter in words: `name contains "ssh" and not pid is 1`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.as_ref().map_or(Ok(()), |condition| condition.fmt(f))
    }
}

impl Condition {
    fn all(conditions: Vec<Self>) -> Self {
        Self::single(conditions).unwrap_or_else(Self::All)
    }

    fn any(conditions: Vec<Self>) -> Self {
        Self::single(conditions).unwrap_or_else(Self::Any)
    }

    fn single(mut conditions: Vec<Self>) -> Result<Self, Vec<Self>> {
        match (conditions.len(), conditions.pop()) {
            (1, Some(only)) => Ok(only),
            (_, last) => {
                conditions.extend(last);
                Err(conditions)
            }
        }
    }

    fn matches(&self, columns: &[Column], cells: &Cells<'_>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|condition| condition.matches(columns, cells)),
            Self::Any(any) => any.iter().any(|condition| condition.matches(columns, cells)),
            Self::Not(condition) => !condition.matches(columns, cells),
            Self::Column { tests, .. } => tests.iter().any(|(place, test)| test.passes(&cells(*place))),
            Self::Search { search, .. } => search.passes(columns, cells),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (conditions, separator) = match self {
            Self::All(all) => (all, " and "),
            Self::Any(any) => (any, " or "),
            Self::Not(condition) => return write!(f, "not {condition}"),
            Self::Column { words, .. } | Self::Search { words, .. } => return f.write_str(words),
        };
        f.write_str("(")?;
        for (place, condition) in conditions.iter().enumerate() {
            write!(f, "{}{condition}", if place == 0 { "" } else { separator })?;
        }
        f.write_str(")")
    }
}
