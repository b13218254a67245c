//! *IP status detail*: what psad knows of each source.

use std::cell::OnceCell;

use edr_wire::snapshot::{ScanSource, ScanTarget, SignatureMatch, TargetPackets};

use super::decoded;
use crate::catalogue::{About, Declaration, Field, Group};
use crate::cell::{Cell, joined};
use crate::exposure::{Chain, Exposure, Listening, RangeListeners, Transport};
use crate::snapshot::HostSnapshot;

/// The sources of scans: one row for each range of scanned ports and each signature match of each destination; a source
/// or destination with neither has a single row.
pub(in crate::tables) struct PsadSources;

/// A fact about a source, with the join of the snapshot.
pub(in crate::tables) struct SourceRow<'a> {
    source: &'a ScanSource,
    target: Option<&'a ScanTarget>,
    fact: Fact<'a>,
    join: &'a Exposure,
    /// The listeners at the scanned ports, found at the first use.
    open: OnceCell<Option<RangeListeners>>,
}

#[derive(Clone, Copy)]
enum Fact<'a> {
    /// Only the source is known.
    Source,
    /// Only source and destination are known.
    Destination,
    Ports(&'a TargetPackets),
    Signature(&'a SignatureMatch),
}

type SourceField = Field<PsadSources>;

impl Declaration for PsadSources {
    type Input = HostSnapshot;
    type Row<'a> = SourceRow<'a>;

    const ABOUT: About = About {
        name: "sources",
        slug: "sources",
        title: "IP status detail",
        noun: "rows",
        summary: "Sources in detail",
        hint: "By source and destination, as kept by psad.",
        group: Group::Psad,
        needs_sockets: true,
        ..About::NONE
    };

    const FIELDS: &'static [SourceField] = &[
        SourceField::address("ip", "Source", |row| Cell::bytes(joined(row.source.ip.as_bytes())))
            .also(&["address", "attacker", "src"])
            .ecs("source.ip")
            .on_page()
            .link("packets", "src"),
        SourceField::danger_level("danger_level", "Danger level", |row| Cell::number(row.source.danger_level))
            .also(&["danger"])
            .on_page(),
        SourceField::address("target", "Destination", |row| {
            row.target.map_or(Cell::Empty, |target| Cell::bytes(joined(target.ip.as_bytes())))
        })
        .also(&["dst"])
        .ecs("destination.ip")
        .on_page(),
        SourceField::time("start_time", "First seen", |row| {
            row.target.map_or(Cell::Empty, |t| Cell::seconds(t.start_time))
        })
        .ecs("event.start")
        .on_page(),
        SourceField::text("kind", "Row", kind)
            .words(&["source", "destination", "ports", "signature"])
            .meaning("`source`, `destination`, `ports` or `signature`: the subject of the row."),
        SourceField::text("chain", "Chain", |row| {
            row.fact(|ports| Cell::bytes(&ports.chain), |match_| Cell::bytes(&match_.chain))
        })
        .ecs("edr.psad.chain")
        .on_page(),
        SourceField::bytes("interface", "Interface", |row| {
            row.fact(|ports| Cell::bytes(&ports.interface), |_| Cell::Empty)
        })
        .ecs("observer.ingress.interface.name"),
        SourceField::text("protocol", "Protocol", |row| {
            row.fact(|ports| Cell::bytes(&ports.protocol), |match_| Cell::bytes(&match_.protocol))
        })
        .also(&["proto", "transport"])
        .ecs("network.transport")
        .on_page(),
        SourceField::number("packets", "Packets", |row| row.fact(|ports| Cell::number(ports.packets), |_| Cell::Empty))
            .ecs("source.packets")
            .unit("packets")
            .on_page()
            .changing(),
        SourceField::number("port_low", "Port from", |row| {
            row.fact(|ports| Cell::optional(ports.port_low), match_port)
        })
        .ecs("edr.psad.target.port_low")
        .on_page(),
        SourceField::number("port_high", "Port to", |row| {
            row.fact(|ports| Cell::optional(ports.port_high), match_port)
        })
        .ecs("destination.port")
        .on_page(),
        SourceField::number("sid", "SID", |row| row.signature(|match_| Cell::number(match_.sid)))
            .ecs("rule.id")
            .on_page()
            .link("sources", "sid"),
        SourceField::bytes("msg", "Signature", |row| row.signature(|match_| Cell::bytes(&match_.msg)))
            .ecs("rule.name")
            .on_page()
            .wide(),
        SourceField::number("matches", "Matches", |row| row.signature(|match_| Cell::number(match_.matches)))
            .ecs("edr.psad.signature.matches")
            .unit("matches")
            .on_page()
            .changing(),
        SourceField::text("flags", "TCP flags", |row| row.signature(|match_| Cell::bytes(&match_.flags)))
            .ecs("edr.psad.tcp_flags")
            .on_page(),
        SourceField::text("ruleset", "Rules of", |row| row.signature(ruleset))
            .words(&["psad", "fwsnort"])
            .ecs("rule.ruleset")
            .meaning("`psad` or `fwsnort`."),
        SourceField::time("time", "Time", |row| row.signature(|match_| Cell::seconds(match_.time)))
            .ecs("@timestamp")
            .changing()
            .meaning("Last match of the signature."),
        SourceField::bytes("os_guess", "System guess", |row| Cell::bytes(joined(&row.source.os_guess.0)))
            .ecs("edr.psad.os_guess"),
        SourceField::number("emails", "Alerts", |row| Cell::number(row.source.emails))
            .ecs("edr.psad.emails")
            .unit("mails")
            .changing()
            .meaning("Alerts that psad sent."),
        SourceField::text("listening", "Listening", |row| {
            row.open().map_or(Cell::Empty, |open| Cell::Text(open.listening.name().into()))
        })
        .words(Listening::NAMES)
        .on_page()
        .meaning("`yes`, `other namespace`, `loopback only`, `unknown` or `no`; empty for a row without ports."),
        SourceField::numbers("open_ports", "Open in range", |row| {
            row.open().map_or(Cell::Empty, |open| Cell::numbers(open.ports.iter().copied().map(u64::from).collect()))
        })
        .on_page()
        .meaning("Ports with a listener at the destination, at most 64."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&SourceRow<'_>)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        let join = snapshot.exposure();
        for source in &psad.sources {
            let mut one = |target, fact| take(&SourceRow { source, target, fact, join, open: OnceCell::new() });
            if source.targets.is_empty() {
                one(None, Fact::Source);
            }
            for target in &source.targets {
                if target.packets.is_empty() && target.signatures.is_empty() {
                    one(Some(target), Fact::Destination);
                }
                target.packets.iter().for_each(|ports| one(Some(target), Fact::Ports(ports)));
                target.signatures.iter().for_each(|match_| one(Some(target), Fact::Signature(match_)));
            }
        }
        undecodable
    }
}

impl SourceRow<'_> {
    /// Returns a value of the scanned ports or of the signature match; empty for a row with neither.
    fn fact(&self, ports: impl Fn(&TargetPackets) -> Cell, signature: impl Fn(&SignatureMatch) -> Cell) -> Cell {
        match self.fact {
            Fact::Source | Fact::Destination => Cell::Empty,
            Fact::Ports(row) => ports(row),
            Fact::Signature(row) => signature(row),
        }
    }

    /// Returns a value of the signature match; empty for another row.
    fn signature(&self, value: impl Fn(&SignatureMatch) -> Cell) -> Cell {
        self.fact(|_| Cell::Empty, value)
    }

    /// Returns the listeners at the scanned ports of the destination; `None` for a protocol or a row without ports.
    fn open(&self) -> Option<&RangeListeners> {
        let found = self.open.get_or_init(|| {
            let (protocol, chain, ports) = match self.fact {
                Fact::Source | Fact::Destination => return None,
                Fact::Ports(row) => (&row.protocol, &row.chain, row.port_low.zip(row.port_high.or(row.port_low))),
                Fact::Signature(row) => {
                    let port = Some(row.port).filter(|&port| port != 0);
                    (&row.protocol, &row.chain, port.zip(port))
                }
            };
            self.join.in_range(Transport::of(protocol)?, ports?, &self.target?.ip, Chain::of(chain))
        });
        found.as_ref()
    }
}

fn kind(row: &SourceRow<'_>) -> Cell {
    let kind = match row.fact {
        Fact::Source => "source",
        Fact::Destination => "destination",
        Fact::Ports(_) => "ports",
        Fact::Signature(_) => "signature",
    };
    Cell::Text(kind.into())
}

fn match_port(row: &SignatureMatch) -> Cell {
    Cell::nonzero(row.port)
}

fn ruleset(row: &SignatureMatch) -> Cell {
    Cell::bytes(match (row.is_fwsnort, row.is_psad) {
        (true, _) => "fwsnort",
        (false, true) => "psad",
        (false, false) => "",
    })
}
