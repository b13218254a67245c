//! Sockets, by network namespace.

use serde::{Deserialize, Serialize};

use super::process::{is_false, is_zero};
use crate::Bytes;

/// One socket. Rows are sorted by inode; sockets without one (time-wait, new ones) come first, by their endpoints.
/// Owners are the open files of kind `socket` with the same inode; a socket may have several, or none.
/// ECS: `network.*`, `edr.socket.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Inode in sockfs; 0 when the kernel has none any more (time-wait).
    pub inode: u64,
    /// Inode of the network namespace.
    pub netns: u64,
    /// `inet`, `inet6`, `unix`, `packet`, `netlink`, `vsock`, `xdp`.
    pub family: Family,
    /// `tcp`, `mptcp`, `udp`, `udplite`, `raw`, `icmp` (ping sockets), `sctp`, `dccp`; for unix and packet `stream`, `dgram`, `seqpacket`, `raw`; for netlink the kernel's part, `route`, `audit`, `connector`, …; the number where it has no name.
    pub protocol: String,
    /// As the filters of ss(8) name it: `established`, `syn-sent`, `syn-recv`, `fin-wait-1`, `fin-wait-2`, `time-wait`,
    /// `close-wait`, `last-ack`, `listen`, `closing`; `unconnected` where there is no connection.
    pub state: String,
    /// Local address, canonical text; for vsock the context id. Unix sockets have `path`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local: String,
    /// Local port; for raw sockets the IP protocol, for icmp the identifier, for packet sockets the Ethernet protocol,
    /// for netlink the port id, for xdp the queue of the interface.
    pub local_port: u32,
    /// Remote address, canonical text; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// Remote port.
    pub remote_port: u32,
    /// Interface index it is bound to; 0 for any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interface: u64,
    /// Owner as the kernel keeps it; `None` where the kernel does not tell: netlink and vsock sockets, sockets without an inode,
    /// and unix sockets of another network namespace than the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Bytes waiting to be read; for a listening socket the connections waiting to be accepted. `/proc/net/unix` does
    /// not tell: 0 for unix sockets of another network namespace.
    pub receive_queue: u64,
    /// Bytes waiting to be sent; for a listening socket the most connections that may wait (0 in another network
    /// namespace, where the kernel does not tell).
    pub send_queue: u64,
    /// Path of a unix socket; an abstract name starts with a NUL byte.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub path: Bytes,
    /// Inode of the connected unix socket at the other end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub peer_inode: u64,
    /// An IPv6 socket that takes no IPv4 (`IPV6_V6ONLY`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub v6only: bool,
    /// netlink(7) multicast groups it listens to, ascending: who hears of every exec, route or audit record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// A packet socket that put an interface into promiscuous mode (`PACKET_MR_PROMISC`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub promiscuous: bool,
}

/// Address family of a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// Local sockets, unix(7).
    Unix,
    /// Link-layer sockets, packet(7): who sniffs.
    Packet,
    /// netlink(7).
    Netlink,
    /// Between a virtual machine and its host, vsock(7).
    Vsock,
    /// `AF_XDP`: frames taken from the driver, past the network stack.
    Xdp,
    /// Anything else.
    #[default]
    #[serde(other)]
    Unknown,
}
