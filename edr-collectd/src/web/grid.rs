//! Tables on a page: headings that sort, formatted cells, links between views, paging.

use std::ops::Range;

use super::columns::usual_columns;
use super::params::{Params, ROWS_CHOICES};
use super::shown::{Danger, Shown, grouped, size};
use super::when;
use crate::query::table::{Cell, Column, Table, View};

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
pub(super) struct Heading {
    pub(super) title: String,
    pub(super) href: String,
    /// Value of `aria-sort`: `ascending` or `descending`.
    pub(super) sorted: Option<&'static str>,
    pub(super) numeric: bool,
    pub(super) class: &'static str,
}

impl Heading {
    /// Makes a heading. A click sorts, a second click reverses the order. Numbers begin with the largest.
    pub(super) fn new(path: &str, params: &Params, name: &str, title: &str, numeric: bool) -> Self {
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
pub(super) struct Paging {
    from: usize,
    to: usize,
    pub(super) matched: usize,
    pub(super) total: usize,
    pub(super) noun: &'static str,
    filtered: bool,
    pub(super) page: usize,
    pub(super) pages: usize,
    pub(super) first: Option<String>,
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
    pub(super) last: Option<String>,
    /// (rows, chosen)
    pub(super) choices: Vec<(usize, bool)>,
}

impl Paging {
    /// Makes the paging. A page beyond the last shows the last page, because rows can disappear between two requests.
    pub(super) fn new(
        path: &str,
        params: &Params,
        matched: usize,
        total: usize,
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
            filtered: params.filter.is_some(),
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
    pub(super) fn range(&self) -> Range<usize> {
        self.from..self.to
    }

    /// Returns a text like `50 of 1,234 processes (filter matches 200)`.
    pub(super) fn sentence(&self) -> String {
        let shown = grouped(self.to - self.from);
        let total = grouped(self.total);
        let mut text = format!("{shown} of {total} {}", self.noun);
        if self.filtered {
            text.push_str(&format!(" (filter matches {})", grouped(self.matched)));
        }
        text
    }

    /// Returns a text like `rows 51–100` when there are several pages.
    pub(super) fn rows(&self) -> Option<String> {
        (self.pages > 1).then(|| format!("rows {}–{}", grouped(self.from + 1), grouped(self.to)))
    }
}

/// A table.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) caption: &'static str,
    pub(super) headings: Vec<Heading>,
    pub(super) rows: Vec<Row>,
    pub(super) undecodable: usize,
    /// Number of columns that are not shown.
    pub(super) hidden: usize,
}

#[derive(Debug)]
pub(super) struct Row {
    /// Key of the row, equal in later snapshots: live updates keep the row's place and selection.
    pub(super) key: Shown,
    pub(super) cells: Vec<GridCell>,
}

#[derive(Debug)]
pub(super) struct GridCell {
    pub(super) class: &'static str,
    pub(super) body: Body,
    /// A mark beside the value.
    pub(super) tag: Option<Shown>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Body {
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

/// Format of a column.
#[derive(Clone, Copy, PartialEq)]
enum Face {
    Plain,
    /// A count, with grouped digits.
    Count,
    /// A link to another view, with a filter for this value in the named column.
    Leads(&'static str, &'static str),
    Danger,
    /// Uses the remaining width.
    Wide,
    /// Uses the remaining width, in a monospaced font: paths and command lines.
    WidePath,
}

fn face(view: View, column: &str) -> Face {
    match (view, column) {
        (View::Processes, "pid") => Face::Leads("files", "pid"),
        (View::Processes, "ppid") | (View::Files | View::Gaps, "pid") | (View::Sockets, "pids") => {
            Face::Leads("processes", "pid")
        }
        (View::Exposed | View::Contacts, "pid") | (View::TopPorts, "pids") => Face::Leads("processes", "pid"),
        (View::Exposed, "port") | (View::Contacts, "local_port") => Face::Leads("sockets", "local_port"),
        (View::Contacts, "ip") => Face::Leads("sources", "ip"),
        (View::Exposed | View::Contacts, "inode") => Face::Leads("files", "inode"),
        (View::Sockets, "inode") => Face::Leads("files", "inode"),
        (View::Sockets, "peer_inode") => Face::Leads("sockets", "inode"),
        (View::TopAttackers, "ip") | (View::Packets, "src") => Face::Leads("sources", "ip"),
        (View::Sources, "ip") | (View::Blocked, "address") => Face::Leads("packets", "src"),
        (View::TopSignatures | View::Sources, "sid") => Face::Leads("sources", "sid"),
        (_, "danger_level") => Face::Danger,
        (_, "argv" | "exe" | "path" | "cwd" | "raw") => Face::WidePath,
        (_, "msg" | "detail" | "field") => Face::Wide,
        (
            _,
            "packets" | "matches" | "sources" | "attackers" | "count" | "threads" | "emails" | "files_total"
            | "unique_signatures" | "signature_matches" | "repeated" | "receive_queue" | "send_queue" | "offset",
        ) => Face::Count,
        _ => Face::Plain,
    }
}

/// Makes the grid of a table. `base` is the address of the host, `path` the address of this view.
pub(super) fn grid(view: View, caption: &'static str, table: Table, params: &Params, base: &str, path: &str) -> Grid {
    let usual = usual_columns(view);
    let place = |name: &str| table.columns.iter().position(|column| column.name == name);
    let tags = Tags { deleted: place("deleted"), exe_state: place("exe_state"), pid: place("pid") };
    let mut order: Vec<usize> = if params.all_columns || usual.is_empty() {
        (0..table.columns.len()).collect()
    } else {
        usual.iter().filter_map(|name| place(name)).collect()
    };
    if order.is_empty() {
        order = (0..table.columns.len()).collect();
    }
    let headings = order
        .iter()
        .map(|&i| {
            let column = &table.columns[i];
            let times = table.rows.iter().any(|row| matches!(row.get(i), Some(Cell::Time(_))));
            let title = if times { format!("{} (UTC)", column.title) } else { column.title.to_owned() };
            let mut heading = Heading::new(path, params, column.name, &title, column.numeric);
            heading.class = class(face(view, column.name), column.numeric);
            heading
        })
        .collect();
    let links = Links { view, params, base };
    let rows = table
        .rows
        .iter()
        .map(|row| {
            let cells = order
                .iter()
                .map(|&i| {
                    let column = &table.columns[i];
                    let mut cell = links.cell(column, row.get(i).unwrap_or(&Cell::Empty));
                    cell.tag = tags.of(view, column.name, row);
                    cell
                })
                .collect();
            Row { key: key(view, &table.columns, row), cells }
        })
        .collect();
    Grid { caption, headings, rows, undecodable: table.undecodable, hidden: table.columns.len() - order.len() }
}

/// Indexes of the columns with marks: a mark stands beside a value and changes the meaning of the value.
struct Tags {
    deleted: Option<usize>,
    exe_state: Option<usize>,
    pid: Option<usize>,
}

impl Tags {
    fn of(&self, view: View, column: &str, row: &[Cell]) -> Option<Shown> {
        let cell = |place: Option<usize>| place.and_then(|i| row.get(i));
        match (view, column) {
            (View::Files, "path") if cell(self.deleted) == Some(&Cell::Flag(true)) => Some(Shown::of("deleted")),
            (View::Exposed | View::Contacts, "comm") if cell(self.pid) == Some(&Cell::Empty) => {
                Some(Shown::of("owner not seen"))
            }
            (View::Processes, "argv" | "exe") => {
                cell(self.exe_state).map(Shown::from).filter(|state| !state.is_empty())
            }
            _ => None,
        }
    }
}

/// Returns the key that identifies a row within its view.
fn key(view: View, columns: &[Column], row: &[Cell]) -> Shown {
    let names: &[&str] = match view {
        View::Processes => &["pid", "start_ticks"],
        View::Files => &["pid", "fd"],
        View::Sockets => &["inode", "local", "local_port", "remote", "remote_port"],
        View::Exposed => &["protocol", "port", "local", "netns", "inode", "pid"],
        View::Contacts => &["ip", "protocol", "local", "local_port", "remote_port", "inode", "pid"],
        View::TopSignatures => &["sid"],
        View::TopAttackers => &["ip"],
        View::TopPorts => &["protocol", "port"],
        View::PrefixCounters => &["prefix"],
        View::ProtocolCounters => &["protocol"],
        View::Blocked => &["address"],
        View::Sources | View::Packets | View::Gaps => return Shown::default(),
    };
    let mut key = String::new();
    for name in names {
        if let Some(cell) = columns.iter().position(|column| column.name == *name).and_then(|i| row.get(i)) {
            key.push_str(&cell.text_within(KEY_BYTES_MAX));
            key.push(' ');
        }
    }
    Shown::of(key.trim_end())
}

fn class(face: Face, numeric: bool) -> &'static str {
    match face {
        Face::WidePath => "wide path",
        Face::Wide => "wide",
        _ if numeric => "num",
        _ => "",
    }
}

/// Makes the cells for a view of a host.
struct Links<'a> {
    view: View,
    params: &'a Params,
    base: &'a str,
}

impl Links<'_> {
    fn cell(&self, column: &Column, cell: &Cell) -> GridCell {
        let face = face(self.view, column.name);
        let body = match (face, cell) {
            (_, Cell::Empty | Cell::Flag(false)) => Body::Empty,
            (_, Cell::Flag(true)) => Body::Yes,
            (Face::Danger, Cell::Number(level)) => Body::Danger(Danger::new(u8::try_from(*level).unwrap_or(0))),
            (Face::Count, Cell::Number(count)) => Body::Text(Shown::of(grouped(*count))),
            (Face::Leads(slug, by), _) => self.leads(slug, by, cell),
            (_, Cell::Size(bytes)) => Body::Size { text: size(*bytes), exact: grouped(*bytes) },
            (_, Cell::Time(ns)) => time(*ns),
            _ => text(Shown::from(cell)),
        };
        GridCell { class: class(face, column.numeric), body, tag: None }
    }

    fn leads(&self, slug: &str, by: &str, cell: &Cell) -> Body {
        let path = format!("{}/{slug}", self.base);
        let link = |value: &str| (self.params.elsewhere_filtered(&path, format!("{by}:{value}")), Shown::of(value));
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
                let href = self.params.elsewhere_filtered(&path, format!("{by}:{shown}"));
                Body::Link { href, text: shown }
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
        let paging = Paging::new("/p", &params, 120, 1_234, 100, "processes");
        assert_eq!(paging.sentence(), "50 of 1,234 processes (filter matches 120)");
        assert_eq!(paging.rows().as_deref(), Some("rows 51–100"));
        assert_eq!(paging.next.as_deref(), Some("/p?filter=a&page=3&rows=50"));
        assert_eq!(paging.previous.as_deref(), Some("/p?filter=a&rows=50"));
        let beyond = Paging::new("/p", &Params::parse(Some("page=4000000000")).unwrap(), 120, 120, 100, "rows");
        assert_eq!((beyond.range(), beyond.page, beyond.next), (100..120, 2, None));
        let empty = Paging::new("/p", &params, 0, 0, 100, "rows");
        assert_eq!((empty.range(), empty.pages, empty.rows()), (0..0, 1, None));
    }
}
