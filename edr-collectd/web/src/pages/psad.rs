//! *psad data*: all tables of psad on one page, and IP status detail in the manner of psad.

use std::collections::BTreeSet;

use edr_model::exposure::{Chain, Exposure, Listening, Transport};
use edr_model::{Select, SnapshotTable};
use edr_wire::snapshot::{PsadMode, PsadRunState, ScanSource, TargetPackets};

use crate::pages::host::{Found, Head};
use crate::parts::grid::{Grid, grid};
use crate::parts::params::Params;
use crate::parts::problem::Problem;
use crate::parts::shown::{Danger, Shown, grouped};
use crate::parts::tabs::Page;
use crate::parts::when::{self, iso_and_clock};

/// Sources shown in detail; the view of sources lists them all.
const SOURCES_MAX: usize = 25;
/// Destinations per source, and rows per destination.
const TARGETS_MAX: usize = 20;
/// Open ports listed per line.
const OPEN_PORTS_MAX: usize = 8;
/// Lines of psad's own log.
const EVENTS_MAX: usize = 50;
/// Rows of a table without "top" in its name.
const ROWS_MAX: usize = 50;
/// Bytes shown of status.out.
const STATUS_BYTES_MAX: usize = 256 << 10;

/// The content of psad's page.
pub(crate) struct PsadPage {
    pub(crate) mode: &'static str,
    pub(crate) mode_meaning: &'static str,
    pub(crate) state: &'static str,
    pub(crate) state_meaning: &'static str,
    pub(crate) absent: bool,
    pub(crate) pid: Option<u32>,
    pub(crate) pid_href: String,
    pub(crate) fresh: Option<(String, String)>,
    pub(crate) fresh_age: String,
    pub(crate) counters_since: Option<(String, String)>,
    pub(crate) status_stale: bool,
    pub(crate) dshield: Option<(String, String)>,
    pub(crate) unparsed: Option<(String, Shown)>,
    /// Summary of the join of scans and sockets, in one sentence.
    pub(crate) verdict: Verdict,
    /// Tables of the join (probed × exposed), in full width.
    pub(crate) joined: Vec<Section>,
    /// Tables side by side where there is room: the signatures, and all shorter tables.
    pub(crate) columns: [Vec<Section>; 2],
    pub(crate) sources: Vec<Source>,
    pub(crate) sources_total: String,
    pub(crate) sources_more: bool,
    pub(crate) sources_href: String,
    pub(crate) events: Vec<PsadLine>,
    pub(crate) events_more: usize,
    pub(crate) status_text: String,
}

/// A table.
pub(crate) struct Section {
    pub(crate) slug: &'static str,
    pub(crate) title: &'static str,
    pub(crate) href: String,
    pub(crate) grid: Grid,
    /// A text like `all 120 signatures`, when not all rows are shown.
    pub(crate) more: Option<String>,
}

/// Summary: whether scanned ports are open.
pub(crate) struct Verdict {
    /// `bad`, `good`, or `unknown`: the color of the text.
    pub(crate) class: &'static str,
    pub(crate) text: String,
    /// Scanned ports that are open with restricted access.
    pub(crate) beside: String,
    /// Why sockets may be missing.
    pub(crate) missing: Option<Shown>,
}

/// One source of IP status detail.
pub(crate) struct Source {
    /// Sockets of this host to or from the source; `None` when none is listed and sockets are missing from the
    /// snapshot.
    pub(crate) sockets: Option<u64>,
    pub(crate) sockets_href: String,
    pub(crate) ip: Shown,
    pub(crate) danger: Danger,
    pub(crate) os: Option<Shown>,
    pub(crate) p0f: Vec<Shown>,
    pub(crate) packets: String,
    pub(crate) signatures: String,
    pub(crate) emails: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) targets_total: String,
    pub(crate) targets_more: bool,
}

/// The activity of a source at one destination.
pub(crate) struct Target {
    pub(crate) ip: Shown,
    pub(crate) since: Option<(String, String)>,
    pub(crate) lines: Vec<Line>,
    pub(crate) signatures: Vec<Signature>,
}

/// A range of scanned ports, and the open ports in the range.
pub(crate) struct Line {
    pub(crate) text: Shown,
    pub(crate) open: Option<Open>,
}

pub(crate) struct Open {
    /// True when a socket of the host, or of a container on the host, listens.
    pub(crate) yes: bool,
    pub(crate) text: Shown,
}

pub(crate) struct Signature {
    pub(crate) msg: Shown,
    pub(crate) facts: Shown,
    pub(crate) time: (String, String),
}

pub(crate) struct PsadLine {
    pub(crate) time: Option<(String, String)>,
    pub(crate) kind: Shown,
    pub(crate) text: Shown,
}

pub(crate) fn mode(mode: PsadMode) -> &'static str {
    match mode {
        PsadMode::Journal => "journal",
        PsadMode::File => "file",
        PsadMode::Kmsgsd => "kmsgsd",
        PsadMode::Ulogd => "ulogd",
        PsadMode::Absent => "absent",
        PsadMode::Unknown => "unknown",
    }
}

fn mode_meaning(mode: PsadMode) -> &'static str {
    match mode {
        PsadMode::Journal => "packets come from the journal",
        PsadMode::File => "packets come from a syslog file",
        PsadMode::Kmsgsd => "packets come from fwdata, written by kmsgsd",
        PsadMode::Ulogd => "packets come from ulogd's file",
        PsadMode::Absent => "there is no psad on this host",
        PsadMode::Unknown => "a mode this collector does not know",
    }
}

pub(crate) fn state(state: PsadRunState) -> &'static str {
    match state {
        PsadRunState::Running => "running",
        PsadRunState::Stuck => "stuck",
        PsadRunState::Dead => "dead",
        PsadRunState::Absent => "absent",
        PsadRunState::Unknown => "unknown",
    }
}

fn state_meaning(state: PsadRunState) -> &'static str {
    match state {
        PsadRunState::Running => "psad rewrites its files",
        PsadRunState::Stuck => "the process exists, but does not rewrite its files",
        PsadRunState::Dead => "the files exist without a process: the figures are of the last run",
        PsadRunState::Absent => "there is no psad on this host",
        PsadRunState::Unknown => "a state this collector does not know",
    }
}

impl PsadPage {
    pub(crate) fn new(found: &Found, params: &Params, head: &Head) -> Result<Self, Problem> {
        let psad = found.snapshot.view.psad().map_err(Problem::undecodable)?;
        let now_ns = head.now_ns;
        let link = |slug: &str| params.elsewhere(&format!("{}/{slug}", head.base));
        let (mut columns, mut joined) = ([Vec::new(), Vec::new()], Vec::new());
        // The sources have a form of their own on this page.
        for table in found.pages.psad().filter(|table| table.about.slug != "sources") {
            let section = Section::new(table, found, params, head)?;
            match table.about.slug {
                "exposed" | "contacts" => joined.push(section),
                "signatures" => columns[0].push(section),
                _ => columns[1].push(section),
            }
        }
        // psad's own order: highest danger level first.
        let mut by_danger: Vec<&ScanSource> = psad.sources.iter().collect();
        by_danger.sort_by_key(|source| std::cmp::Reverse(source.danger_level));
        let status = &psad.status_text.0[..psad.status_text.0.len().min(STATUS_BYTES_MAX)];
        Ok(Self {
            mode: mode(psad.mode),
            mode_meaning: mode_meaning(psad.mode),
            state: state(psad.state),
            state_meaning: state_meaning(psad.state),
            absent: psad.mode == PsadMode::Absent && psad.state == PsadRunState::Absent,
            pid: psad.pid,
            pid_href: params.elsewhere_filtered(
                &format!("{}/processes", head.base),
                format!("pid:{}", psad.pid.unwrap_or_default()),
            ),
            fresh: psad.fresh_as_of.map(|at| iso_and_clock(at, now_ns)),
            fresh_age: psad
                .fresh_as_of
                .map(|at| when::span(found.snapshot.captured_ns.saturating_sub(at)))
                .unwrap_or_default(),
            counters_since: psad.counters_since.map(|at| iso_and_clock(at, now_ns)),
            status_stale: psad.status_stale,
            dshield: psad.dshield.map(|dshield| (grouped(dshield.emails), grouped(dshield.packets))),
            unparsed: psad.unparsed.as_ref().map(|lines| (grouped(lines.lines), Shown::of(&lines.first))),
            verdict: Verdict::new(found.snapshot.exposure()),
            joined,
            columns,
            sources: by_danger
                .iter()
                .take(SOURCES_MAX)
                .map(|source| Source::new(source, found.snapshot.exposure(), params, head))
                .collect(),
            sources_total: grouped(psad.sources.len()),
            sources_more: psad.sources.len() > SOURCES_MAX,
            sources_href: link("sources"),
            events: psad
                .events
                .iter()
                .take(EVENTS_MAX)
                .map(|event| PsadLine {
                    time: event.time.map(|at| iso_and_clock(at, now_ns)),
                    kind: Shown::of(&event.kind),
                    text: Shown::of(&event.text),
                })
                .collect(),
            events_more: psad.events.len().saturating_sub(EVENTS_MAX),
            // Split at line ends, so that line ends are not escaped.
            status_text: status.split(|byte| *byte == b'\n').map(edr_wire::visible).collect::<Vec<_>>().join("\n"),
        })
    }
}

impl Section {
    fn new(table: &'static SnapshotTable, found: &Found, params: &Params, head: &Head) -> Result<Self, Problem> {
        let about = &table.about;
        let rows = about.top.map_or(ROWS_MAX, |top| top.rows);
        let title = Page::Table(table).tab_title();
        let table = table.select(&found.snapshot, &Select { page_rows: rows, ..Select::default() })?;
        let more = (table.total > rows).then(|| format!("all {} {}", grouped(table.total), about.noun));
        let here = format!("{}/{}", head.base, about.slug);
        // Sorting leads to the section's own view; only the moment of this page's parameters applies there.
        let params = Params { at: params.at.clone(), ..Params::default() };
        Ok(Self {
            slug: about.slug,
            title,
            href: params.elsewhere(&here),
            grid: grid(title, table, &params, &head.base, &here),
            more,
        })
    }
}

impl Verdict {
    fn new(join: &Exposure) -> Self {
        let count = |listening| {
            let rows = join.exposed().iter().filter(|row| row.listening == listening).map(|row| join.listener(row));
            rows.map(|listener| (listener.transport, listener.port)).collect::<BTreeSet<_>>().len()
        };
        let (open, other, loopback) =
            (count(Listening::Yes), count(Listening::OtherNamespace), count(Listening::Loopback));
        let missing = join.missing().map(Shown::of);
        let mut text = match (open, &missing) {
            (0, None) => "No scanned port is open on this host".to_owned(),
            (0, Some(_)) => "It is not known whether a scanned port is open on this host".to_owned(),
            (1, _) => "1 scanned port is open on this host".to_owned(),
            _ => format!("{} scanned ports are open on this host", grouped(open)),
        };
        let attackers = join.contacts().iter().map(|contact| contact.ip).collect::<BTreeSet<_>>().len();
        match attackers {
            0 => {}
            1 => text.push_str(", and 1 attacker has a socket here"),
            _ => text.push_str(&format!(", and {} attackers have sockets here", grouped(attackers))),
        }
        let beside = [
            (other, "in another network namespace of this host"),
            (loopback, "on the loopback address only, unreachable for other hosts"),
        ];
        let beside: Vec<String> = beside
            .iter()
            .filter(|(ports, _)| *ports > 0)
            .map(|(ports, place)| format!("{} open {place}", grouped(ports)))
            .collect();
        let class = match (open + other + attackers, &missing) {
            (1.., _) => "bad",
            (0, None) => "good",
            (0, Some(_)) => "unknown",
        };
        Self { class, text, beside: beside.join(", "), missing }
    }
}

impl Open {
    /// Describes the open ports of a row: `open in this range: 22 sshd, 443 nginx`. `None` for a row without ports.
    fn new(row: &TargetPackets, to: &str, join: &Exposure) -> Option<Self> {
        let transport = Transport::of(&row.protocol)?;
        let ports = (row.port_low?, row.port_high.or(row.port_low)?);
        let found = join.in_range(transport, ports, to, Chain::of(&row.chain))?;
        let yes = matches!(found.listening, Listening::Yes | Listening::OtherNamespace);
        if !yes {
            return Some(Self {
                yes,
                text: Shown::of(match found.listening {
                    Listening::No => "nothing is open there",
                    _ => "open ports unknown",
                }),
            });
        }
        // psad gives the lowest and the highest port, not the ports in between.
        let mut text = if ports.0 == ports.1 { b"open here: ".to_vec() } else { b"open in this range: ".to_vec() };
        let mut first = true;
        for port in found.ports.iter().take(OPEN_PORTS_MAX) {
            if !std::mem::take(&mut first) {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(port.to_string().as_bytes());
            for name in join.names_on(transport, *port) {
                text.push(b' ');
                text.extend_from_slice(&name.0);
            }
        }
        if found.ports.len() > OPEN_PORTS_MAX {
            text.extend_from_slice(format!(" and {} more", found.ports.len() - OPEN_PORTS_MAX).as_bytes());
        }
        Some(Self { yes, text: Shown::of(&text) })
    }
}

impl Source {
    fn new(source: &ScanSource, join: &Exposure, params: &Params, head: &Head) -> Self {
        let now_ns = head.now_ns;
        let packets: u64 = source
            .targets
            .iter()
            .flat_map(|target| &target.packets)
            .map(|row| row.packets)
            .fold(0, u64::saturating_add);
        let signatures: usize = source.targets.iter().map(|target| target.signatures.len()).sum();
        Self {
            sockets: join.contacts_of(&source.ip),
            sockets_href: params.elsewhere_filtered(&format!("{}/contacts", head.base), format!("ip:{}", source.ip)),
            ip: Shown::of(&source.ip),
            danger: Danger::new(source.danger_level),
            os: Some(Shown::of(&source.os_guess)).filter(|os| !os.is_empty()),
            p0f: source.p0f_guess.iter().take(TARGETS_MAX).map(Shown::of).collect(),
            packets: grouped(packets),
            signatures: grouped(signatures),
            emails: grouped(source.emails),
            targets: source
                .targets
                .iter()
                .take(TARGETS_MAX)
                .map(|target| Target {
                    ip: Shown::of(&target.ip),
                    since: seconds(target.start_time).map(|ns| iso_and_clock(ns, now_ns)),
                    lines: target
                        .packets
                        .iter()
                        .take(TARGETS_MAX)
                        .map(|row| {
                            let ports = match (row.port_low, row.port_high) {
                                (Some(low), Some(high)) if low != high => format!(", ports {low}–{high}"),
                                (Some(port), _) => format!(", port {port}"),
                                _ => String::new(),
                            };
                            let line = [
                                row.chain.as_bytes(),
                                b" ",
                                row.interface.as_ref(),
                                b" ",
                                row.protocol.as_bytes(),
                                format!(": {} packets{ports}", grouped(row.packets)).as_bytes(),
                            ]
                            .concat();
                            Line { text: Shown::of(&line), open: Open::new(row, &target.ip, join) }
                        })
                        .collect(),
                    signatures: target
                        .signatures
                        .iter()
                        .take(TARGETS_MAX)
                        .map(|row| {
                            let port = if row.port == 0 { String::new() } else { format!(", port {}", row.port) };
                            let flags = if row.flags == "NA" { String::new() } else { format!(", {}", row.flags) };
                            Signature {
                                msg: Shown::of(&row.msg),
                                facts: Shown::of(format!(
                                    "sid {}, {} {}{port}{flags}, {} ×",
                                    row.sid,
                                    row.chain,
                                    row.protocol,
                                    grouped(row.matches)
                                )),
                                time: iso_and_clock(seconds(row.time).unwrap_or(0), now_ns),
                            }
                        })
                        .collect(),
                })
                .collect(),
            targets_total: grouped(source.targets.len()),
            targets_more: source.targets.len() > TARGETS_MAX,
        }
    }
}

/// Converts Unix seconds to ns; `None` for 0.
fn seconds(seconds: u64) -> Option<i64> {
    Some(i64::try_from(seconds).ok()?.saturating_mul(1_000_000_000)).filter(|ns| *ns != 0)
}
