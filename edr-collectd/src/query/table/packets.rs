//! The firewall log lines of a snapshot as a table.

use edr_wire::snapshot::Packet;

use super::{Cell, Column, Emit, HostSnapshot};

pub(super) const COLUMNS: &[Column] = &[
    Column::number("time", "Time", "@timestamp"),
    Column::text("prefix", "Prefix", "edr.psad.prefix.name"),
    Column::text("chain", "Chain", "edr.psad.chain"),
    Column::text("protocol", "Protocol", "network.transport"),
    Column::text("src", "Source", "source.ip"),
    Column::number("src_port", "Port", "source.port"),
    Column::text("dst", "Destination", "destination.ip"),
    Column::number("dst_port", "Port", "destination.port"),
    Column::text("flags", "TCP flags", "edr.psad.tcp_flags"),
    Column::number("icmp_type", "ICMP type", ""),
    Column::number("icmp_code", "ICMP code", ""),
    Column::text("interface_in", "In", "observer.ingress.interface.name"),
    Column::text("interface_out", "Out", "observer.egress.interface.name"),
    Column::number("length", "Length", "network.bytes"),
    Column::number("ttl", "TTL", ""),
    Column::number("repeated", "Times", "network.packets"),
    Column::text("cut", "Cut", ""),
    Column::text("raw", "Line", "event.original"),
];

pub(super) fn rows(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let Ok(packets) = snapshot.view.packets() else { return 1 };
    for packet in &packets {
        emit(&|| row(packet));
    }
    0
}

fn row(packet: &Packet) -> Vec<Cell> {
    vec![
        packet.time.map_or(Cell::Empty, Cell::Time),
        Cell::bytes(&packet.prefix),
        Cell::bytes(&packet.chain),
        Cell::bytes(&packet.protocol),
        Cell::bytes(&packet.src),
        Cell::optional(packet.src_port),
        Cell::bytes(&packet.dst),
        Cell::optional(packet.dst_port),
        Cell::bytes(&packet.flags),
        Cell::optional(packet.icmp_type),
        Cell::optional(packet.icmp_code),
        Cell::bytes(&packet.interface_in),
        Cell::bytes(&packet.interface_out),
        Cell::optional(packet.length),
        Cell::optional(packet.ttl),
        Cell::number(packet.repeated),
        Cell::Flag(packet.cut),
        Cell::bytes(&packet.raw),
    ]
}
