//! Packets as the firewall logged them.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize, Serializer};

use super::process::is_false;
use crate::Bytes;
use crate::bytes::escaped;

/// One logged packet: a line of the kernel's `LOG` target or of nft `log`, parsed, with its raw text.
/// A field is `None` where the line does not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Unix time, ns; `None` where the line's time could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Kernel stamp, microseconds since boot, where the line has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_us: Option<u64>,
    /// Log prefix of the rule.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub prefix: Bytes,
    /// `INPUT`, `FORWARD`, `OUTPUT`, as psad derives it from the interfaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    /// Interface it came in on.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub interface_in: Bytes,
    /// Interface it goes out on.
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
    /// `tcp`, `udp`, `udplite`, `icmp`, `icmpv6`, `esp`, `ah`, or the protocol number; empty where the line has none.
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
    /// TCP flags in the kernel's order, space-separated: `SYN`, `ACK SYN`; empty for a NULL packet and for other protocols.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Length of the IP packet, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Time to live, or hop limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// How many packets the line stands for (`message repeated N times`), 1 otherwise.
    pub repeated: u32,
    /// The line was cut, so the fields after the cut are missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// The line as it is, without its end.
    pub raw: Bytes,
}

/// A [`Packet`] that borrows from its line: the same row, without a copy of each field. A flood is thousands of them
/// in a tick.
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

/// [`Bytes`] that are borrowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesRef<'a>(pub &'a [u8]);

impl BytesRef<'_> {
    /// True when there is not one byte.
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
    /// The line has none, or one that is none.
    #[default]
    None,
    /// In its canonical form already: IPv4 has only that one.
    Canonical(&'a str),
    /// Logged in full, with leading zeros.
    V6(Ipv6Addr),
}

impl Address<'_> {
    /// There is none.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str(""),
            Self::Canonical(text) => serializer.serialize_str(text),
            Self::V6(address) => serializer.collect_str(address),
        }
    }
}

/// The flags of a TCP packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags(u8);

/// In the kernel's order.
const FLAG_NAMES: [&str; 8] = ["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"];

impl TcpFlags {
    /// Sets the flag of that name; false when there is none.
    pub fn set(&mut self, name: &[u8]) -> bool {
        let place = FLAG_NAMES.iter().position(|flag| flag.as_bytes() == name);
        self.0 |= place.map_or(0, |place| 1 << place);
        place.is_some()
    }

    /// No flag.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for TcpFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A scan is of one flag, mostly.
        if self.0.is_power_of_two() {
            return serializer.serialize_str(FLAG_NAMES[self.0.trailing_zeros() as usize]);
        }
        let mut text = String::with_capacity(31);
        for (place, name) in FLAG_NAMES.iter().enumerate() {
            if self.0 & (1 << place) != 0 {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(name);
            }
        }
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode_row;
    use super::*;

    #[test]
    fn the_borrowed_row_has_the_bytes_of_the_owned_one() {
        let empty = (Packet { repeated: 1, ..Packet::default() }, PacketRow { repeated: 1, ..PacketRow::default() });
        let mut flags = TcpFlags::default();
        assert!(flags.set(b"SYN") && flags.set(b"ACK") && !flags.set(b"NS"));
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
                src: Address::Canonical("192.0.2.1"),
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
            assert_eq!(serde_json::to_string(&borrowed).unwrap(), serde_json::to_string(&owned).unwrap());
        }
    }
}
