//! Tables on a page: headings that sort, formatted cells, links between views, paging.

use std::ops::Range;

use edr_model::catalogue::{find, usual};
use edr_model::column::{Link, Look, Mark};
use edr_model::select::place_of;
use edr_model::tables::TABLES;
use edr_model::{Cell, Column, Kind, Selection};

use crate::parts::params::{Params, ROWS_CHOICES};
use crate::parts::shown::{Danger, Shown, grouped, size};
use crate::parts::when;

/// Longest text, in characters, that is shown in full; longer text is clipped to one line until opened.
const CLIP_CHARS: usize = 48;

/// Bytes of a value in a row's key.
const KEY_BYTES_MAX: usize = 1 << 10;
/// Links per cell: a forking server shares its socket with hundreds of children.
const LINKS_MAX: usize = 3;
/// Longest text, in characters, that becomes a link to a filter for this text.
const LINK_CHARS_MAX: usize = 64;

/// A column's heading.
#[derive(Debug)]
pub(crate) struct Heading {
    pub(crate) title: String,
    pub(crate) href: String,
    /// Value of `aria-sort`: `ascending` or `descending`.
    pub(crate) sorted: Option<&'static str>,
    pub(crate) numeric: bool,
    pub(crate) class: &'static str,
}

impl Heading {
    /// Makes a heading. A click sorts, a second click reverses the order. Numbers begin with the largest.
    pub(crate) fn new(path: &str, params: &Params, name: &str, title: &str, numeric: bool) -> Self {
        let current = params.sort.as_deref() == Some(name);
        let descending = if current { !params.descending } else { numeric };
        Self {
            title: title.to_owned(),
            href: params.link(path, |params| {
                params.sort = Some(name.to_owned());
                params.descending = descending;
                params.page = 0;
            }),
            sorted: current.then_some(if params.descending { "descending" } else { "ascending" }),
            numeric,
            class: "",
        }
    }
}

/// The rows that a page shows, their number, and links to other pages.
#[derive(Debug)]
pub(crate) struct Paging {
    from: usize,
    to: usize,
    pub(crate) matched: usize,
    pub(crate) total: usize,
    pub(crate) noun: &'static str,
    filtered: bool,
    pub(crate) page: usize,
    pub(crate) pages: usize,
    pub(crate) first: Option<String>,
    pub(crate) previous: Option<String>,
    pub(crate) next: Option<String>,
    pub(crate) last: Option<String>,
    /// (rows, chosen)
    pub(crate) choices: Vec<(usize, bool)>,
}

impl Paging {
    /// Makes the paging. A page beyond the last shows the last page, because rows can disappear between two requests.
    pub(crate) fn new(
        path: &str,
        params: &Params,
        filtered: bool,
        [matched, total]: [usize; 2],
        rows_default: usize,
        noun: &'static str,
    ) -> Self {
        let rows = params.rows.unwrap_or(rows_default).max(1);
        let pages = matched.div_ceil(rows).max(1);
        let page = params.page_index().min(pages - 1);
        let to_page = |wanted: usize| Some(params.link(path, |params| params.page = wanted + 1));
        let from = (page * rows).min(matched);
        Self {
            from,
            to: (from + rows).min(matched),
            matched,
            total,
            noun,
            filtered,
            page: page + 1,
            pages,
            first: if page > 0 { to_page(0) } else { None },
            previous: if page > 0 { to_page(page - 1) } else { None },
            next: if page + 1 < pages { to_page(page + 1) } else { None },
            last: if page + 1 < pages { to_page(pages - 1) } else { None },
            choices: ROWS_CHOICES.iter().map(|&choice| (choice, choice == rows)).collect(),
        }
    }

    /// Returns the range of this page among the matching rows.
    pub(crate) fn range(&self) -> Range<usize> {
        self.from..self.to
    }

    /// Returns a text like `50 of 1,234 processes (filter matches 200)`.
    pub(crate) fn sentence(&self) -> String {
        let shown = grouped(self.to - self.from);
        let total = grouped(self.total);
        let mut text = format!("{shown} of {total} {}", self.noun);
        if self.filtered {
            text.push_str(&format!(" (filter matches {})", grouped(self.matched)));
        }
        text
    }

    /// Returns a text like `rows 51–100` when there are several pages.
    pub(crate) fn rows(&self) -> Option<String> {
        (self.pages > 1).then(|| format!("rows {}–{}", grouped(self.from + 1), grouped(self.to)))
    }
}

/// A table.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) caption: &'static str,
    pub(crate) headings: Vec<Heading>,
    pub(crate) rows: Vec<Row>,
    pub(crate) undecodable: usize,
    /// Number of columns that are not shown.
    pub(crate) hidden: usize,
}

#[derive(Debug)]
pub(crate) struct Row {
    /// Key of the row, equal in later snapshots: live updates keep the row's place and selection.
    pub(crate) key: Shown,
    pub(crate) cells: Vec<GridCell>,
}

#[derive(Debug)]
pub(crate) struct GridCell {
    pub(crate) class: &'static str,
    pub(crate) body: Body,
    /// A mark beside the value.
    pub(crate) tag: Option<Shown>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Body {
    Empty,
    Text(Shown),
    /// Clipped to one line until opened.
    Long(Shown),
    Link {
        href: String,
        text: Shown,
    },
    /// Several links, and the number of further values.
    Links {
        links: Vec<(String, Shown)>,
        more: usize,
    },
    Size {
        text: String,
        exact: String,
    },
    Time {
        iso: String,
        text: String,
    },
    Yes,
    Danger(Danger),
}

/// Makes the grid of a table's rows. `base` is the address of the host, `path` the address of the table.
pub(crate) fn grid(caption: &'static str, table: Selection, params: &Params, base: &str, path: &str) -> Grid {
    let Selection { columns, rows, undecodable, .. } = table;
    let shown: Vec<usize> =
        if params.all_columns { (0..columns.len()).collect() } else { usual(&columns, |column| column.on_page) };
    let headings = shown
        .iter()
        .map(|&at| {
            let column = &columns[at];
            let times = rows.iter().any(|row| matches!(row.get(at), Some(Cell::Time(_))));
            let title = if times { format!("{} (UTC)", column.title) } else { column.title.to_owned() };
            let mut heading = Heading::new(path, params, column.name, &title, column.kind.is_numeric());
            heading.class = class(column);
            heading
        })
        .collect();
    let faces: Vec<Face<'_>> = shown.iter().map(|&at| Face::new(&columns, at)).collect();
    let links = Links { params, base };
    let rows = rows
        .iter()
        .map(|row| Row { key: key(&columns, row), cells: faces.iter().map(|face| face.cell(row, &links)).collect() })
        .collect();
    Grid { caption, headings, rows, undecodable, hidden: columns.len() - shown.len() }
}

/// Returns the text that identifies a row within its table: the key fields.
fn key(columns: &[Column], row: &[Cell]) -> Shown {
    let mut key = String::new();
    for (_, cell) in columns.iter().zip(row).filter(|(column, _)| column.is_key) {
        key.push_str(&cell.text_within(KEY_BYTES_MAX));
        key.push(' ');
    }
    Shown::of(key.trim_end())
}

fn class(column: &Column) -> &'static str {
    match column.look {
        Look::Code => "wide path",
        Look::Wide => "wide",
        Look::Plain if column.kind.is_numeric() => "num",
        Look::Plain => "",
    }
}

/// A shown column.
struct Face<'a> {
    column: &'a Column,
    /// Index of the column.
    at: usize,
    /// The mark, with the index of the column that decides.
    mark: Option<(Mark, usize)>,
}

impl<'a> Face<'a> {
    fn new(columns: &'a [Column], at: usize) -> Self {
        let column = &columns[at];
        let mark = column.mark.and_then(|mark| Some((mark, place_of(columns, mark.field()).ok()?)));
        Self { column, at, mark }
    }

    fn cell(&self, row: &[Cell], links: &Links<'_>) -> GridCell {
        let cell = row.get(self.at).unwrap_or(&Cell::Empty);
        let tag = self.mark.and_then(|(mark, decides)| match (mark, row.get(decides)?) {
            (Mark::Text { .. }, text) => Some(Shown::from(text)).filter(|text| !text.is_empty()),
            (Mark::True { text, .. }, Cell::Flag(true)) | (Mark::Empty { text, .. }, Cell::Empty) => {
                Some(Shown::of(text))
            }
            _ => None,
        });
        GridCell { class: class(self.column), body: self.body(cell, links), tag }
    }

    fn body(&self, cell: &Cell, links: &Links<'_>) -> Body {
        match (cell, self.column.link) {
            (Cell::Empty | Cell::Flag(false), _) => Body::Empty,
            (Cell::Flag(true), _) => Body::Yes,
            (Cell::Number(level), _) if self.column.kind == Kind::DangerLevel => {
                Body::Danger(Danger::new(u8::try_from(*level).unwrap_or(0)))
            }
            (_, Some(link)) => links.body(link, cell),
            // A number with a unit is an amount, a number without is an id.
            (Cell::Number(amount), None) if !self.column.unit.is_empty() => Body::Text(Shown::of(grouped(*amount))),
            (Cell::Size(bytes), None) => Body::Size { text: size(*bytes), exact: grouped(*bytes) },
            (Cell::Time(ns), None) => time(*ns),
            (_, None) => text(Shown::from(cell)),
        }
    }
}

/// Makes links to other tables of a host.
struct Links<'a> {
    params: &'a Params,
    base: &'a str,
}

impl Links<'_> {
    fn body(&self, Link { slug, field }: Link, cell: &Cell) -> Body {
        let path = format!("{}/{slug}", self.base);
        let link = |value: &str| (self.params.elsewhere_filtered(&path, format!("{field}:{value}")), Shown::of(value));
        match cell {
            Cell::Number(0) => Body::Text(Shown::of("0")),
            Cell::Numbers(numbers) => Body::Links {
                links: numbers.iter().take(LINKS_MAX).map(|number| link(&number.to_string())).collect(),
                more: numbers.len().saturating_sub(LINKS_MAX),
            },
            _ => {
                let shown = Shown::from(cell);
                if shown.len() > LINK_CHARS_MAX {
                    return text(shown);
                }
                // Without a filter that finds the text, such as for an address that is none, the text is no link.
                match find(&TABLES, slug)
                    .map_or_else(|| Some(format!("{field}:{shown}")), |to| to.condition(field, &shown.to_string()))
                {
                    Some(filter) => Body::Link { href: self.params.elsewhere_filtered(&path, filter), text: shown },
                    None => text(shown),
                }
            }
        }
    }
}

fn text(shown: Shown) -> Body {
    if shown.is_empty() {
        Body::Empty
    } else if shown.len() > CLIP_CHARS {
        Body::Long(shown)
    } else {
        Body::Text(shown)
    }
}

fn time(ns: i64) -> Body {
    Body::Time { iso: when::iso(ns), text: when::date_and_clock(ns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_turns_its_order_round_and_keeps_the_rest() {
        let params = Params::parse(Some("filter=a&sort=rss&desc=1&page=3&rows=50")).unwrap();
        let heading = Heading::new("/p", &params, "rss", "RSS", true);
        assert_eq!((heading.href.as_str(), heading.sorted), ("/p?filter=a&sort=rss&rows=50", Some("descending")));
        let other = Heading::new("/p", &params, "pid", "PID", true);
        assert_eq!((other.href.as_str(), other.sorted), ("/p?filter=a&sort=pid&desc=1&rows=50", None));
    }

    #[test]
    fn paging_counts_shown_matching_and_all_rows() {
        let params = Params::parse(Some("filter=a&page=2&rows=50")).unwrap();
        let paging = Paging::new("/p", &params, true, [120, 1_234], 100, "processes");
        assert_eq!(paging.sentence(), "50 of 1,234 processes (filter matches 120)");
        assert_eq!(paging.rows().as_deref(), Some("rows 51–100"));
        assert_eq!(paging.next.as_deref(), Some("/p?filter=a&page=3&rows=50"));
        assert_eq!(paging.previous.as_deref(), Some("/p?filter=a&rows=50"));
        let beyond =
            Paging::new("/p", &Params::parse(Some("page=4000000000")).unwrap(), false, [120, 120], 100, "rows");
        assert_eq!((beyond.range(), beyond.page, beyond.next), (100..120, 2, None));
        let empty = Paging::new("/p", &params, true, [0, 0], 100, "rows");
        assert_eq!((empty.range(), empty.pages, empty.rows()), (0..0, 1, None));
    }
}
