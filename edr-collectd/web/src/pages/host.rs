//! The pages of a host: the snapshot, and the head of each page.

use std::sync::Arc;

use edr_model::{HostRow, HostSnapshot};

use crate::pages::turn::Turn;
use crate::parts::params::{At, Params};
use crate::parts::problem::Problem;
use crate::parts::pulse::{Fresh, Pulse};
use crate::parts::shown::Shown;
use crate::parts::tabs::Pages;
use crate::parts::when;
use crate::server::Web;
use crate::server::events::version;
use crate::server::work::Place;

const SECOND_NS: i64 = 1_000_000_000;
/// Reasons, labels and costs shown per host.
pub(crate) const REASONS_MAX: usize = 100;

/// An entry of the navigation.
#[derive(Debug)]
pub(crate) struct Tab {
    pub(crate) href: String,
    pub(crate) title: &'static str,
    pub(crate) current: bool,
}

/// The banner of an earlier moment, with links to other moments and to now.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) asked: String,
    /// True for a moment in the future of the collector's clock.
    pub(crate) to_come: bool,
    pub(crate) before: String,
    pub(crate) now_href: String,
    pub(crate) steps: Vec<(String, &'static str)>,
}

/// The head of every page of a host.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) base: String,
    pub(crate) name: Shown,
    pub(crate) id: String,
    pub(crate) os: Shown,
    pub(crate) fresh: Fresh,
    pub(crate) degraded: Vec<Shown>,
    pub(crate) alarms: Vec<Shown>,
    pub(crate) tabs: Vec<Tab>,
    pub(crate) past: Option<Past>,
    /// Address of the live updates; `None` for an earlier moment.
    pub(crate) events: Option<String>,
    /// The moment, as text in the form field.
    pub(crate) at: Shown,
    /// Why the moment in the form field is not shown.
    pub(crate) at_problem: Option<Shown>,
    pub(crate) here: String,
    pub(crate) now_ns: i64,
}

impl Head {
    /// Makes the head. `here` is the path of this page, `tab` the slug of its tab.
    pub(crate) fn new(found: &Found, params: &Params, here: &str, tab: &str) -> Result<Self, Problem> {
        let Found { snapshot, row, now_ns, pages } = found;
        let host = snapshot.view.host().map_err(Problem::undecodable)?;
        let agent = snapshot.view.agent().map_err(Problem::undecodable)?;
        let id = snapshot.host_id.to_string();
        let base = format!("/hosts/{id}");
        let pulse = match &params.at {
            Some(_) => Pulse::Past,
            None => {
                let bye = row.as_ref().is_some_and(|row| row.bye && row.seq == snapshot.seq);
                Pulse::of(snapshot.received_ns, agent.interval_ns, bye, *now_ns)
            }
        };
        let here = format!("{base}{here}");
        let past = params.at.as_ref().map(|at| {
            let step = |seconds: i64| {
                let to = At::new(at.ns.saturating_add(seconds * SECOND_NS));
                params.link(&here, |params| params.at = Some(to))
            };
            Past {
                asked: when::stamp(at.ns),
                to_come: at.ns > *now_ns,
                before: when::span(at.ns.saturating_sub(snapshot.captured_ns)),
                now_href: params.link(&here, |params| params.at = None),
                steps: vec![
                    (step(-3_600), "1 h earlier"),
                    (step(-60), "1 min earlier"),
                    (step(60), "1 min later"),
                    (step(3_600), "1 h later"),
                ],
            }
        });
        let tabs = pages.tabs().map(|page| Tab {
            href: params.elsewhere(&format!("{base}/{}", page.slug())),
            title: page.tab_title(),
            current: page.slug() == tab,
        });
        let overview = Tab { href: params.elsewhere(&base), title: "Overview", current: tab.is_empty() };
        Ok(Self {
            tabs: std::iter::once(overview).chain(tabs).collect(),
            name: Shown::of(if host.hostname.is_empty() { "(no name)" } else { &host.hostname }),
            os: Shown::of(&host.os),
            fresh: Fresh::new(snapshot.captured_ns, snapshot.received_ns, agent.interval_ns, pulse, *now_ns),
            degraded: agent.degraded.iter().take(REASONS_MAX).map(Shown::of).collect(),
            alarms: row.iter().flat_map(|row| &row.alarms).chain(&snapshot.alarms).map(Shown::of).collect(),
            past,
            events: params.at.is_none().then(|| format!("/events?host={id}&version={}", version(snapshot))),
            at: match (&params.at, &params.at_refused) {
                (Some(at), _) => Shown::of(&at.text),
                (None, refused) => refused.as_ref().map(|(text, _)| Shown::of(text)).unwrap_or_default(),
            },
            at_problem: params.at_refused.as_ref().map(|(_, reason)| Shown::of(reason)),
            here,
            now_ns: *now_ns,
            base,
            id,
        })
    }
}

/// A host and the snapshot to show.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) snapshot: Arc<HostSnapshot>,
    /// Entry in the list of hosts; `None` for an earlier moment.
    pub(crate) row: Option<HostRow>,
    pub(crate) now_ns: i64,
    pub(crate) pages: Pages,
}

/// Waits for the turn of a request about a host. An unknown host needs no turn.
pub(crate) async fn turn(web: &Web, host: &str, at: Option<&At>) -> Result<Turn, Problem> {
    web.turns.turn(web.answers.host_id(host)?, at).await
}

/// Finds the host and the snapshot. The caller must hold a turn and a place.
pub(crate) async fn find(web: &Web, host: &str, at: Option<&At>, _place: &Place) -> Result<Found, Problem> {
    let snapshot = web.answers.snapshot(host, at.map(|at| at.ns)).await?;
    let row = match at {
        Some(_) => None,
        None => web.answers.host(snapshot.host_id),
    };
    Ok(Found { snapshot, row, now_ns: when::now_ns(), pages: web.pages })
}
