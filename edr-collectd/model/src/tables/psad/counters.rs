//! psad's counters and the blocked addresses.

use edr_wire::snapshot::{self, PrefixCounter, ProtocolCounter};

use super::{SINCE_START, decoded};
use crate::catalogue::{About, Declaration, Field, Group};
use crate::cell::Cell;
use crate::snapshot::HostSnapshot;

/// *iptables log prefix counters*
pub(in crate::tables) struct PrefixCounters;

type PrefixField = Field<PrefixCounters>;

impl Declaration for PrefixCounters {
    type Input = HostSnapshot;
    type Row<'a> = PrefixCounter;

    const ABOUT: About = About {
        name: "prefix_counters",
        slug: "prefixes",
        title: "iptables log prefix counters",
        noun: "prefixes",
        summary: "iptables log prefix counters",
        hint: SINCE_START,
        group: Group::Psad,
        ..About::NONE
    };

    const FIELDS: &'static [PrefixField] = &[
        PrefixField::bytes("prefix", "Prefix", |row| Cell::bytes(&row.prefix)).ecs("edr.psad.prefix.name").key(),
        PrefixField::number("packets", "Packets", |row| Cell::number(row.packets))
            .ecs("edr.psad.prefix.count")
            .unit("packets")
            .changing(),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&PrefixCounter)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        psad.prefix_counters.iter().for_each(take);
        undecodable
    }
}

/// Total protocol packet counters.
pub(in crate::tables) struct ProtocolCounters;

type ProtocolField = Field<ProtocolCounters>;

impl Declaration for ProtocolCounters {
    type Input = HostSnapshot;
    type Row<'a> = ProtocolCounter;

    const ABOUT: About = About {
        name: "protocol_counters",
        slug: "protocols",
        title: "Total protocol packet counters",
        noun: "protocols",
        summary: "Packets by protocol",
        hint: SINCE_START,
        group: Group::Psad,
        ..About::NONE
    };

    const FIELDS: &'static [ProtocolField] = &[
        ProtocolField::text("protocol", "Protocol", |row| Cell::bytes(&row.protocol))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .key(),
        ProtocolField::number("packets", "Packets", |row| Cell::number(row.packets))
            .ecs("edr.psad.protocol.packets")
            .unit("packets")
            .changing(),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&ProtocolCounter)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        psad.protocol_counters.iter().for_each(take);
        undecodable
    }
}

/// Auto-blocked addresses.
pub(in crate::tables) struct BlockedAddresses;

type AddressField = Field<BlockedAddresses>;

impl Declaration for BlockedAddresses {
    type Input = HostSnapshot;
    type Row<'a> = snapshot::Blocked;

    const ABOUT: About = About {
        name: "blocked",
        slug: "blocked",
        title: "Blocked addresses",
        heading: "Auto-blocked addresses",
        noun: "addresses",
        summary: "Blocked addresses",
        hint: "Blocked by psad.",
        group: Group::Psad,
        ..About::NONE
    };

    const FIELDS: &'static [AddressField] = &[
        AddressField::address("address", "Address", |row| Cell::bytes(&row.address))
            .also(&["ip", "network"])
            .ecs("source.ip")
            .key()
            .link("packets", "src")
            .meaning("Address or network."),
        AddressField::time("since", "Since", |row| Cell::seconds(row.since)).also(&["time"]).ecs("event.start"),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&snapshot::Blocked)) -> usize {
        let (psad, undecodable) = decoded(snapshot);
        psad.blocked.iter().for_each(take);
        undecodable
    }
}
