//! psad's rankings: signatures, attackers, scanned ports.

use edr_wire::snapshot::{Attacker, ScannedPort, TopSignature};

use super::{SINCE_START, decoded};
use crate::catalogue::{About, Declaration, Field, Group, Top};
use crate::cell::Cell;
use crate::exposure::{Exposure, Listening, Owner, Transport};
use crate::snapshot::HostSnapshot;

/// Processes listed per scanned port, and process names; the table of exposed ports has a row per socket and process.
const PIDS_MAX: usize = 64;
const NAMES_MAX: usize = 8;

/// *Top 50 signature matches*
pub(in crate::tables) struct TopSignatures;

type SignatureField = Field<TopSignatures>;

impl Declaration for TopSignatures {
    type Input = HostSnapshot;
    type Row<'a> = TopSignature;

    const ABOUT: About = About {
        name: "top_signatures",
        slug: "signatures",
        title: "Signature matches",
        noun: "signatures",
        summary: "Top signature matches",
        hint: SINCE_START,
        group: Group::Psad,
        top: Some(Top { title: "Top 50 signature matches", rows: 50 }),
        ..About::NONE
    };

    const FIELDS: &'static [SignatureField] = &[
        SignatureField::bytes("msg", "Signature", |row| Cell::bytes(&row.msg)).also(&["name"]).ecs("rule.name").wide(),
        SignatureField::text("protocol", "Protocol", |row| Cell::bytes(&row.protocol))
            .also(&["proto", "transport"])
            .ecs("network.transport"),
        SignatureField::number("matches", "Matches", |row| Cell::number(row.matches))
            .ecs("edr.psad.signature.matches")
            .unit("matches")
            .changing(),
        SignatureField::number("sources", "Sources", |row| Cell::number(row.sources))
            .ecs("edr.psad.signature.sources")
            .unit("sources")
            .changing(),
        SignatureField::number("sid", "SID", |row| Cell::number(row.sid)).ecs("rule.id").key().link("sources", "sid"),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&TopSignature)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        psad.top_signatures.iter().for_each(take);
        undecodable
    }
}

/// *Top 25 attackers*
pub(in crate::tables) struct TopAttackers;

/// An attacker, with the join of the snapshot.
pub(in crate::tables) struct AttackerRow<'a> {
    attacker: &'a Attacker,
    join: &'a Exposure,
}

type AttackerField = Field<TopAttackers>;

impl Declaration for TopAttackers {
    type Input = HostSnapshot;
    type Row<'a> = AttackerRow<'a>;

    const ABOUT: About = About {
        name: "top_attackers",
        slug: "attackers",
        title: "Attackers",
        noun: "attackers",
        summary: "Top attackers",
        hint: SINCE_START,
        group: Group::Psad,
        top: Some(Top { title: "Top 25 attackers", rows: 25 }),
        needs_sockets: true,
        ..About::NONE
    };

    const FIELDS: &'static [AttackerField] = &[
        AttackerField::address("ip", "Address", |row| Cell::bytes(&row.attacker.ip))
            .also(&["attacker", "source"])
            .ecs("source.ip")
            .key()
            .link("sources", "ip"),
        AttackerField::danger_level("danger_level", "Danger level", |row| Cell::number(row.attacker.danger_level))
            .also(&["danger"]),
        AttackerField::number("packets", "Packets", |row| Cell::number(row.attacker.packets))
            .ecs("source.packets")
            .unit("packets")
            .changing(),
        AttackerField::number("unique_signatures", "Signatures", |row| Cell::number(row.attacker.unique_signatures))
            .ecs("edr.psad.unique_signatures")
            .unit("signatures")
            .changing(),
        AttackerField::number("signature_matches", "Matches", |row| Cell::number(row.attacker.signature_matches))
            .ecs("edr.psad.signature_matches")
            .unit("matches")
            .changing(),
        AttackerField::flag("is_local", "Local", |row| Cell::Flag(row.attacker.is_local))
            .ecs("edr.psad.is_local")
            .meaning("psad counts the source as local."),
        AttackerField::number_or_word("sockets", "Sockets here", |row| {
            row.join.contacts_of(&row.attacker.ip).map_or_else(|| Cell::Text("unknown".into()), Cell::number)
        })
        .words(&["unknown"])
        .changing()
        .meaning("Sockets of this host to or from the attacker."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&AttackerRow<'_>)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        let join = snapshot.exposure();
        for attacker in &psad.top_attackers {
            take(&AttackerRow { attacker, join });
        }
        undecodable
    }
}

/// *Top 20 scanned ports*
pub(in crate::tables) struct TopPorts;

/// A scanned port, with the join of the snapshot.
pub(in crate::tables) struct PortRow<'a> {
    port: &'a ScannedPort,
    join: &'a Exposure,
}

type PortField = Field<TopPorts>;

impl Declaration for TopPorts {
    type Input = HostSnapshot;
    type Row<'a> = PortRow<'a>;

    const ABOUT: About = About {
        name: "top_ports",
        slug: "ports",
        title: "Scanned ports",
        noun: "ports",
        summary: "Top scanned ports",
        hint: SINCE_START,
        group: Group::Psad,
        top: Some(Top { title: "Top 20 scanned ports", rows: 20 }),
        needs_sockets: true,
        ..About::NONE
    };

    const FIELDS: &'static [PortField] = &[
        PortField::text("protocol", "Protocol", |row| Cell::bytes(&row.port.protocol))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .key(),
        PortField::number("port", "Port", |row| Cell::number(row.port.port)).ecs("destination.port").key(),
        PortField::number("packets", "Packets", |row| Cell::number(row.port.packets))
            .ecs("edr.psad.port.packets")
            .unit("packets")
            .changing(),
        PortField::text("listening", "Listening", listening).words(Listening::NAMES).meaning(
            "`yes`, `other namespace`, `loopback only`, `unknown` or `no`; empty for a protocol without ports.",
        ),
        PortField::numbers("pids", "PID", pids)
            .also(&["process_id"])
            .ecs("process.pid")
            .link("processes", "pid")
            .meaning("Processes that listen on the port, at most 64."),
        PortField::list("comm", "Command", names)
            .also(&["name", "process"])
            .ecs("process.name")
            .meaning("Names of these processes, at most 8."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&PortRow<'_>)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        let join = snapshot.exposure();
        for port in &psad.top_ports {
            take(&PortRow { port, join });
        }
        undecodable
    }
}

fn listening(row: &PortRow<'_>) -> Cell {
    match Transport::of(&row.port.protocol) {
        Some(transport) => Cell::Text(row.join.on_port(transport, row.port.port).0.name().into()),
        None => Cell::Empty,
    }
}

/// Returns the processes that listen on the port; a process with several sockets is repeated.
fn owners<'a>(row: &PortRow<'a>) -> impl Iterator<Item = &'a Owner> {
    let join = row.join;
    let listeners = Transport::of(&row.port.protocol).map(|transport| join.on_port(transport, row.port.port).1);
    listeners.into_iter().flatten().flat_map(move |listener| join.owners_of(listener))
}

fn pids(row: &PortRow<'_>) -> Cell {
    let mut pids = Vec::new();
    for pid in owners(row).map(|owner| u64::from(owner.pid)) {
        if pids.len() < PIDS_MAX && !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    Cell::numbers(pids)
}

fn names(row: &PortRow<'_>) -> Cell {
    let mut names = Vec::new();
    for owner in owners(row) {
        if names.len() < NAMES_MAX && !names.contains(&owner.comm) {
            names.push(owner.comm.clone());
        }
    }
    Cell::list(names)
}
