//! Selects rows of a view: filter, order, page.

use std::cmp::Ordering;

use super::{Cell, Column, HostSnapshot, QueryError, View};

/// Rows of an answer. A page has some hundred rows; a complete view of a large host has 32,000 open files.
pub const ROWS_MAX: usize = 250_000;

/// The rows of a view to return.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// Text that a row must contain in any column, without regard to case; `column:text` for a single column, where
    /// numbers must be equal.
    pub filter: Option<String>,
    /// Name of the column to sort by; without a name, the view's own order.
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
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows of the page.
    pub rows: Vec<Vec<Cell>>,
    /// Number of rows that match the filter.
    pub matched: usize,
    /// Number of all rows.
    pub total: usize,
    /// Number of undecodable rows.
    pub undecodable: usize,
}

/// A parsed filter.
struct Filter {
    /// Index of the single column to search, and whether the column holds numbers.
    column: Option<(usize, bool)>,
    text: String,
}

impl Filter {
    fn new(filter: Option<&str>, columns: &[Column]) -> Option<Self> {
        let filter = filter.map(str::trim).filter(|filter| !filter.is_empty())?;
        let one = filter.split_once(':').and_then(|(name, text)| {
            let place = columns.iter().position(|column| column.name == name)?;
            Some((place, columns[place].numeric, text))
        });
        Some(match one {
            Some((place, numeric, text)) => Self { column: Some((place, numeric)), text: text.trim().to_lowercase() },
            None => Self { column: None, text: filter.to_lowercase() },
        })
    }

    fn matches(&self, row: &[Cell]) -> bool {
        match self.column {
            Some((place, true)) => row[place].equals(&self.text),
            Some((place, false)) => row[place].contains(&self.text),
            None => row.iter().any(|cell| cell.contains(&self.text)),
        }
    }
}

/// Implements [`View::table`]. An unsorted page takes one pass over the rows, a sorted page two: the first pass keeps a
/// bounded key of each matching row, the second makes the rows of the page.
pub(super) fn table(view: View, snapshot: &HostSnapshot, select: &Select) -> Result<Table, QueryError> {
    let columns = view.columns();
    let sort = select.sort.as_deref().filter(|name| !name.is_empty());
    let sort = sort.map(|name| place_of(&columns, name)).transpose()?;
    let filter = Filter::new(select.filter.as_deref(), &columns);
    let page_rows = if select.page_rows == 0 { ROWS_MAX } else { select.page_rows.min(ROWS_MAX) };
    let first = select.page.saturating_mul(page_rows);
    let page = first..first.saturating_add(page_rows);

    let mut keys: Vec<(Cell, usize)> = Vec::new();
    let mut rows = Vec::new();
    let (mut total, mut matched) = (0, 0);
    let undecodable = view.rows(snapshot, &mut |make| {
        let place = total;
        total += 1;
        let row = match (&filter, sort) {
            // Only without filter and order can rows outside of the page be skipped.
            (None, None) => page.contains(&matched).then(make),
            (None, Some(_)) => Some(make()),
            (Some(filter), _) => {
                let row = make();
                if !filter.matches(&row) {
                    return;
                }
                Some(row)
            }
        };
        match (row, sort) {
            (Some(row), Some(column)) => keys.push((row[column].sort_key(), place)),
            (Some(row), None) if page.contains(&matched) => rows.push(row),
            _ => {}
        }
        matched += 1;
    });

    if select.page_rows == 0 && matched > ROWS_MAX {
        return Err(QueryError::Budget(format!(
            "{matched} rows, {ROWS_MAX} are shown at once; filter them, or ask for pages"
        )));
    }
    if sort.is_some() {
        sort_keys(&mut keys, select.descending);
        let end = page.end.min(keys.len());
        let wanted = &keys[page.start.min(end)..end];
        rows = rows_at(view, snapshot, wanted.iter().map(|(_, place)| *place).collect());
    }
    Ok(Table { columns, rows, matched, total, undecodable })
}

/// Implements [`View::each`].
pub(super) fn each(
    view: View,
    snapshot: &HostSnapshot,
    filter: Option<&str>,
    take: &mut dyn FnMut(Vec<Cell>),
) -> usize {
    let filter = Filter::new(filter, &view.columns());
    view.rows(snapshot, &mut |make| {
        let row = make();
        if filter.as_ref().is_none_or(|filter| filter.matches(&row)) {
            take(row);
        }
    })
}

/// Filters and sorts existing rows.
pub(crate) fn select_rows(
    columns: &[Column],
    rows: Vec<Vec<Cell>>,
    select: &Select,
) -> Result<Vec<Vec<Cell>>, QueryError> {
    let sort = select.sort.as_deref().map(|name| place_of(columns, name)).transpose()?;
    let filter = Filter::new(select.filter.as_deref(), columns);
    let mut rows: Vec<Vec<Cell>> =
        rows.into_iter().filter(|row| filter.as_ref().is_none_or(|filter| filter.matches(row))).collect();
    if let Some(place) = sort {
        rows.sort_by(|a, b| compare(&a[place], &b[place], select.descending));
    }
    Ok(rows)
}

/// Returns the index of the column with this name.
pub(crate) fn place_of(columns: &[Column], name: &str) -> Result<usize, QueryError> {
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        QueryError::UnknownColumn(name.to_owned(), names.join(", "))
    })
}

/// Sorts keys. Equal keys keep the view's order in both directions; rows without a value come last in both.
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
fn rows_at(view: View, snapshot: &HostSnapshot, places: Vec<usize>) -> Vec<Vec<Cell>> {
    let mut by_place: Vec<(usize, usize)> = places.into_iter().enumerate().map(|(slot, place)| (place, slot)).collect();
    by_place.sort_unstable();
    let mut rows = vec![Vec::new(); by_place.len()];
    let mut wanted = by_place.into_iter().peekable();
    let mut at = 0;
    view.rows(snapshot, &mut |make| {
        if let Some((_, slot)) = wanted.next_if(|(place, _)| *place == at) {
            rows[slot] = make();
        }
        at += 1;
    });
    rows
}
