//! Parsers of `/proc/PID/net` (proc(5)): the only way to read a network namespace without entering, and the only source
//! of tables without sock_diag. The files contain less: no peer and no uid of unix sockets, no `IPV6_V6ONLY`, no
//! backlog size.

use std::net::{Ipv4Addr, Ipv6Addr};

use edr_wire::snapshot::Family;

use super::entry::{SocketAddress, SocketEntry, SocketProtocol, netlink_protocol, socket_type, tcp_state};
use super::message::MalformedMessage;

/// Rows of `tcp`, `udp`, `udplite`, `raw`, `icmp` and their `…6`.
pub(super) fn inet(
    file: &[u8],
    family: Family,
    protocol: &'static str,
) -> impl Iterator<Item = Result<SocketEntry, MalformedMessage>> {
    rows(file).map(move |line| inet_row(line, family, protocol).ok_or(MalformedMessage("row of an IP protocol")))
}

/// Rows of `packet`.
pub(super) fn packet(file: &[u8]) -> impl Iterator<Item = Result<SocketEntry, MalformedMessage>> {
    rows(file).map(|line| packet_row(line).ok_or(MalformedMessage("row of packet")))
}

/// Rows of `netlink`.
pub(super) fn netlink(file: &[u8]) -> impl Iterator<Item = Result<SocketEntry, MalformedMessage>> {
    rows(file).map(|line| netlink_row(line).ok_or(MalformedMessage("row of netlink")))
}

/// Rows of `unix`. The kernel writes names unescaped, line breaks included: a line in another form continues the
/// previous name. A name can also contain a whole forged row; the count in `protocols` shows the forgery ([`in_use`]).
pub(super) fn unix(file: &[u8]) -> Vec<Result<SocketEntry, MalformedMessage>> {
    let mut all: Vec<Result<SocketEntry, MalformedMessage>> = Vec::new();
    let mut last_is_named = false;
    // The kernel terminates each row, so the part after the last line break is empty.
    for line in file.strip_suffix(b"\n").unwrap_or(file).split(|&byte| byte == b'\n').skip(1) {
        match (unix_row(line), all.last_mut()) {
            (Some((found, is_named)), _) => {
                all.push(Ok(found));
                last_is_named = is_named;
            }
            (None, Some(Ok(named))) if last_is_named => {
                named.path = [&named.path, b"\n".as_slice(), line].concat().into();
            }
            (None, _) => all.push(Err(MalformedMessage("row of unix"))),
        }
    }
    all
}

/// Rows of `protocols`: the kernel's name of a protocol, and the number of its sockets in use in the namespace.
pub(super) fn in_use(file: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    rows(file).filter_map(|line| {
        let mut fields = fields(line);
        let name = fields.next()?;
        // A negative count is a race between processors.
        let sockets = fields.nth(1)?;
        Some((name, if sockets.starts_with(b"-") { 0 } else { decimal(sockets)? }))
    })
}

/// Number of time-wait sockets from `sockstat`; no count of `protocols` includes these.
pub(super) fn time_wait(sockstat: &[u8]) -> Option<u64> {
    let line = sockstat.split(|&byte| byte == b'\n').find(|line| line.starts_with(b"TCP: "))?;
    let mut fields = fields(line);
    fields.find(|field| *field == b"tw")?;
    decimal(fields.next()?)
}

/// The lines after the heading.
fn rows(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n').skip(1).filter(|line| !line.is_empty())
}

fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ').filter(|field| !field.is_empty())
}

fn inet_row(line: &[u8], family: Family, protocol: &'static str) -> Option<SocketEntry> {
    let mut fields = fields(line).skip(1);
    let (local, local_port) = endpoint(fields.next()?, family)?;
    let (remote, remote_port) = endpoint(fields.next()?, family)?;
    let state = u8::try_from(hex(fields.next()?)?).ok()?;
    let (send_queue, receive_queue) = halves(fields.next()?)?;
    let uid = decimal(fields.nth(2)?)?;
    let inode = decimal(fields.nth(1)?)?;
    let mut found = SocketEntry::new(family, SocketProtocol::Named(protocol), tcp_state(state));
    (found.local, found.local_port) = (local, local_port);
    (found.remote, found.remote_port) = (remote, remote_port);
    (found.send_queue, found.receive_queue) = (hex(send_queue)?, hex(receive_queue)?);
    found.inode = inode;
    found.uid = if inode == 0 { None } else { Some(u32::try_from(uid).ok()?) };
    Some(found)
}

/// `0100007F:0016`: the address in words of the machine's byte order, and the port.
fn endpoint(field: &[u8], family: Family) -> Option<(SocketAddress, u32)> {
    let (address, port) = halves(field)?;
    let word = |at: usize| Some(u32::try_from(hex(address.get(at..at + 8)?)?).ok()?.to_ne_bytes());
    let address = match (family, address.len()) {
        (Family::Inet, 8) => SocketAddress::V4(Ipv4Addr::from(word(0)?)),
        (Family::Inet6, 32) => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            SocketAddress::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address, u16::try_from(hex(port)?).ok()?.into()))
}

fn halves(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    Some((&field[..colon], &field[colon + 1..]))
}

fn packet_row(line: &[u8]) -> Option<SocketEntry> {
    let mut fields = fields(line).skip(2);
    let kind = u16::try_from(decimal(fields.next()?)?).ok()?;
    let ethernet_protocol = u16::try_from(hex(fields.next()?)?).ok()?;
    let interface = u32::try_from(decimal(fields.next()?)?).ok()?;
    let receive_queue = decimal(fields.nth(1)?)?;
    let uid = u32::try_from(decimal(fields.next()?)?).ok()?;
    let inode = decimal(fields.next()?)?;
    let mut found = SocketEntry::new(Family::Packet, socket_type(kind), "unconnected");
    (found.local_port, found.interface) = (ethernet_protocol.into(), interface);
    (found.receive_queue, found.uid, found.inode) = (receive_queue, Some(uid), inode);
    Some(found)
}

fn netlink_row(line: &[u8]) -> Option<SocketEntry> {
    let mut fields = fields(line).skip(1);
    let protocol = u8::try_from(decimal(fields.next()?)?).ok()?;
    let port_id = port_id(fields.next()?)?;
    let groups = u32::try_from(hex(fields.next()?)?).ok()?;
    let (receive_queue, send_queue) = (decimal(fields.next()?)?, decimal(fields.next()?)?);
    let inode = decimal(fields.nth(3)?)?;
    let mut found = SocketEntry::new(Family::Netlink, netlink_protocol(protocol), "unconnected");
    (found.local_port, found.inode) = (port_id, inode);
    (found.receive_queue, found.send_queue) = (receive_queue, send_queue);
    found.groups = (0..u32::BITS).filter(|bit| groups >> bit & 1 == 1).map(|bit| bit + 1).collect();
    Some(found)
}

/// Kernels before 5.3 print a port id chosen by the kernel as a negative number.
fn port_id(field: &[u8]) -> Option<u32> {
    match field.strip_prefix(b"-") {
        Some(digits) => Some(u32::try_from(decimal(digits)?).ok()?.wrapping_neg()),
        None => u32::try_from(decimal(field)?).ok(),
    }
}

/// Parses `%pK: %08X %08X %08X %04X %02X %5lu`, then a space and the name, if any; true for a row with a name.
fn unix_row(line: &[u8]) -> Option<(SocketEntry, bool)> {
    let mut rest = line;
    let mut take = |digits: std::ops::RangeInclusive<usize>, end: &[u8]| {
        let len = rest.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(rest.len());
        let number = hex(&rest[..len]).filter(|_| digits.contains(&len))?;
        rest = rest[len..].strip_prefix(end)?;
        Some(number)
    };
    take(8..=16, b": ")?;
    take(8..=8, b" ")?;
    take(8..=8, b" ")?;
    let flags = take(8..=8, b" ")?;
    let kind = u16::try_from(take(4..=4, b" ")?).ok()?;
    let state = take(2..=2, b" ")?;
    // The inode is right-aligned to five places.
    let spaces = rest.iter().take(4).take_while(|&&byte| byte == b' ').count();
    let inode_and_name = &rest[spaces..];
    let digits = inode_and_name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(inode_and_name.len());
    if digits.max(1) + spaces < 5 {
        return None;
    }
    let inode = decimal(&inode_and_name[..digits])?;
    let (name, is_named) = match &inode_and_name[digits..] {
        [] => ([].as_slice(), false),
        [b' ', name @ ..] => (name, true),
        _ => return None,
    };
    let mut found = SocketEntry::new(Family::Unix, socket_type(kind), unix_state(flags, state));
    found.inode = inode;
    // An abstract name is written with an `@` in front and in place of each NUL byte.
    found.path = match name {
        [b'@', name @ ..] => [b"\0", name].concat().into(),
        path => path.into(),
    };
    Some((found, is_named))
}

/// `SO_ACCEPTCON` among the flags, else `SS_*` of `linux/net.h`.
fn unix_state(flags: u64, state: u64) -> &'static str {
    const SO_ACCEPTCON: u64 = 0x10000;
    match state {
        _ if flags & SO_ACCEPTCON != 0 => "listen",
        1 => "unconnected",
        2 => "syn-sent",
        3 => "established",
        4 => "closing",
        _ => "unknown",
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    number(digits, 16)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

/// Digits and nothing else: `from_str_radix` would take a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| char::from(*byte).to_digit(radix).map(u64::from);
    rest.iter().try_fold(digit(first)?, |number, byte| number.checked_mul(radix.into())?.checked_add(digit(byte)?))
}

#[cfg(test)]
mod tests;
