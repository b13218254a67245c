//! The overview of a host.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use edr_wire::snapshot::{Agent, FileKind, GapReason, Host, PsadMode, Time};

use crate::pages::host::{Found, Head, REASONS_MAX, find, turn};
use crate::pages::psad;
use crate::parts::assets::Assets;
use crate::parts::params::Params;
use crate::parts::problem::Problem;
use crate::parts::shown::{Danger, Shown, grouped, size};
use crate::parts::when::{self, iso_and_clock};
use crate::server::{Web, render};

/// Kinds of gaps that are listed.
const GAP_LINES_MAX: usize = 40;
/// Losses that are listed.
const LOSS_LINES_MAX: usize = 20;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    assets: Assets,
    head: Head,
    facts: Facts,
}

/// Values of the overview.
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
    frames: Frames,
    reread_s: Option<u64>,
    psad: PsadLine,
}

/// A figure with a link to its view.
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

/// The archived and missing frames of the retained time.
struct Frames {
    archived: String,
    since: Option<(String, String)>,
    last: Option<(String, String)>,
    is_complete: bool,
    brief: String,
    losses: Vec<LossLine>,
    others: usize,
    href: String,
}

struct LossLine {
    count: String,
    what: &'static str,
    reason: Shown,
    seqs: String,
    from: Option<(String, String)>,
    to: Option<(String, String)>,
}

impl Frames {
    fn new(found: &Found, href: String) -> Self {
        let account = &found.snapshot.account;
        let stamp = |ns: i64| (when::iso(ns), when::stamp(ns));
        let losses = account.losses.iter().take(LOSS_LINES_MAX).map(|loss| LossLine {
            count: grouped(loss.count),
            what: loss.kind.meaning(),
            reason: Shown::of(&loss.reason),
            seqs: match loss.seqs {
                Some((first, last)) if first == last => grouped(first),
                Some((first, last)) => format!("{} to {}", grouped(first), grouped(last)),
                None => String::new(),
            },
            from: loss.from_ns.map(stamp),
            to: loss.to_ns.map(stamp),
        });
        Self {
            archived: match account.archived {
                1 => "1 frame is archived".to_owned(),
                count => format!("{} frames are archived", grouped(count)),
            },
            since: account.since_ns.map(stamp),
            last: account.last.map(|(epoch, seq)| (grouped(seq), epoch.to_string())),
            is_complete: account.is_complete(),
            brief: account.brief(),
            losses: losses.collect(),
            others: account.losses.len().saturating_sub(LOSS_LINES_MAX),
            href,
        }
    }
}

/// Handles `/hosts/{host}`.
pub(crate) async fn overview(
    State(web): State<Arc<Web>>,
    host: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path(host) = host.map_err(|_| Problem::no_such_page())?;
    let params = Params::parse(query.as_deref())?;
    let turn = turn(&web, &host, params.at.as_ref()).await?;
    let place = web.work.place().await?;
    let found = find(&web, &host, params.at.as_ref(), &place).await?;
    render(place, move || {
        let _turn = turn;
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
        let known = view.psad().map_err(Problem::undecodable)?;
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
        let danger_level = known.top_attackers.iter().map(|attacker| attacker.danger_level).max().unwrap_or(0);
        Ok(Self {
            epoch: found.snapshot.epoch.to_string(),
            seq: grouped(found.snapshot.seq),
            received: iso_and_clock(found.snapshot.received_ns, head.now_ns),
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
            frames: Frames::new(found, link("losses")),
            reread_s: (reread.slices > 1)
                .then(|| u64::from(reread.slices).saturating_mul(agent.interval_ns / 1_000_000_000)),
            psad: PsadLine {
                href: link("psad"),
                mode: psad::mode(known.mode),
                state: psad::state(known.state),
                absent: known.mode == PsadMode::Absent,
                danger: Danger::new(danger_level),
                attackers: grouped(known.top_attackers.len()),
                fresh: known.fresh_as_of.map(|at| iso_and_clock(at, head.now_ns)),
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

/// Counts that need a pass over all rows.
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

fn milliseconds(ns: u64) -> String {
    format!("{}.{:02} ms", ns / 1_000_000, ns / 10_000 % 100)
}

/// Returns gaps by source and reason, largest first.
fn gap_lines(gaps: Vec<edr_wire::snapshot::Gap>) -> Vec<GapLine> {
    let mut sums: Vec<(String, GapReason, u64)> = Vec::new();
    for gap in gaps {
        let count = gap.count.max(1);
        let same = sums.iter().position(|(source, reason, _)| *source == gap.source && *reason == gap.reason);
        if let Some((_, _, sum)) = same.and_then(|i| sums.get_mut(i)) {
            *sum = sum.saturating_add(count);
        } else if sums.len() < GAP_LINES_MAX {
            // A hostile snapshot may invent any number of sources; the view of gaps lists them all.
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
