//! Which rows of a view: filter, order, page.

use std::cmp::Ordering;

use super::{Cell, Column, HostSnapshot, QueryError, View};

/// Rows of one answer. A page has some hundred; a whole view of a large host has 32,000 open files.
pub const ROWS_MAX: usize = 250_000;

/// What to show of a view.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// Rows that contain this text (case-insensitive) in any column; `column:text` for one column, where a column of
    /// numbers must be equal.
    pub filter: Option<String>,
    /// Column name to sort by; the view's own order otherwise.
    pub sort: Option<String>,
    /// Largest first.
    pub descending: bool,
    /// Page, from 0.
    pub page: usize,
    /// Rows of a page; 0 for all.
    pub page_rows: usize,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<Column>,
    /// The rows of the page.
    pub rows: Vec<Vec<Cell>>,
    /// Rows that match the filter.
    pub matched: usize,
    /// Rows in all.
    pub total: usize,
    /// Rows that could not be decoded.
    pub undecodable: usize,
}

/// A filter, understood.
struct Filter {
    /// Position and kind of the one column to look at.
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

/// See [`View::table`]. An unsorted page is one walk over the rows; a sorted one is two: the first keeps a bounded key
/// of each matching row, the second makes the rows of the page.
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
            // The one case in which a row outside the page need not be made.
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

/// See [`View::each`].
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

/// Filters and sorts rows that are there already.
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

/// The place of the column with this name.
pub(crate) fn place_of(columns: &[Column], name: &str) -> Result<usize, QueryError> {
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        QueryError::UnknownColumn(name.to_owned(), names.join(", "))
    })
}

/// Equal keys keep the view's order in both directions; rows without a value come last in both.
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

/// The rows at these places, in this order.
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
