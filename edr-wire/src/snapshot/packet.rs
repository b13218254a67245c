//! Packets logged by the firewall.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize, Serializer};

use super::msgpack;
use super::process::is_false;
use crate::Bytes;
use crate::bytes::escaped;

/// A logged packet: a parsed line of the kernel's `LOG` target or of nft `log`, with its raw text. A field missing in
/// the line is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Unix time, ns; `None` when the time of the line is unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Kernel timestamp of the line, microseconds since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_us: Option<u64>,
    /// Log prefix of the firewall rule.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub prefix: Bytes,
    /// `INPUT`, `FORWARD`, `OUTPUT`, derived from the interfaces as psad does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    /// Incoming interface.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub interface_in: Bytes,
    /// Outgoing interface.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub interface_out: Bytes,
    /// `MAC=` as logged.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub mac: Bytes,
    /// Source address, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// Destination address, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dst: String,
    /// `tcp`, `udp`, `udplite`, `icmp`, `icmpv6`, `esp`, `ah`, or the protocol number; empty when missing in the line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// TCP flags in the kernel's order, separated by spaces: `SYN`, `ACK SYN`; empty for a NULL packet and for other
    /// protocols.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Length of the IP packet, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Time to live, or hop limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Number of packets represented by the line: N for `message repeated N times`, and for `last message repeated N
    /// times` with the fields of the line before; otherwise 1.
    pub repeated: u32,
    /// True when the line was cut, so that the fields after the cut are missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// The line without its line end.
    pub raw: Bytes,
}

/// A [`Packet`] that borrows from its log line: the same row without a copy of each field, because a flood brings
/// thousands of packets per tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PacketRow<'a> {
    /// See [`Packet::time`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// See [`Packet::kernel_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_us: Option<u64>,
    /// See [`Packet::prefix`].
    #[serde(skip_serializing_if = "BytesRef::is_empty")]
    pub prefix: BytesRef<'a>,
    /// See [`Packet::chain`].
    #[serde(skip_serializing_if = "str::is_empty")]
    pub chain: &'static str,
    /// See [`Packet::interface_in`].
    #[serde(skip_serializing_if = "BytesRef::is_empty")]
    pub interface_in: BytesRef<'a>,
    /// See [`Packet::interface_out`].
    #[serde(skip_serializing_if = "BytesRef::is_empty")]
    pub interface_out: BytesRef<'a>,
    /// See [`Packet::mac`].
    #[serde(skip_serializing_if = "BytesRef::is_empty")]
    pub mac: BytesRef<'a>,
    /// See [`Packet::src`].
    #[serde(skip_serializing_if = "Address::is_none")]
    pub src: Address<'a>,
    /// See [`Packet::dst`].
    #[serde(skip_serializing_if = "Address::is_none")]
    pub dst: Address<'a>,
    /// See [`Packet::protocol`].
    #[serde(skip_serializing_if = "str::is_empty")]
    pub protocol: &'a str,
    /// See [`Packet::src_port`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// See [`Packet::dst_port`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// See [`Packet::icmp_type`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// See [`Packet::icmp_code`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// See [`Packet::flags`].
    #[serde(skip_serializing_if = "TcpFlags::is_empty")]
    pub flags: TcpFlags,
    /// See [`Packet::length`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// See [`Packet::ttl`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// See [`Packet::repeated`].
    pub repeated: u32,
    /// See [`Packet::cut`].
    #[serde(skip_serializing_if = "is_false")]
    pub cut: bool,
    /// See [`Packet::raw`].
    pub raw: BytesRef<'a>,
}

impl PacketRow<'_> {
    /// Appends the row as msgpack: the same bytes as serde writes, but without a serde call for each part of a field.
    /// In a flood this function is most of the work.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let fields = [
            self.time.is_some(),
            self.kernel_us.is_some(),
            !self.prefix.is_empty(),
            !self.chain.is_empty(),
            !self.interface_in.is_empty(),
            !self.interface_out.is_empty(),
            !self.mac.is_empty(),
            !self.src.is_none(),
            !self.dst.is_none(),
            !self.protocol.is_empty(),
            self.src_port.is_some(),
            self.dst_port.is_some(),
            self.icmp_type.is_some(),
            self.icmp_code.is_some(),
            !self.flags.is_empty(),
            self.length.is_some(),
            self.ttl.is_some(),
            true, // repeated
            self.cut,
            true, // raw
        ];
        out.reserve(ROW_BYTES_USUAL + self.raw.0.len());
        // Each key includes its length byte.
        msgpack::map_len(out, fields.into_iter().filter(|is_there| *is_there).count());
        if let Some(time) = self.time {
            out.extend_from_slice(b"\xa4time");
            msgpack::int(out, time);
        }
        msgpack::uint_field(out, b"\xa9kernel_us", self.kernel_us);
        msgpack::bin_field(out, b"\xa6prefix", self.prefix.0);
        msgpack::str_field(out, b"\xa5chain", self.chain);
        msgpack::bin_field(out, b"\xacinterface_in", self.interface_in.0);
        msgpack::bin_field(out, b"\xadinterface_out", self.interface_out.0);
        msgpack::bin_field(out, b"\xa3mac", self.mac.0);
        self.src.write(out, b"\xa3src");
        self.dst.write(out, b"\xa3dst");
        msgpack::str_field(out, b"\xa8protocol", self.protocol);
        msgpack::uint_field(out, b"\xa8src_port", self.src_port);
        msgpack::uint_field(out, b"\xa8dst_port", self.dst_port);
        msgpack::uint_field(out, b"\xa9icmp_type", self.icmp_type);
        msgpack::uint_field(out, b"\xa9icmp_code", self.icmp_code);
        match self.flags.only() {
            Some(name) => msgpack::str_field(out, b"\xa5flags", name),
            None if self.flags.is_empty() => {}
            None => msgpack::str_field(out, b"\xa5flags", &self.flags.text()),
        }
        msgpack::uint_field(out, b"\xa6length", self.length);
        msgpack::uint_field(out, b"\xa3ttl", self.ttl);
        msgpack::uint_field(out, b"\xa8repeated", Some(self.repeated));
        if self.cut {
            out.extend_from_slice(b"\xa3cut");
            out.push(msgpack::TRUE);
        }
        out.extend_from_slice(b"\xa3raw");
        msgpack::bin(out, self.raw.0);
    }
}

/// Usual bytes of a row, without its log line.
const ROW_BYTES_USUAL: usize = 384;

/// Borrowed [`Bytes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesRef<'a>(pub &'a [u8]);

impl BytesRef<'_> {
    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for BytesRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&escaped(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

/// An address of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Address<'a> {
    /// The line has no address, or an invalid address.
    #[default]
    None,
    /// IPv4 text as logged, which is canonical.
    V4(Dotted<'a>),
    /// IPv6 address, logged in full with leading zeros.
    V6(Ipv6Addr),
}

/// The text of an IPv4 address, which has only one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dotted<'a>(&'a [u8]);

impl<'a> Dotted<'a> {
    /// Accepts four numbers up to 255 without leading zeros, like [`std::net::Ipv4Addr`] but in a fraction of the time.
    pub fn new(text: &'a [u8]) -> Option<Self> {
        let mut rest = text.split_at(octet_len(text)?).1;
        for _ in 0..3 {
            rest = rest.strip_prefix(b".")?;
            rest = rest.split_at(octet_len(rest)?).1;
        }
        rest.is_empty().then_some(Self(text))
    }

    fn text(self) -> &'a str {
        std::str::from_utf8(self.0).unwrap_or_default()
    }
}

/// Returns the number of digits of the number (up to 255) at the start of `text`.
fn octet_len(text: &[u8]) -> Option<usize> {
    match text {
        [b'1', b'0'..=b'9', b'0'..=b'9', ..] | [b'2', b'0'..=b'4', b'0'..=b'9', ..] | [b'2', b'5', b'0'..=b'5', ..] => {
            Some(3)
        }
        [b'1'..=b'9', b'0'..=b'9', ..] => Some(2),
        [b'0'..=b'9', ..] => Some(1),
        _ => None,
    }
}

impl Address<'_> {
    /// True without an address.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Address<'_> {
    #[inline]
    fn write<const N: usize>(&self, out: &mut Vec<u8>, key: &[u8; N]) {
        match self {
            Self::None => {}
            Self::V4(dotted) => {
                out.extend_from_slice(key);
                msgpack::short_str(out, dotted.0);
            }
            Self::V6(address) => msgpack::str_field(out, key, &address.to_string()),
        }
    }
}

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str(""),
            Self::V4(dotted) => serializer.serialize_str(dotted.text()),
            Self::V6(address) => serializer.collect_str(address),
        }
    }
}

/// The flags of a TCP packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags(u8);

/// Flag names in the kernel's order.
const FLAG_NAMES: [&str; 8] = ["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"];

impl TcpFlags {
    /// Sets the flag with this name; returns false for an unknown name.
    pub fn set(&mut self, name: &[u8]) -> bool {
        let place = match name {
            b"CWR" => 0,
            b"ECE" => 1,
            b"URG" => 2,
            b"ACK" => 3,
            b"PSH" => 4,
            b"RST" => 5,
            b"SYN" => 6,
            b"FIN" => 7,
            _ => return false,
        };
        self.0 |= 1 << place;
        true
    }

    /// True when no flag is set.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl TcpFlags {
    /// Returns the name of the flag when exactly one flag is set, as in most scans.
    fn only(self) -> Option<&'static str> {
        self.0.is_power_of_two().then(|| FLAG_NAMES[self.0.trailing_zeros() as usize])
    }

    fn text(self) -> String {
        let mut text = String::with_capacity(31);
        for (place, name) in FLAG_NAMES.iter().enumerate() {
            if self.0 & (1 << place) != 0 {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(name);
            }
        }
        text
    }
}

impl Serialize for TcpFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.only() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_str(&self.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Rows, encode_row};
    use super::*;

    fn written(row: &PacketRow<'_>) -> Vec<u8> {
        let mut rows = Rows::default();
        rows.push_packet(row);
        rows.bytes().to_vec()
    }

    #[test]
    fn the_borrowed_row_has_the_bytes_of_the_owned_one() {
        let empty = (Packet { repeated: 1, ..Packet::default() }, PacketRow { repeated: 1, ..PacketRow::default() });
        let mut flags = TcpFlags::default();
        assert!(flags.set(b"SYN") && flags.set(b"ACK") && !flags.set(b"NS"));
        for (place, name) in FLAG_NAMES.iter().enumerate() {
            let mut flag = TcpFlags::default();
            assert!(flag.set(name.as_bytes()) && flag.0 == 1 << place && flag.only() == Some(name));
        }
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let full = (
            Packet {
                time: Some(-1),
                kernel_us: Some(2),
                prefix: Bytes::from("DROP \\"),
                chain: "FORWARD".to_owned(),
                interface_in: Bytes::from("eth0"),
                interface_out: Bytes::from(b"\xff"),
                mac: Bytes::from("46:12"),
                src: "192.0.2.1".to_owned(),
                dst: v6.to_string(),
                protocol: "tcp".to_owned(),
                src_port: Some(1),
                dst_port: Some(65_535),
                icmp_type: Some(3),
                icmp_code: Some(0),
                flags: "ACK SYN".to_owned(),
                length: Some(70_000),
                ttl: Some(64),
                repeated: 28,
                cut: true,
                raw: Bytes::from("all of it"),
            },
            PacketRow {
                time: Some(-1),
                kernel_us: Some(2),
                prefix: BytesRef(b"DROP \\"),
                chain: "FORWARD",
                interface_in: BytesRef(b"eth0"),
                interface_out: BytesRef(b"\xff"),
                mac: BytesRef(b"46:12"),
                src: Address::V4(Dotted::new(b"192.0.2.1").unwrap()),
                dst: Address::V6(v6),
                protocol: "tcp",
                src_port: Some(1),
                dst_port: Some(65_535),
                icmp_type: Some(3),
                icmp_code: Some(0),
                flags,
                length: Some(70_000),
                ttl: Some(64),
                repeated: 28,
                cut: true,
                raw: BytesRef(b"all of it"),
            },
        );
        for (owned, borrowed) in [empty, full] {
            assert_eq!(encode_row(&borrowed), encode_row(&owned));
            assert_eq!(written(&borrowed), encode_row(&owned));
            assert_eq!(serde_json::to_string(&borrowed).unwrap(), serde_json::to_string(&owned).unwrap());
        }
    }

    proptest! {
        #[test]
        fn ipv4_addresses_parse_as_in_the_standard_library(
            text in "([0-9]{1,4}|[.x]){0,9}|([0-9]{1,3}\\.){3}[0-9]{1,3}",
            address in any::<u32>(),
        ) {
            let is_address = text.parse::<std::net::Ipv4Addr>().is_ok();
            prop_assert_eq!(Dotted::new(text.as_bytes()).is_some(), is_address, "{}", text);
            let text = std::net::Ipv4Addr::from(address).to_string();
            prop_assert_eq!(Dotted::new(text.as_bytes()).map(Dotted::text), Some(text.as_str()));
        }

        #[test]
        fn a_row_is_written_as_serde_does(
            (time, kernel_us, length, repeated) in any::<(Option<i64>, Option<u64>, Option<u32>, u32)>(),
            (shift, cut) in (0..64_u32, any::<bool>()),
            (src_port, dst_port) in any::<(Option<u16>, Option<u16>)>(),
            (icmp_type, icmp_code, ttl, flags) in any::<(Option<u8>, Option<u8>, Option<u8>, u8)>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            (text, address, dotted) in ("[a-z]{0,40}", any::<Option<u128>>(), any::<u32>()),
            (raw_len, fill) in (prop_oneof![0..300_usize, 65_530..65_540_usize], any::<u8>()),
        ) {
            let raw = vec![fill; raw_len];
            let (time, kernel_us) = (time.map(|time| time >> shift), kernel_us.map(|us| us >> shift));
            let (length, repeated) = (length.map(|length| length >> (shift / 2)), repeated >> (shift / 2));
            let src = address.map_or(Address::None, |address| Address::V6(address.into()));
            let dotted = std::net::Ipv4Addr::from(dotted).to_string();
            let dst = if cut { Address::None } else { Address::V4(Dotted::new(dotted.as_bytes()).unwrap()) };
            let row = PacketRow {
                time,
                kernel_us,
                prefix: BytesRef(&bytes),
                chain: ["", "INPUT"][usize::from(cut)],
                interface_in: BytesRef(&bytes[bytes.len() / 2..]),
                interface_out: BytesRef(&bytes[..bytes.len() / 3]),
                mac: BytesRef(&bytes[bytes.len() / 4..]),
                src,
                dst,
                protocol: &text[text.len() / 2..],
                src_port,
                dst_port,
                icmp_type,
                icmp_code,
                flags: TcpFlags(flags),
                length,
                ttl,
                repeated,
                cut,
                raw: BytesRef(&raw),
            };
            prop_assert_eq!(written(&row), encode_row(&row));
        }
    }
}
