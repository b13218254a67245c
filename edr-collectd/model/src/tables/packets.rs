//! The firewall log lines of a snapshot.

use edr_wire::snapshot::Packet;

use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostSnapshot;

/// The packets of a snapshot.
pub(super) struct Packets;

type PacketField = Field<Packets>;

impl Declaration for Packets {
    type Input = HostSnapshot;
    type Row<'a> = Packet;

    const ABOUT: About = About {
        name: "packets",
        slug: "packets",
        title: "Packets",
        noun: "packets",
        summary: "Firewall log lines of one snapshot of a host",
        hint: "Firewall log lines since the previous snapshot.",
        ..About::NONE
    };

    const FIELDS: &'static [PacketField] = &[
        PacketField::time("time", "Time", |p| p.time.map_or(Cell::Empty, Cell::Time)).ecs("@timestamp").usual(),
        PacketField::bytes("prefix", "Prefix", |p| Cell::bytes(&p.prefix))
            .ecs("edr.psad.prefix.name")
            .usual()
            .meaning("Log prefix of the firewall rule."),
        PacketField::text("chain", "Chain", |p| Cell::bytes(&p.chain)).ecs("edr.psad.chain").on_page(),
        PacketField::text("protocol", "Protocol", |p| Cell::bytes(&p.protocol))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .usual(),
        PacketField::address("src", "Source", |p| Cell::bytes(&p.src))
            .also(&["ip", "address", "remote"])
            .ecs("source.ip")
            .usual()
            .link("sources", "ip"),
        PacketField::number("src_port", "Port", |p| Cell::optional(p.src_port))
            .also(&["sport"])
            .ecs("source.port")
            .usual(),
        PacketField::address("dst", "Destination", |p| Cell::bytes(&p.dst))
            .also(&["ip", "address"])
            .ecs("destination.ip")
            .usual(),
        PacketField::number("dst_port", "Port", |p| Cell::optional(p.dst_port))
            .also(&["dport"])
            .ecs("destination.port")
            .usual(),
        PacketField::text("flags", "TCP flags", |p| Cell::bytes(&p.flags)).ecs("edr.psad.tcp_flags").usual(),
        PacketField::number("icmp_type", "ICMP type", |p| Cell::optional(p.icmp_type)),
        PacketField::number("icmp_code", "ICMP code", |p| Cell::optional(p.icmp_code)),
        PacketField::bytes("interface_in", "In", |p| Cell::bytes(&p.interface_in))
            .ecs("observer.ingress.interface.name")
            .usual(),
        PacketField::bytes("interface_out", "Out", |p| Cell::bytes(&p.interface_out))
            .ecs("observer.egress.interface.name"),
        PacketField::number("length", "Length", |p| Cell::optional(p.length))
            .also(&["len", "size"])
            .ecs("network.bytes")
            .unit("bytes")
            .on_page()
            .meaning("Length of the IP packet."),
        PacketField::number("ttl", "TTL", |p| Cell::optional(p.ttl)).on_page(),
        PacketField::number("repeated", "Times", |p| Cell::number(p.repeated))
            .also(&["count"])
            .ecs("network.packets")
            .unit("packets")
            .on_page()
            .meaning("Packets that the line stands for."),
        PacketField::flag("cut", "Cut", |p| Cell::Flag(p.cut))
            .meaning("The line was cut; fields after the cut are missing."),
        PacketField::bytes("raw", "Line", |p| Cell::bytes(&p.raw)).ecs("event.original").on_page().code(),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&Packet)) -> usize {
        let Ok(packets) = snapshot.view.packets() else { return 1 };
        packets.iter().for_each(take);
        0
    }
}
