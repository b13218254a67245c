//! The views of a host: pages with one table each, and psad's page with several tables.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;

use super::Web;
use super::assets::Assets;
use super::grid::{Body, Grid, Paging, grid};
use super::host::{Found, Head, Tab, find};
use super::pages::{PAGES, Page, page};
use super::params::{Params, ROWS_DEFAULT};
use super::problem::Problem;
use super::psad::PsadPage;
use super::shown::{Shown, grouped};
use super::when;
use crate::query::Answers;
use crate::query::table::{AsOf, Select, View};

#[derive(Template)]
#[template(path = "view.html")]
struct ViewPage {
    assets: Assets,
    head: Head,
    title: &'static str,
    about: &'static str,
    /// Kind of rows possibly older than the snapshot, with the earliest time of reading, for the machine and for the
    /// reader.
    as_of: Option<(&'static str, String, String)>,
    psad_pages: Vec<Tab>,
    grid: Grid,
    paging: Paging,
    filter: Shown,
    params: Params,
    /// Link to all columns, or back to the usual columns.
    columns_href: String,
    clear_href: String,
    /// Link from the top rows to all rows, with its text.
    all: Option<(String, String)>,
}

#[derive(Template)]
#[template(path = "psad.html")]
struct PsadTemplate {
    assets: Assets,
    head: Head,
    psad_pages: Vec<Tab>,
    psad: PsadPage,
}

/// Handles `/hosts/{host}/{view}`.
pub(super) async fn view<A: Answers + 'static>(
    State(web): State<Arc<Web<A>>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path((host, slug)) = path.map_err(|_| Problem::no_such_page())?;
    let page = page(&slug).ok_or_else(Problem::no_such_page)?;
    let params = Params::parse(query.as_deref())?;
    let place = web.work.place().await?;
    let found = find(&web, &host, params.at.as_ref(), &place).await?;
    match page.view {
        Some(view) => web.render(place, move || ViewPage::new(page, view, &found, params)).await,
        None => {
            web.render(place, move || {
                let head = Head::new(&found, &params, "/psad", "psad")?;
                let psad_pages = psad_pages(&head, &params, "psad");
                let psad = PsadPage::new(&found, &params, &head)?;
                Ok(PsadTemplate { assets: Assets, head, psad_pages, psad })
            })
            .await
        }
    }
}

impl ViewPage {
    fn new(page: &'static Page, view: View, found: &Found, params: Params) -> Result<Self, Problem> {
        let head = Head::new(found, &params, &format!("/{}", page.slug), page.tab)?;
        let rows_default = page.top.map_or(ROWS_DEFAULT, |(_, rows)| rows);
        let page_rows = params.rows.unwrap_or(rows_default);
        let mut select = Select {
            filter: params.filter.clone(),
            sort: params.sort.clone(),
            descending: params.descending,
            page: params.page_index(),
            page_rows,
        };
        let mut table = view.table(&found.snapshot, &select)?;
        let last = table.matched.div_ceil(page_rows).saturating_sub(1);
        if select.page > last {
            select.page = last;
            table = view.table(&found.snapshot, &select)?;
        }
        let paging = Paging::new(&head.here, &params, table.matched, table.total, rows_default, page.noun);
        // The title "Top 50" is right only for the first page in the view's own order.
        let is_top = page.top.filter(|_| params.rows.is_none() && params.page <= 1 && params.sort.is_none());
        let all = is_top.filter(|(_, rows)| table.matched > *rows).map(|_| {
            let href = params.link(&head.here, |params| params.rows = Some(500));
            (href, format!("Show all {} {}", grouped(table.matched), page.noun))
        });
        let title = is_top.map_or(page.title, |(title, _)| title);
        let psad_pages = if page.tab == "psad" { psad_pages(&head, &params, page.slug) } else { Vec::new() };
        Ok(Self {
            assets: Assets,
            title,
            about: about(view),
            as_of: AsOf::new(&found.snapshot)
                .oldest_ns()
                .and_then(|oldest_ns| Some((aged(view)?, when::iso(oldest_ns), when::stamp(oldest_ns)))),
            psad_pages,
            grid: grid(view, title, table, &params, &head.base, &head.here),
            paging,
            filter: Shown::of(params.filter.as_deref().unwrap_or_default()),
            columns_href: params.link(&head.here, |params| params.all_columns = !params.all_columns),
            clear_href: params.link(&head.here, |params| {
                params.filter = None;
                params.page = 0;
            }),
            all,
            params,
            head,
        })
    }
}

/// Returns the tabs of psad's pages.
pub(super) fn psad_pages(head: &Head, params: &Params, current: &str) -> Vec<Tab> {
    PAGES
        .iter()
        .filter(|page| page.tab == "psad")
        .map(|page| Tab {
            href: params.elsewhere(&format!("{}/{}", head.base, page.slug)),
            title: if page.slug == "psad" { "All of it" } else { page.tab_title },
            current: page.slug == current,
        })
        .collect()
}

/// Returns the kind of rows in a view that may be older than the snapshot.
fn aged(view: View) -> Option<&'static str> {
    match view {
        View::Processes => Some("Rows"),
        View::Files => Some("Files"),
        _ => None,
    }
}

/// Returns an explanation for reading the table correctly.
fn about(view: View) -> &'static str {
    match view {
        View::Processes => "Sampled: processes that live only between two snapshots are missing.",
        View::Files => "Every open file of every process. “deleted” marks a file without a name.",
        View::Sockets => {
            "By network namespace. A socket without an owner belongs to the kernel, or the owner could not be read."
        }
        View::Exposed => {
            "Sockets listening on scanned ports, as of this snapshot. A socket bound to 0.0.0.0 or :: listens on every address of its \
             network namespace."
        }
        View::Contacts => "Sockets connected to psad's attackers, as of this snapshot.",
        View::Sources => "By source and destination, as kept by psad.",
        View::Packets => "Firewall log lines since the previous snapshot.",
        View::Gaps => "Facts missing in this snapshot, with reasons.",
        View::TopSignatures | View::TopAttackers | View::TopPorts | View::PrefixCounters | View::ProtocolCounters => {
            "Counted by psad since psad's start."
        }
        View::Blocked => "Blocked by psad.",
    }
}
