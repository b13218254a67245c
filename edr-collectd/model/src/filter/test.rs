//! Tests of a cell.

use std::ops::RangeInclusive;

use super::address::Network;
use super::amount::is_within;
use super::pattern::Pattern;
use crate::catalogue::Cells;
use crate::cell::{self, Cell};
use crate::column::{Column, Kind, Mark};

/// A test of a cell.
#[derive(Debug, Clone)]
pub(super) enum Test {
    /// The cell has a value.
    Present,
    /// The cell has no value.
    Absent,
    /// The text, or an element of a list, matches.
    Text(Pattern),
    /// The amount, or one of several numbers, is in the range.
    Amount(RangeInclusive<i128>),
    /// The address or network has an address in common with the network.
    Address(Network),
    /// The text of the address matches.
    AddressText(Pattern),
    /// The flag has this value.
    Flag(bool),
}

impl Test {
    /// Returns true when the cell passes.
    pub(super) fn passes(&self, cell: &Cell) -> bool {
        match self {
            Self::Present => !matches!(cell, Cell::Empty),
            Self::Absent => matches!(cell, Cell::Empty),
            Self::Text(pattern) => matches(pattern, cell),
            Self::Amount(range) => is_within(range, cell),
            Self::Address(network) => Network::parse(&cell.text()).is_some_and(|found| found.overlaps(network)),
            Self::AddressText(pattern) => {
                let text = cell.text().to_lowercase();
                pattern.matches(&text) || text.strip_prefix("::ffff:").is_some_and(|v4| pattern.matches(v4))
            }
            Self::Flag(flag) => *cell == Cell::Flag(*flag),
        }
    }
}

/// Returns true when the text of the cell, or an element of a list, matches.
fn matches(pattern: &Pattern, cell: &Cell) -> bool {
    let is_match = |text: String| pattern.matches(&text.to_lowercase());
    match cell {
        Cell::Empty => false,
        Cell::List(list) => is_match(cell.text()) || list.iter().any(|bytes| is_match(edr_wire::visible(&bytes.0))),
        other => is_match(other.text()),
    }
}

/// A search in all columns, for everything that a page shows of a row.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) pattern: Pattern,
    /// The network, when the searched text is an address or a network.
    pub(super) network: Option<Network>,
    /// Columns of flags with the searched name.
    pub(super) flags: Vec<usize>,
}

impl Search {
    /// Returns true when a column of the row has the searched text.
    pub(super) fn passes(&self, columns: &[Column], cells: &Cells<'_>) -> bool {
        columns.iter().enumerate().any(|(place, column)| {
            let cell = cells(place);
            matches(&self.pattern, &cell)
                || self.is_shown(column, &cell)
                || (cell == Cell::Flag(true) && self.flags.contains(&place))
                || column.mark.is_some_and(|mark| self.is_mark(mark, columns, cells))
        })
    }

    /// Returns true when a page shows the value as the searched text: `1,234` or `1.2 MiB`; or when the address is in
    /// the searched network.
    fn is_shown(&self, column: &Column, cell: &Cell) -> bool {
        match cell {
            Cell::Number(0) if column.kind == Kind::DangerLevel => self.pattern.matches(cell::NO_DANGER),
            Cell::Number(amount) if !column.unit.is_empty() => self.pattern.matches(&cell::grouped(*amount)),
            Cell::Size(bytes) => self.pattern.matches(&cell::size(*bytes).to_lowercase()),
            Cell::Text(_) | Cell::Bytes(_) if column.kind == Kind::Address => {
                self.network.as_ref().is_some_and(|network| Test::Address(*network).passes(cell))
            }
            _ => false,
        }
    }

    fn is_mark(&self, mark: Mark, columns: &[Column], cells: &Cells<'_>) -> bool {
        let Some(place) = columns.iter().position(|column| column.name == mark.field()) else { return false };
        match mark {
            // The other column is searched itself.
            Mark::Text { .. } => false,
            Mark::True { text, .. } => self.pattern.matches(text) && cells(place) == Cell::Flag(true),
            Mark::Empty { text, .. } => self.pattern.matches(text) && cells(place) == Cell::Empty,
        }
    }
}
