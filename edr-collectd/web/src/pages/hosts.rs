//! The list of hosts.

use std::cmp::Ordering;
use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use edr_model::column::Values;
use edr_model::tables::HOSTS;
use edr_model::{Cell, Column, Filter, HostRow, Kind, OmittedFrames};

use crate::parts::assets::Assets;
use crate::parts::filter::PageFilter;
use crate::parts::grid::{Heading, Paging};
use crate::parts::params::{Params, ROWS_DEFAULT};
use crate::parts::problem::Problem;
use crate::parts::pulse::{Fresh, Pulse};
use crate::parts::shown::{Danger, Shown, grouped};
use crate::parts::when;
use crate::server::{Web, render};

#[derive(Template)]
#[template(path = "hosts.html")]
struct HostsPage {
    assets: Assets,
    headings: Vec<Heading>,
    rows: Vec<Row>,
    paging: Paging,
    chips: Vec<Chip>,
    filter: PageFilter,
    params: Params,
    /// True when no host has ever reported.
    none: bool,
    /// The failure that stops the collector from receiving or archiving, if any.
    trouble: Option<Shown>,
    /// What the list leaves out.
    left_out: Vec<String>,
}

/// A count with a link to a filter.
struct Chip {
    href: String,
    class: &'static str,
    label: &'static str,
    count: String,
    current: bool,
}

struct Row {
    href: String,
    id: String,
    short_id: String,
    name: Shown,
    /// The host that had the name first, when another one.
    name_of: Option<String>,
    os: Shown,
    fresh: Fresh,
    processes: String,
    files: String,
    sockets: String,
    danger: Danger,
    psad: Shown,
    psad_href: String,
    /// Number of missing frames and ticks; `None` when complete.
    missing: Option<String>,
    missing_words: String,
    degraded: Vec<Shown>,
    alarms: Vec<Shown>,
}

/// A host with values derived for the page.
struct Known {
    row: HostRow,
    pulse: Pulse,
}

/// Reasons shown per host.
const REASONS_MAX: usize = 20;

/// (name in the address, heading, numeric)
const COLUMNS: [(&str, &str, bool); 10] = [
    ("host", "Host", false),
    ("state", "State", false),
    ("seen", "Last snapshot", false),
    ("processes", "Processes", true),
    ("files", "Open files", true),
    ("sockets", "Sockets", true),
    ("danger", "Danger level", true),
    ("psad", "psad", false),
    ("missing", "Missing", true),
    ("degraded", "Alarms and limits", false),
];

/// Returns the columns of a filter: those of the catalogue, and the state by the collector's clock.
fn columns() -> Vec<Column> {
    let state = Column { values: Values::Words(&Pulse::STATES), ..Column::new(Kind::Text, "state", "State") };
    HOSTS.columns().into_iter().chain([state]).collect()
}

/// Handles `/`.
pub(crate) async fn hosts(State(web): State<Arc<Web>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let params = Params::parse(query.as_deref())?;
    if params.at.is_some() || params.at_refused.is_some() {
        return Err(Problem::bad_parameters(&[
            "at is valid only on the page of a host: open the host first".to_owned()
        ]));
    }
    let place = web.work.place().await?;
    let hosts = web.answers.hosts();
    let (trouble, omitted) = (web.answers.trouble(), web.answers.omitted());
    render(place, move || HostsPage::new(hosts, params, trouble, &omitted, when::now_ns())).await
}

impl HostsPage {
    fn new(
        hosts: Vec<HostRow>,
        params: Params,
        trouble: Option<String>,
        omitted: &OmittedFrames,
        now_ns: i64,
    ) -> Result<Self, Problem> {
        let total = hosts.len();
        let mut known: Vec<Known> = hosts.into_iter().map(|row| Known::new(row, now_ns)).collect();
        let chips = chips(&known, &params);
        let filter = PageFilter::new(&params, &columns());
        known.retain(|host| host.matches(&filter.filter));
        if let Some(sort) = &params.sort {
            let order = order(sort).ok_or_else(|| {
                let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
                Problem::bad_parameters(&[format!(
                    "there is no column {sort:?} to sort by: there are {}",
                    names.join(", ")
                )])
            })?;
            known.sort_by(|a, b| {
                let by_column = order(a, b);
                if params.descending { by_column.reverse() } else { by_column }
            });
        } else if params.descending {
            known.reverse();
        }
        let paging = Paging::new("/", &params, filter.words.is_some(), [known.len(), total], ROWS_DEFAULT, "hosts");
        let rows = known[paging.range()].iter().map(|host| host.shown(now_ns)).collect();
        let headings =
            COLUMNS.iter().map(|&(name, title, numeric)| Heading::new("/", &params, name, title, numeric)).collect();
        Ok(Self {
            assets: Assets,
            headings,
            rows,
            paging,
            chips,
            filter,
            params,
            none: total == 0,
            trouble: trouble.map(Shown::of),
            left_out: omitted.sentences(),
        })
    }
}

impl Known {
    fn new(row: HostRow, now_ns: i64) -> Self {
        let pulse = Pulse::of(row.received_ns, row.interval_ns, row.bye, now_ns);
        Self { pulse, row }
    }

    fn matches(&self, filter: &Filter) -> bool {
        let columns = columns();
        let account = &self.row.account;
        let mut is_match = false;
        HOSTS.rows(std::slice::from_ref(&self.row), &mut |cells| {
            is_match = filter.matches(&|place| match columns[place].name {
                "state" => Cell::Text(self.pulse.name().to_owned()),
                // The list shows the number, and the words on request.
                "missing" if !account.is_complete() => {
                    Cell::Text(format!("{} ({})", grouped(account.missing()), account.brief()))
                }
                _ => cells(place),
            });
        });
        is_match
    }

    fn shown(&self, now_ns: i64) -> Row {
        let row = &self.row;
        let id = row.host_id.to_string();
        Row {
            href: format!("/hosts/{id}"),
            psad_href: format!("/hosts/{id}/psad"),
            short_id: id.chars().take(8).collect(),
            id,
            name: Shown::of(if row.hostname.is_empty() { "(no name)" } else { &row.hostname }),
            name_of: row.name_of.map(|first| first.to_string()),
            os: Shown::of(&row.os),
            fresh: Fresh::new(row.captured_ns, row.received_ns, row.interval_ns, self.pulse, now_ns),
            processes: grouped(row.processes),
            files: grouped(row.files),
            sockets: grouped(row.sockets),
            danger: Danger::new(row.danger_level),
            psad: Shown::of(&row.psad),
            missing: (!row.account.is_complete()).then(|| grouped(row.account.missing())),
            missing_words: row.account.brief(),
            degraded: row.degraded.iter().take(REASONS_MAX).map(Shown::of).collect(),
            alarms: row.alarms.iter().map(Shown::of).collect(),
        }
    }
}

fn order(column: &str) -> Option<fn(&Known, &Known) -> Ordering> {
    Some(match column {
        "host" => |a, b| a.row.hostname.to_lowercase().cmp(&b.row.hostname.to_lowercase()),
        "os" => |a, b| a.row.os.cmp(&b.row.os),
        "state" => |a, b| a.pulse.name().cmp(b.pulse.name()),
        "seen" => |a, b| a.row.captured_ns.cmp(&b.row.captured_ns),
        "processes" => |a, b| a.row.processes.cmp(&b.row.processes),
        "files" => |a, b| a.row.files.cmp(&b.row.files),
        "sockets" => |a, b| a.row.sockets.cmp(&b.row.sockets),
        "danger" => |a, b| a.row.danger_level.cmp(&b.row.danger_level),
        "psad" => |a, b| a.row.psad.cmp(&b.row.psad),
        "missing" => |a, b| a.row.account.missing().cmp(&b.row.account.missing()),
        "degraded" => {
            |a, b| (a.row.alarms.len(), a.row.degraded.len()).cmp(&(b.row.alarms.len(), b.row.degraded.len()))
        }
        _ => return None,
    })
}

fn chips(known: &[Known], params: &Params) -> Vec<Chip> {
    let count = |wanted: fn(&Known) -> bool| known.iter().filter(|host| wanted(host)).count();
    let chip = |filter: Option<&str>, class: &'static str, label: &'static str, count: usize| Chip {
        href: params.link("/", |params| {
            params.filter = filter.map(str::to_owned);
            params.page = 0;
        }),
        class,
        label,
        count: grouped(count),
        current: params.filter.as_deref() == filter,
    };
    vec![
        chip(None, "", "hosts", known.len()),
        chip(Some("state:live"), "live", "live", count(|host| host.pulse == Pulse::Live)),
        chip(Some("state:silent"), "silent", "silent", count(|host| host.pulse == Pulse::Silent)),
        chip(Some("state:stopped"), "stopped", "stopped", count(|host| host.pulse == Pulse::Stopped)),
        chip(Some("missing!=complete"), "warn", "with losses", count(|host| !host.row.account.is_complete())),
        chip(Some("degraded:*"), "warn", "degraded", count(|host| !host.row.degraded.is_empty())),
        chip(Some("alarms:*"), "silent", "with an alarm", count(|host| !host.row.alarms.is_empty())),
    ]
}
