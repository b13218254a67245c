//! Packets as the firewall logged them.

use serde::{Deserialize, Serialize};

use super::process::is_false;
use crate::Bytes;

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
