//! Selects rows of a table: filter, order, page.

use std::cmp::Ordering;

use crate::catalogue::Table;
use crate::cell::Cell;
use crate::column::Column;
use crate::filter::Filter;

/// Rows of an answer. A page has some hundred rows; a complete table of a large host has 32,000 open files.
pub const ROWS_MAX: usize = 250_000;

/// The rows of a table to return.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// Condition for the rows, parsed for the table's columns.
    pub filter: Filter,
    /// Name of the column to sort by; without a name, the table's own order.
    pub sort: Option<String>,
    /// True for the largest value first.
    pub descending: bool,
    /// Number of the page, from 0.
    pub page: usize,
    /// Rows per page; 0 for all rows.
    pub page_rows: usize,
}

/// The selected rows.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows of the page, with a cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// Number of rows that match the filter.
    pub matched: usize,
    /// Number of all rows.
    pub total: usize,
    /// Number of undecodable rows.
    pub undecodable: usize,
}

/// Why rows cannot be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The column does not exist.
    #[error("no column {name:?}; there are: {known}")]
    UnknownColumn {
        /// The name.
        name: String,
        /// Names of the table's columns.
        known: String,
    },
    /// All rows were requested, and there are too many.
    #[error("{0} rows, {ROWS_MAX} are shown at once; filter them, or ask for pages")]
    TooMany(usize),
}

impl<I: ?Sized> Table<I> {
    /// Filters and sorts the rows and returns one page. An unsorted page takes one pass over the rows, a sorted page
    /// two: the first pass keeps a bounded key of each matching row, the second makes the rows of the page.
    ///
    /// # Errors
    /// When the column to sort by does not exist, or when all rows are requested and there are more than [`ROWS_MAX`].
    pub fn select(&self, input: &I, select: &Select) -> Result<Selection, SelectError> {
        let columns = self.columns();
        let sort = select.sort.as_deref().filter(|name| !name.is_empty());
        let sort = sort.map(|name| place_of(&columns, name)).transpose()?;
        let page_rows = if select.page_rows == 0 { ROWS_MAX } else { select.page_rows.min(ROWS_MAX) };
        let first = select.page.saturating_mul(page_rows);
        let page = first..first.saturating_add(page_rows);

        let mut keys: Vec<(Cell, usize)> = Vec::new();
        let mut rows = Vec::new();
        let (mut total, mut matched) = (0, 0);
        let undecodable = self.rows(input, &mut |cells| {
            let place = total;
            total += 1;
            if !select.filter.matches(cells) {
                return;
            }
            match sort {
                Some(column) => keys.push((cells(column).sort_key(), place)),
                None if page.contains(&matched) => rows.push((0..columns.len()).map(cells).collect()),
                None => {}
            }
            matched += 1;
        });

        if select.page_rows == 0 && matched > ROWS_MAX {
            return Err(SelectError::TooMany(matched));
        }
        if sort.is_some() {
            sort_keys(&mut keys, select.descending);
            let end = page.end.min(keys.len());
            let wanted = &keys[page.start.min(end)..end];
            rows = rows_at(self, input, columns.len(), wanted.iter().map(|(_, place)| *place).collect());
        }
        Ok(Selection { columns, rows, matched, total, undecodable })
    }

    /// Returns a filter for the rows with this text in a field; `None` when the field cannot have the text.
    pub fn condition(&self, field: &str, text: &str) -> Option<String> {
        let columns = self.columns();
        let is_right = |filter: &String| Filter::parse(filter, &columns, 0).is_ok();
        let is_plain = |c: char| c.is_alphanumeric() || "._:/-%".contains(c);
        let plain = Some(format!("{field}:{text}")).filter(|_| text.chars().all(is_plain) && !text.is_empty());
        let parts: Vec<String> = text.split('"').map(|part| format!("\"{part}\"")).collect();
        plain.filter(is_right).or_else(|| Some(format!("{field}={}", parts.join("'\"'"))).filter(is_right))
    }

    /// Passes the cells at these indexes of every matching row to `take`, in the table's own order, and keeps none: for
    /// streamed output. Returns the number of undecodable rows.
    pub fn each(&self, input: &I, filter: &Filter, places: &[usize], take: &mut dyn FnMut(Vec<Cell>)) -> usize {
        self.rows(input, &mut |cells| {
            if filter.matches(cells) {
                take(places.iter().map(|&place| cells(place)).collect());
            }
        })
    }
}

/// Returns the index of the column with this name.
///
/// # Errors
/// When there is no such column.
pub fn place_of(columns: &[Column], name: &str) -> Result<usize, SelectError> {
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        SelectError::UnknownColumn { name: name.to_owned(), known: names.join(", ") }
    })
}

/// Sorts keys. Equal keys keep the table's order in both directions; rows without a value come last in both.
fn sort_keys(keys: &mut [(Cell, usize)], descending: bool) {
    keys.sort_by(|(a, _), (b, _)| compare(a, b, descending));
}

fn compare(a: &Cell, b: &Cell, descending: bool) -> Ordering {
    match (matches!(a, Cell::Empty), matches!(b, Cell::Empty)) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) if descending => b.order(a),
        (false, false) => a.order(b),
    }
}

/// Returns the rows at these indexes, in this order.
fn rows_at<I: ?Sized>(table: &Table<I>, input: &I, width: usize, places: Vec<usize>) -> Vec<Vec<Cell>> {
    let mut by_place: Vec<(usize, usize)> = places.into_iter().enumerate().map(|(slot, place)| (place, slot)).collect();
    by_place.sort_unstable();
    let mut rows = vec![Vec::new(); by_place.len()];
    let mut wanted = by_place.into_iter().peekable();
    let mut at = 0;
    table.rows(input, &mut |cells| {
        if let Some((_, slot)) = wanted.next_if(|(place, _)| *place == at) {
            rows[slot] = (0..width).map(cells).collect();
        }
        at += 1;
    });
    rows
}
