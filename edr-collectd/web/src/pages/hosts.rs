//! The list of hosts.

use std::cmp::Ordering;
use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use edr_model::{HostRow, OmittedFrames};

use crate::parts::assets::Assets;
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
    filter: Shown,
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
    /// Texts for the filter, by column, in lower case.
    texts: Vec<(&'static str, String)>,
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

/// Handles `/`.
pub(crate) async fn hosts(State(web): State<Arc<Web>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let params = Params::parse(query.as_deref())?;
    if params.at.is_some() {
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
        if let Some(filter) = &params.filter {
            let wanted = filter.to_lowercase();
            known.retain(|host| host.matches(&wanted));
        }
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
        let paging = Paging::new("/", &params, known.len(), total, ROWS_DEFAULT, "hosts");
        let rows = known[paging.range()].iter().map(|host| host.shown(now_ns)).collect();
        let headings =
            COLUMNS.iter().map(|&(name, title, numeric)| Heading::new("/", &params, name, title, numeric)).collect();
        let filter = Shown::of(params.filter.as_deref().unwrap_or_default());
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
        let texts = [
            ("host", row.hostname.to_lowercase()),
            ("id", row.host_id.to_string()),
            ("os", row.os.to_lowercase()),
            ("state", pulse.name().to_owned()),
            ("danger", row.danger_level.to_string()),
            ("psad", row.psad.to_lowercase()),
            ("missing", if row.account.is_complete() { String::new() } else { row.account.brief() }),
            ("degraded", row.degraded.join("; ").to_lowercase()),
            ("alarm", row.alarms.join("; ").to_lowercase()),
        ];
        Self { pulse, texts: texts.into(), row }
    }

    fn matches(&self, wanted: &str) -> bool {
        if let Some((column, text)) = wanted.split_once(':')
            && self.texts.iter().any(|(name, _)| *name == column)
        {
            // `degraded:` alone matches any reason.
            return self.texts.iter().any(|(name, value)| {
                *name == column && if text.is_empty() { !value.is_empty() } else { value.contains(text) }
            });
        }
        self.texts.iter().any(|(_, value)| value.contains(wanted))
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
        "host" => |a, b| a.texts[0].1.cmp(&b.texts[0].1),
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
        chip(Some("missing:"), "warn", "with losses", count(|host| !host.row.account.is_complete())),
        chip(Some("degraded:"), "warn", "degraded", count(|host| !host.row.degraded.is_empty())),
        chip(Some("alarm:"), "silent", "with an alarm", count(|host| !host.row.alarms.is_empty())),
    ]
}
