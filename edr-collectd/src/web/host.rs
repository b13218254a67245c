//! One host: what stands above all its pages, and its overview.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use edr_wire::limits::INTERVAL_NS_MAX;
use edr_wire::snapshot::{Agent, FileKind, GapReason, Host, PsadMode, Time};

use super::assets::Assets;
use super::params::{At, Params};
use super::problem::Problem;
use super::shown::{Danger, Shown, grouped, size};
use super::view::{PAGES, Page};
use super::work::Place;
use super::{Web, version, when};
use crate::query::{Answers, HostRow, HostSnapshot};

const SECOND_NS: i64 = 1_000_000_000;
/// Reasons, labels and costs that a page shows of one host.
const REASONS_MAX: usize = 100;
/// Kinds of gaps the overview lists.
const GAP_LINES_MAX: usize = 40;

/// How a host is, as far as the collector can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Its snapshots arrive.
    Live,
    /// None arrived for three intervals: host, agent, network or broker.
    Silent,
    /// Its agent was stopped in order and said so.
    Stopped,
    /// An earlier moment, as asked for.
    Past,
}

impl Pulse {
    /// The pulse of a newest snapshot.
    pub(super) fn of(received_ns: i64, interval_ns: u64, bye: bool, now_ns: i64) -> Self {
        if bye {
            Self::Stopped
        } else if now_ns.saturating_sub(received_ns) > silent_after_ns(interval_ns) {
            Self::Silent
        } else {
            Self::Live
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Past => "past",
        }
    }

    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Live => "its snapshots arrive",
            Self::Silent => "no snapshot arrived for three intervals",
            Self::Stopped => "its agent was stopped and said goodbye",
            Self::Past => "an earlier moment",
        }
    }
}

/// Three intervals without a snapshot, never under 30 s and never over three hours, whatever the host says.
pub(super) fn silent_after_ns(interval_ns: u64) -> i64 {
    (believed_ns(interval_ns) * 3).max(30 * SECOND_NS)
}

/// An interval that an agent may have.
fn believed_ns(interval_ns: u64) -> i64 {
    i64::try_from(interval_ns.min(INTERVAL_NS_MAX)).unwrap_or(i64::MAX / 4)
}

/// "as of 03:12:40 UTC, 4 s ago".
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) pulse: Pulse,
    pub(super) iso: String,
    pub(super) clock: String,
    pub(super) age: String,
    pub(super) age_ms: i64,
    pub(super) silent_after_ms: i64,
    /// What the two clocks say about each other, when that matters.
    pub(super) note: Option<String>,
}

impl Fresh {
    pub(super) fn new(captured_ns: i64, received_ns: i64, interval_ns: u64, pulse: Pulse, now_ns: i64) -> Self {
        let tolerated_ns = believed_ns(interval_ns).max(10 * SECOND_NS);
        let on_the_way_ns = received_ns.saturating_sub(captured_ns);
        let note = if interval_ns > INTERVAL_NS_MAX {
            Some("its agent claims an interval that no agent has; it is taken for one of an hour".to_owned())
        } else if on_the_way_ns > tolerated_ns {
            Some(format!(
                "arrived {} after it was taken: it waited on the way, or the host's clock is behind",
                when::span(on_the_way_ns)
            ))
        } else if on_the_way_ns < -2 * SECOND_NS {
            Some(format!("the host's clock is {} ahead of the collector's", when::span(on_the_way_ns)))
        } else {
            None
        };
        // A capture "in the future" has no age of its own; its arrival has.
        let since_ns = if on_the_way_ns < 0 { received_ns } else { captured_ns };
        let age_ns = now_ns.saturating_sub(since_ns).max(0);
        Self {
            pulse,
            iso: when::iso(captured_ns),
            clock: when::clock(captured_ns, now_ns),
            age: when::span(age_ns),
            age_ms: age_ns / 1_000_000,
            silent_after_ms: silent_after_ns(interval_ns) / 1_000_000,
            note,
        }
    }
}

/// One entry of the navigation.
#[derive(Debug)]
pub(super) struct Tab {
    pub(super) href: String,
    pub(super) title: &'static str,
    pub(super) current: bool,
}

/// The banner of an earlier moment, and the way back.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) asked: String,
    /// By the collector's clock.
    pub(super) to_come: bool,
    pub(super) before: String,
    pub(super) now_href: String,
    pub(super) steps: Vec<(String, &'static str)>,
}

/// What stands above every page of a host.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) base: String,
    pub(super) name: Shown,
    pub(super) id: String,
    pub(super) os: Shown,
    pub(super) fresh: Fresh,
    pub(super) degraded: Vec<Shown>,
    pub(super) alarms: Vec<Shown>,
    pub(super) tabs: Vec<Tab>,
    pub(super) past: Option<Past>,
    /// Where live updates come from; none for an earlier moment.
    pub(super) events: Option<String>,
    /// The moment in the form field.
    pub(super) at: String,
    pub(super) here: String,
    pub(super) now_ns: i64,
}

impl Head {
    /// `here` is the path of this page, `tab` the slug of its tab.
    pub(super) fn new(found: &Found, params: &Params, here: &str, tab: &str) -> Result<Self, Problem> {
        let Found { snapshot, row, now_ns } = found;
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
        let tabs = PAGES.iter().filter(|page| page.tab == page.slug).map(|page| Tab {
            href: params.elsewhere(&format!("{base}/{}", page.slug)),
            title: page.tab_title,
            current: page.slug == tab,
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
            at: params.at.as_ref().map(|at| at.text.clone()).unwrap_or_default(),
            here,
            now_ns: *now_ns,
            base,
            id,
        })
    }
}

/// A host and the snapshot to show.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) snapshot: Arc<HostSnapshot>,
    /// Its row in the list of hosts; none for an earlier moment.
    pub(super) row: Option<HostRow>,
    pub(super) now_ns: i64,
}

/// Looks the host up, on a place that is had already.
pub(super) async fn find<A: Answers>(
    web: &Web<A>,
    host: &str,
    at: Option<&At>,
    _place: &Place,
) -> Result<Found, Problem> {
    let snapshot = web.answers.snapshot(host, at.map(|at| at.ns)).await?;
    let row = match at {
        Some(_) => None,
        None => web.answers.host(snapshot.host_id).await?,
    };
    Ok(Found { snapshot, row, now_ns: when::now_ns() })
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    assets: Assets,
    head: Head,
    facts: Facts,
}

/// What the overview shows.
struct Facts {
    host: Host,
    agent: Agent,
    time: Time,
    epoch: String,
    seq: String,
    received: (String, String),
    boot_time: (String, String),
    uptime: String,
    labels: Vec<(Shown, Shown)>,
    counts: Vec<Count>,
    loads: [String; 3],
    memory_used: u64,
    costs: Vec<Cost>,
    gaps: Vec<GapLine>,
    gaps_href: String,
    reread_s: Option<u64>,
    psad: PsadLine,
}

/// A figure that leads to its view.
struct Count {
    href: String,
    title: &'static str,
    figure: String,
    note: String,
}

struct Cost {
    source: Shown,
    cpu: String,
    wall: String,
    produced: String,
    calls: String,
    read: String,
}

struct GapLine {
    source: Shown,
    reason: &'static str,
    count: String,
}

struct PsadLine {
    href: String,
    mode: &'static str,
    state: &'static str,
    absent: bool,
    danger: Danger,
    attackers: String,
    fresh: Option<(String, String)>,
}

/// `/hosts/{host}`.
pub(super) async fn overview<A: Answers + 'static>(
    State(web): State<Arc<Web<A>>>,
    host: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path(host) = host.map_err(|_| Problem::no_such_page())?;
    let params = Params::parse(query.as_deref())?;
    let place = web.work.place().await?;
    let found = find(&web, &host, params.at.as_ref(), &place).await?;
    web.render(place, move || {
        let head = Head::new(&found, &params, "", "")?;
        let facts = Facts::new(&found, &params, &head)?;
        Ok(Overview { assets: Assets, head, facts })
    })
    .await
}

impl Facts {
    fn new(found: &Found, params: &Params, head: &Head) -> Result<Self, Problem> {
        let view = &found.snapshot.view;
        let host = view.host().map_err(Problem::undecodable)?;
        let agent = view.agent().map_err(Problem::undecodable)?;
        let time = view.time().map_err(Problem::undecodable)?;
        let psad = view.psad().map_err(Problem::undecodable)?;
        let reread = view.reread().map_err(Problem::undecodable)?;
        let packets = view.packets().map_err(Problem::undecodable)?.len();
        let tally = Tally::of(found);
        let link = |slug: &str| params.elsewhere(&format!("{}/{slug}", head.base));
        let counts = vec![
            Count {
                href: link("processes"),
                title: "processes",
                figure: grouped(view.process_count()),
                note: format!("{} kernel threads", grouped(tally.kernel_threads)),
            },
            Count {
                href: link("files"),
                title: "open files",
                figure: grouped(tally.files),
                note: format!("{} deleted", grouped(tally.deleted)),
            },
            Count {
                href: link("sockets"),
                title: "sockets",
                figure: grouped(view.socket_count()),
                note: format!("{} listening", grouped(tally.listening)),
            },
            Count {
                href: link("packets"),
                title: "packets",
                figure: grouped(packets),
                note: "logged in this interval".to_owned(),
            },
        ];
        let danger_level = psad.top_attackers.iter().map(|attacker| attacker.danger_level).max().unwrap_or(0);
        Ok(Self {
            epoch: found.snapshot.epoch.to_string(),
            seq: grouped(found.snapshot.seq),
            received: moment(found.snapshot.received_ns, head.now_ns),
            boot_time: (when::iso(host.boot_time_ns), when::stamp(host.boot_time_ns)),
            uptime: when::span(found.snapshot.captured_ns.saturating_sub(host.boot_time_ns)),
            labels: host
                .labels
                .iter()
                .take(REASONS_MAX)
                .map(|(key, value)| (Shown::of(key), Shown::of(value)))
                .collect(),
            counts,
            loads: host.load_hundredths.map(|load| format!("{}.{:02}", load / 100, load % 100)),
            memory_used: host.memory_bytes.saturating_sub(host.memory_available_bytes),
            costs: agent
                .cost
                .iter()
                .take(REASONS_MAX)
                .map(|cost| Cost {
                    source: Shown::of(&cost.source),
                    cpu: milliseconds(cost.cpu_ns),
                    wall: milliseconds(cost.wall_ns),
                    produced: grouped(cost.produced),
                    calls: cost.syscalls.map_or_else(String::new, grouped),
                    read: cost.read_bytes.map_or_else(String::new, size),
                })
                .collect(),
            gaps: gap_lines(view.gaps().map_err(Problem::undecodable)?),
            gaps_href: link("gaps"),
            reread_s: (reread.slices > 1)
                .then(|| u64::from(reread.slices).saturating_mul(agent.interval_ns / 1_000_000_000)),
            psad: PsadLine {
                href: link("psad"),
                mode: super::psad::mode(psad.mode),
                state: super::psad::state(psad.state),
                absent: psad.mode == PsadMode::Absent,
                danger: Danger::new(danger_level),
                attackers: grouped(psad.top_attackers.len()),
                fresh: psad.fresh_as_of.map(|at| moment(at, head.now_ns)),
            },
            host,
            agent,
            time,
        })
    }

    fn size(&self, bytes: &u64) -> String {
        size(*bytes)
    }

    fn shown(&self, text: &str) -> Shown {
        Shown::of(text)
    }

    fn interval(&self) -> String {
        when::span(i64::try_from(self.agent.interval_ns).unwrap_or(i64::MAX))
    }

    fn utc_offset(&self) -> String {
        let minutes = self.time.utc_offset_seconds / 60;
        let sign = if minutes < 0 { '-' } else { '+' };
        format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    }
}

/// Facts that only a walk over all rows tells.
#[derive(Default)]
struct Tally {
    kernel_threads: usize,
    files: u64,
    deleted: usize,
    listening: usize,
}

impl Tally {
    fn of(found: &Found) -> Self {
        let mut tally = Self::default();
        for process in found.snapshot.view.processes().flatten() {
            tally.kernel_threads += usize::from(process.kernel_thread);
            tally.files += process.files.len() as u64;
            tally.deleted += process.files.iter().filter(|file| file.deleted && file.kind != FileKind::Memfd).count();
        }
        tally.listening = found.snapshot.view.sockets().flatten().filter(|socket| socket.state == "listen").count();
        tally
    }
}

/// RFC 3339 for the machine, a clock for the reader.
pub(super) fn moment(ns: i64, now_ns: i64) -> (String, String) {
    (when::iso(ns), when::clock(ns, now_ns))
}

fn milliseconds(ns: u64) -> String {
    format!("{}.{:02} ms", ns / 1_000_000, ns / 10_000 % 100)
}

/// Gaps by source and reason, largest first.
fn gap_lines(gaps: Vec<edr_wire::snapshot::Gap>) -> Vec<GapLine> {
    let mut sums: Vec<(String, GapReason, u64)> = Vec::new();
    for gap in gaps {
        let count = gap.count.max(1);
        let same = sums.iter().position(|(source, reason, _)| *source == gap.source && *reason == gap.reason);
        if let Some((_, _, sum)) = same.and_then(|i| sums.get_mut(i)) {
            *sum = sum.saturating_add(count);
        } else if sums.len() < GAP_LINES_MAX {
            // A hostile snapshot may invent sources without end; the view of its own lists them.
            sums.push((gap.source, gap.reason, count));
        }
    }
    sums.sort_by_key(|(_, _, sum)| std::cmp::Reverse(*sum));
    sums.iter()
        .map(|(source, reason, sum)| GapLine {
            source: Shown::of(source),
            reason: gap_reason(*reason),
            count: grouped(*sum),
        })
        .collect()
}

fn gap_reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Gone => "went away while it was read",
        GapReason::Denied => "refused by the kernel",
        GapReason::Stuck => "did not answer in time",
        GapReason::TooLong => "beyond a limit",
        GapReason::Malformed => "not in its documented form",
        GapReason::Unsupported => "not offered by this kernel",
        GapReason::RotatedAway => "rotated away before it was read",
        GapReason::Io => "input/output error",
        GapReason::Budget => "beyond the budget of a tick",
        GapReason::Unknown => "unknown reason",
    }
}

/// The page behind a slug.
pub(super) fn page(slug: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.slug == slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = SECOND_NS;

    #[test]
    fn silence_and_goodbye_are_two_things() {
        let interval = 10 * S as u64;
        assert_eq!(Pulse::of(0, interval, false, 30 * S), Pulse::Live);
        assert_eq!(Pulse::of(0, interval, false, 31 * S), Pulse::Silent);
        assert_eq!(Pulse::of(0, interval, true, 31 * S), Pulse::Stopped);
        // No host is believed to be alive for ever.
        assert_eq!(Pulse::of(0, u64::MAX, false, 3 * 3_600 * S), Pulse::Live);
        assert_eq!(Pulse::of(0, u64::MAX, false, 3 * 3_600 * S + 1), Pulse::Silent);
        assert_eq!(Pulse::of(i64::MIN, u64::MAX, false, i64::MAX), Pulse::Silent);
        assert!(Fresh::new(0, 0, u64::MAX, Pulse::Live, 0).note.unwrap().contains("no agent has"));
    }

    #[test]
    fn a_delay_and_a_wrong_clock_are_named() {
        let interval = 10 * S as u64;
        let now = 1_000_000 * S;
        let fresh = Fresh::new(now - 4 * S, now - 3 * S, interval, Pulse::Live, now);
        assert_eq!((fresh.age.as_str(), fresh.note), ("4 s", None));
        let waited = Fresh::new(now - 7_300 * S, now - S, interval, Pulse::Live, now);
        assert_eq!(waited.age, "2 h 1 min");
        assert!(waited.note.is_some_and(|note| note.contains("arrived 2 h 1 min after")));
        let ahead = Fresh::new(now + 600 * S, now - 2 * S, interval, Pulse::Live, now);
        assert_eq!(ahead.age, "2 s");
        assert!(ahead.note.is_some_and(|note| note.contains("10 min ahead")));
    }
}
