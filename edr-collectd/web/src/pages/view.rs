//! The views of a host: pages with one table each, and psad's page with several tables.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use edr_model::{AsOf, Select, SnapshotTable};

use crate::pages::host::{Found, Head, Tab, find, turn};
use crate::pages::psad::PsadPage;
use crate::parts::assets::Assets;
use crate::parts::filter::PageFilter;
use crate::parts::grid::{Body, Grid, Paging, grid};
use crate::parts::params::{Params, ROWS_DEFAULT};
use crate::parts::problem::Problem;
use crate::parts::shown::grouped;
use crate::parts::tabs::{PSAD, Page};
use crate::parts::when;
use crate::server::{Web, render};

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
    filter: PageFilter,
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
pub(crate) async fn view(
    State(web): State<Arc<Web>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path((host, slug)) = path.map_err(|_| Problem::no_such_page())?;
    let page = web.pages.find(&slug).ok_or_else(Problem::no_such_page)?;
    let params = Params::parse(query.as_deref())?;
    let turn = turn(&web, &host, params.at.as_ref()).await?;
    let place = web.work.place().await?;
    let found = find(&web, &host, params.at.as_ref(), &place).await?;
    match page {
        Page::Table(table) => {
            render(place, move || {
                let _turn = turn;
                ViewPage::new(table, &found, params)
            })
            .await
        }
        Page::Psad => {
            render(place, move || {
                let _turn = turn;
                let head = Head::new(&found, &params, &format!("/{PSAD}"), PSAD)?;
                let psad_pages = psad_pages(&found, &head, &params, PSAD);
                let psad = PsadPage::new(&found, &params, &head)?;
                Ok(PsadTemplate { assets: Assets, head, psad_pages, psad })
            })
            .await
        }
    }
}

impl ViewPage {
    fn new(shown: &'static SnapshotTable, found: &Found, params: Params) -> Result<Self, Problem> {
        let about = &shown.about;
        let tab = Page::Table(shown).tab();
        let head = Head::new(found, &params, &format!("/{}", about.slug), tab)?;
        let rows_default = about.top.map_or(ROWS_DEFAULT, |top| top.rows);
        let page_rows = params.rows.unwrap_or(rows_default);
        let filter = PageFilter::new(&params, &shown.columns());
        let mut select = Select {
            filter: filter.filter.clone(),
            sort: params.sort.clone(),
            descending: params.descending,
            page: params.page_index(),
            page_rows,
        };
        let mut table = shown.select(&found.snapshot, &select)?;
        let last = table.matched.div_ceil(page_rows).saturating_sub(1);
        if select.page > last {
            select.page = last;
            table = shown.select(&found.snapshot, &select)?;
        }
        let paging = Paging::new(
            &head.here,
            &params,
            filter.words.is_some(),
            [table.matched, table.total],
            rows_default,
            about.noun,
        );
        // The title "Top 50" is right only for the first page in the view's own order.
        let is_top = about.top.filter(|_| params.rows.is_none() && params.page <= 1 && params.sort.is_none());
        let all = is_top.filter(|top| table.matched > top.rows).map(|_| {
            let href = params.link(&head.here, |params| params.rows = Some(500));
            (href, format!("Show all {} {}", grouped(table.matched), about.noun))
        });
        let title = is_top.map_or(about.title, |top| top.title);
        let psad_pages = if tab == PSAD { psad_pages(found, &head, &params, about.slug) } else { Vec::new() };
        Ok(Self {
            assets: Assets,
            title,
            about: about.hint,
            as_of: AsOf::new(&found.snapshot)
                .oldest_ns()
                .and_then(|oldest_ns| Some((about.aged?, when::iso(oldest_ns), when::stamp(oldest_ns)))),
            psad_pages,
            grid: grid(title, table, &params, &head.base, &head.here),
            paging,
            filter,
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
pub(crate) fn psad_pages(found: &Found, head: &Head, params: &Params, current: &str) -> Vec<Tab> {
    let tables = found.pages.psad().map(|table| (table.about.slug, Page::Table(table).tab_title()));
    std::iter::once((PSAD, "All of it"))
        .chain(tables)
        .map(|(slug, title)| Tab {
            href: params.elsewhere(&format!("{}/{slug}", head.base)),
            title,
            current: slug == current,
        })
        .collect()
}
