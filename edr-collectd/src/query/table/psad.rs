//! *psad data*: psad's rankings, counters and sources, in psad's own order.

use edr_wire::snapshot::{Psad, ScanSource, ScanTarget, SignatureMatch, TargetPackets};

use super::{Cell, Column, Emit, HostSnapshot, joined};
use crate::query::exposure::{Chain, Exposure, InRange, Transport};

/// Processes listed per scanned port, and process names; the view of exposed ports has a row per socket and process.
const PIDS_MAX: usize = 64;
const NAMES_MAX: usize = 8;

pub(super) const TOP_SIGNATURES: &[Column] = &[
    Column::text("msg", "Signature", "rule.name"),
    Column::text("protocol", "Protocol", "network.transport"),
    Column::number("matches", "Matches", "edr.psad.signature.matches"),
    Column::number("sources", "Sources", "edr.psad.signature.sources"),
    Column::number("sid", "SID", "rule.id"),
];

pub(super) const TOP_ATTACKERS: &[Column] = &[
    Column::text("ip", "Address", "source.ip"),
    Column::number("danger_level", "Danger level", "edr.psad.danger_level"),
    Column::number("packets", "Packets", "source.packets"),
    Column::number("unique_signatures", "Signatures", "edr.psad.unique_signatures"),
    Column::number("signature_matches", "Matches", "edr.psad.signature_matches"),
    Column::text("is_local", "Local", "edr.psad.is_local"),
    Column::number("sockets", "Sockets here", ""),
];

pub(super) const TOP_PORTS: &[Column] = &[
    Column::text("protocol", "Protocol", "network.transport"),
    Column::number("port", "Port", "destination.port"),
    Column::number("packets", "Packets", "edr.psad.port.packets"),
    Column::text("listening", "Listening", ""),
    Column::number("pids", "PID", "process.pid"),
    Column::text("comm", "Command", "process.name"),
];

pub(super) const PREFIX_COUNTERS: &[Column] = &[
    Column::text("prefix", "Prefix", "edr.psad.prefix.name"),
    Column::number("packets", "Packets", "edr.psad.prefix.count"),
];

pub(super) const PROTOCOL_COUNTERS: &[Column] =
    &[Column::text("protocol", "Protocol", "network.transport"), Column::number("packets", "Packets", "")];

pub(super) const SOURCES: &[Column] = &[
    Column::text("ip", "Source", "source.ip"),
    Column::number("danger_level", "Danger level", "edr.psad.danger_level"),
    Column::text("target", "Destination", "destination.ip"),
    Column::number("start_time", "First seen", "event.start"),
    Column::text("kind", "Row", ""),
    Column::text("chain", "Chain", "edr.psad.chain"),
    Column::text("interface", "Interface", "observer.ingress.interface.name"),
    Column::text("protocol", "Protocol", "network.transport"),
    Column::number("packets", "Packets", ""),
    Column::number("port_low", "Port from", ""),
    Column::number("port_high", "Port to", "destination.port"),
    Column::number("sid", "SID", "rule.id"),
    Column::text("msg", "Signature", "rule.name"),
    Column::number("matches", "Matches", ""),
    Column::text("flags", "TCP flags", "edr.psad.tcp_flags"),
    Column::text("ruleset", "Rules of", "rule.ruleset"),
    Column::number("time", "Time", ""),
    Column::text("os_guess", "System guess", "edr.psad.os_guess"),
    Column::number("emails", "Alerts", ""),
    Column::text("listening", "Listening", ""),
    Column::number("open_ports", "Open in range", ""),
];

pub(super) const BLOCKED: &[Column] =
    &[Column::text("address", "Address", "source.ip"), Column::number("since", "Since", "event.start")];

/// Returns psad's part of the snapshot, and the number of undecodable parts.
fn decoded(snapshot: &HostSnapshot) -> (Psad, usize) {
    match snapshot.view.psad() {
        Ok(psad) => (psad, 0),
        Err(_) => (Psad::default(), 1),
    }
}

pub(super) fn top_signatures(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    for row in &psad.top_signatures {
        emit(&|| {
            vec![
                Cell::bytes(&row.msg),
                Cell::bytes(&row.protocol),
                Cell::number(row.matches),
                Cell::number(row.sources),
                Cell::number(row.sid),
            ]
        });
    }
    undecodable
}

pub(super) fn top_attackers(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    let join = snapshot.exposure();
    for row in &psad.top_attackers {
        emit(&|| {
            vec![
                Cell::bytes(&row.ip),
                Cell::number(row.danger_level),
                Cell::number(row.packets),
                Cell::number(row.unique_signatures),
                Cell::number(row.signature_matches),
                Cell::Flag(row.is_local),
                join.contacts_of(&row.ip).map_or_else(|| Cell::Text("unknown".into()), Cell::number),
            ]
        });
    }
    undecodable
}

pub(super) fn top_ports(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    let join = snapshot.exposure();
    for row in &psad.top_ports {
        emit(&|| {
            let mut cells = vec![Cell::bytes(&row.protocol), Cell::number(row.port), Cell::number(row.packets)];
            cells.extend(match Transport::of(&row.protocol) {
                Some(transport) => listening_cells(join, transport, row.port),
                None => [const { Cell::Empty }; 3],
            });
            cells
        });
    }
    undecodable
}

pub(super) fn prefix_counters(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    for row in &psad.prefix_counters {
        emit(&|| vec![Cell::bytes(&row.prefix), Cell::number(row.packets)]);
    }
    undecodable
}

pub(super) fn protocol_counters(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    for row in &psad.protocol_counters {
        emit(&|| vec![Cell::bytes(&row.protocol), Cell::number(row.packets)]);
    }
    undecodable
}

pub(super) fn blocked(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    for row in &psad.blocked {
        emit(&|| vec![Cell::bytes(&row.address), Cell::seconds(row.since)]);
    }
    undecodable
}

/// Emits one row for each range of scanned ports and each signature match of each destination; a source or destination
/// with neither has a single row.
pub(super) fn sources(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (psad, undecodable) = decoded(snapshot);
    let join = snapshot.exposure();
    for source in &psad.sources {
        if source.targets.is_empty() {
            emit(&|| source_row(source, None, "source", [const { Cell::Empty }; 12], None));
        }
        for target in &source.targets {
            if target.packets.is_empty() && target.signatures.is_empty() {
                emit(&|| source_row(source, Some(target), "destination", [const { Cell::Empty }; 12], None));
            }
            for packets in &target.packets {
                emit(&|| {
                    let ports = packets.port_low.zip(packets.port_high.or(packets.port_low));
                    let open = open(join, &packets.protocol, &packets.chain, ports, &target.ip);
                    source_row(source, Some(target), "ports", port_cells(packets), open)
                });
            }
            for signature in &target.signatures {
                emit(&|| {
                    let port = Some(signature.port).filter(|&port| port != 0);
                    let open = open(join, &signature.protocol, &signature.chain, port.zip(port), &target.ip);
                    source_row(source, Some(target), "signature", signature_cells(signature), open)
                });
            }
        }
    }
    undecodable
}

/// Returns the listeners at these ports of the destination; `None` for a protocol or a row without ports.
fn open(join: &Exposure, protocol: &str, chain: &str, ports: Option<(u16, u16)>, to: &str) -> Option<InRange> {
    join.in_range(Transport::of(protocol)?, ports?, to, Chain::of(chain))
}

/// Returns the cells `listening` to `comm` of a scanned port.
fn listening_cells(join: &Exposure, transport: Transport, port: u16) -> [Cell; 3] {
    let (listening, listeners) = join.on_port(transport, port);
    let (mut pids, mut names) = (Vec::new(), Vec::new());
    for owner in listeners.into_iter().flat_map(|listener| join.owners_of(listener)) {
        let pid = u64::from(owner.pid);
        if pids.len() < PIDS_MAX && !pids.contains(&pid) {
            pids.push(pid);
        }
        if names.len() < NAMES_MAX && !names.contains(&owner.comm) {
            names.push(owner.comm.clone());
        }
    }
    let or_empty = |cell, is_empty| if is_empty { Cell::Empty } else { cell };
    let (no_pids, no_names) = (pids.is_empty(), names.is_empty());
    [Cell::Text(listening.name().into()), or_empty(Cell::Numbers(pids), no_pids), or_empty(Cell::List(names), no_names)]
}

fn source_row(
    source: &ScanSource,
    target: Option<&ScanTarget>,
    kind: &str,
    facts: [Cell; 12],
    open: Option<InRange>,
) -> Vec<Cell> {
    let mut row = vec![
        Cell::bytes(joined(source.ip.as_bytes())),
        Cell::number(source.danger_level),
        target.map_or(Cell::Empty, |target| Cell::bytes(joined(target.ip.as_bytes()))),
        target.map_or(Cell::Empty, |target| Cell::seconds(target.start_time)),
        Cell::Text(kind.into()),
    ];
    row.extend(facts);
    row.push(Cell::bytes(joined(&source.os_guess.0)));
    row.push(Cell::number(source.emails));
    row.push(open.as_ref().map_or(Cell::Empty, |open| Cell::Text(open.listening.name().into())));
    row.push(match open {
        Some(open) if !open.ports.is_empty() => Cell::Numbers(open.ports.into_iter().map(u64::from).collect()),
        _ => Cell::Empty,
    });
    row
}

/// Returns the cells `chain` to `time` of a row of scanned ports.
fn port_cells(row: &TargetPackets) -> [Cell; 12] {
    [
        Cell::bytes(&row.chain),
        Cell::bytes(&row.interface),
        Cell::bytes(&row.protocol),
        Cell::number(row.packets),
        Cell::optional(row.port_low),
        Cell::optional(row.port_high),
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
    ]
}

/// Returns the cells `chain` to `time` of a signature match.
fn signature_cells(row: &SignatureMatch) -> [Cell; 12] {
    let port = if row.port == 0 { Cell::Empty } else { Cell::number(row.port) };
    let ruleset = match (row.is_fwsnort, row.is_psad) {
        (true, _) => "fwsnort",
        (false, true) => "psad",
        (false, false) => "",
    };
    [
        Cell::bytes(&row.chain),
        Cell::Empty,
        Cell::bytes(&row.protocol),
        Cell::Empty,
        port.clone(),
        port,
        Cell::number(row.sid),
        Cell::bytes(&row.msg),
        Cell::number(row.matches),
        Cell::bytes(&row.flags),
        Cell::bytes(ruleset),
        Cell::seconds(row.time),
    ]
}
