//! Sockets of all network namespaces.

use serde::{Deserialize, Serialize};

use super::process::{is_false, is_zero};
use crate::Bytes;

/// A socket. Rows are sorted by inode; sockets without an inode (time-wait, new sockets) come first, by their
/// endpoints. The owners of a socket are the open files of kind `socket` with the same inode: several, one or none.
/// ECS: `network.*`, `edr.socket.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Inode in sockfs; 0 for sockets without an inode (time-wait).
    pub inode: u64,
    /// Inode of the network namespace.
    pub netns: u64,
    /// `inet`, `inet6`, `unix`, `packet`, `netlink`, `vsock`, `xdp`.
    pub family: Family,
    /// `tcp`, `mptcp`, `udp`, `udplite`, `raw`, `icmp` (ping sockets), `sctp`, `dccp`; for unix and packet sockets
    /// `stream`, `dgram`, `seqpacket`, `raw`; for netlink the kernel subsystem: `route`, `audit`, `connector`, …; the
    /// number of a protocol without a name.
    pub protocol: String,
    /// Name of the state as in the filters of ss(8): `established`, `syn-sent`, `syn-recv`, `fin-wait-1`, `fin-wait-2`,
    /// `time-wait`, `close-wait`, `last-ack`, `listen`, `closing`; `unconnected` without a connection.
    pub state: String,
    /// Local address, canonical text; for vsock the context id. Unix sockets have `path` instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local: String,
    /// Local port; for raw sockets the IP protocol, for icmp the identifier, for packet sockets the Ethernet protocol,
    /// for netlink the port id, for xdp the queue of the interface.
    pub local_port: u32,
    /// Remote address, canonical text; empty without a peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// Remote port.
    pub remote_port: u32,
    /// Index of the interface to which the socket is bound; 0 for any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interface: u64,
    /// Owner's uid according to the kernel; `None` where the kernel does not report a uid: netlink and vsock sockets,
    /// sockets without an inode, and unix sockets of another network namespace than the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Bytes waiting to be read; for a listening socket the connections waiting to be accepted. 0 for unix sockets of
    /// another network namespace, because `/proc/net/unix` lacks the value.
    pub receive_queue: u64,
    /// Bytes waiting to be sent; for a listening socket the maximum of waiting connections (0 in another network
    /// namespace, where the kernel does not report the maximum).
    pub send_queue: u64,
    /// Path of a unix socket; an abstract name starts with a NUL byte.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub path: Bytes,
    /// Inode of the unix socket at the other end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub peer_inode: u64,
    /// True for an IPv6 socket that accepts no IPv4 (`IPV6_V6ONLY`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub v6only: bool,
    /// netlink(7) multicast groups joined by the socket, ascending. They show the receivers of exec, route and audit
    /// records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// True for a packet socket that put an interface into promiscuous mode (`PACKET_MR_PROMISC`).
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
    /// Link-layer sockets, packet(7): packet sniffers.
    Packet,
    /// netlink(7).
    Netlink,
    /// Between a virtual machine and its host, vsock(7).
    Vsock,
    /// `AF_XDP`: frames taken directly from the driver, without the network stack.
    Xdp,
    /// Any other family.
    #[default]
    #[serde(other)]
    Unknown,
}
