//! A socket from any source, before its conversion to a row.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edr_wire::Bytes;
use edr_wire::snapshot::{Family, Socket};

use crate::common::owner::Owner;

/// A socket. The order of the fields is the order of rows; names are static and addresses are numbers, so a dump of
/// many sockets allocates only for unix paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SocketEntry {
    pub(super) inode: u64,
    pub(super) netns: u64,
    pub(super) protocol: SocketProtocol,
    pub(super) local: SocketAddress,
    pub(super) local_port: u32,
    pub(super) remote: SocketAddress,
    pub(super) remote_port: u32,
    pub(super) family: Family,
    pub(super) state: &'static str,
    pub(super) path: Box<[u8]>,
    pub(super) peer_inode: u64,
    pub(super) interface: u32,
    pub(super) uid: Option<u32>,
    pub(super) receive_queue: u64,
    pub(super) send_queue: u64,
    pub(super) v6only: bool,
    pub(super) groups: Box<[u32]>,
    pub(super) promiscuous: bool,
    /// Whose share of the rows the socket takes.
    pub(super) owner: Owner,
}

/// Name of a protocol, or the number of a protocol without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SocketProtocol {
    Named(&'static str),
    Number(u32),
}

/// An address, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SocketAddress {
    None,
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// Virtual machine of a vsock(7) socket.
    ContextId(u32),
}

impl SocketAddress {
    /// True for none, `0.0.0.0` and `::`.
    fn is_unspecified(self) -> bool {
        match self {
            Self::None => true,
            Self::V4(ip) => ip.is_unspecified(),
            Self::V6(ip) => ip.is_unspecified(),
            Self::ContextId(_) => false,
        }
    }
}

impl From<IpAddr> for SocketAddress {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6(ip),
        }
    }
}

impl SocketEntry {
    /// A socket of `family` with nothing else known.
    pub(super) fn new(family: Family, protocol: SocketProtocol, state: &'static str) -> Self {
        Self {
            inode: 0,
            netns: 0,
            protocol,
            local: SocketAddress::None,
            local_port: 0,
            remote: SocketAddress::None,
            remote_port: 0,
            family,
            state,
            path: Box::default(),
            peer_inode: 0,
            interface: 0,
            uid: None,
            receive_queue: 0,
            send_queue: 0,
            v6only: false,
            groups: Box::default(),
            promiscuous: false,
            owner: Owner::OTHERS,
        }
    }

    /// Writes the wire row over `row`, whose buffers are reused.
    pub(super) fn fill(&self, row: &mut Socket) {
        row.inode = self.inode;
        row.netns = self.netns;
        row.family = self.family;
        row.protocol.clear();
        match self.protocol {
            SocketProtocol::Named(name) => row.protocol.push_str(name),
            SocketProtocol::Number(number) => write_into(&mut row.protocol, &number),
        }
        row.state.clear();
        row.state.push_str(self.state);
        row.local.clear();
        write_address(&mut row.local, self.local);
        row.local_port = self.local_port;
        row.remote.clear();
        // `0.0.0.0:0` means no remote end.
        if self.remote_port != 0 || !self.remote.is_unspecified() {
            write_address(&mut row.remote, self.remote);
        }
        row.remote_port = self.remote_port;
        row.interface = self.interface.into();
        row.uid = self.uid;
        row.receive_queue = self.receive_queue;
        row.send_queue = self.send_queue;
        let Bytes(path) = &mut row.path;
        path.clear();
        path.extend_from_slice(&self.path);
        row.peer_inode = self.peer_inode;
        row.v6only = self.v6only;
        row.groups.clear();
        row.groups.extend_from_slice(&self.groups);
        row.promiscuous = self.promiscuous;
    }
}

fn write_address(text: &mut String, address: SocketAddress) {
    match address {
        SocketAddress::None => {}
        SocketAddress::V4(ip) => write_into(text, &ip),
        SocketAddress::V6(ip) => write_into(text, &ip),
        SocketAddress::ContextId(id) => write_into(text, &id),
    }
}

fn write_into(text: &mut String, value: &dyn std::fmt::Display) {
    // Writing to a String has no error.
    let _ = write!(text, "{value}");
}

/// Name of a TCP state (`include/net/tcp_states.h`) in the spelling of ss(8)'s filters; all protocols share the
/// numbers.
pub(super) fn tcp_state(number: u8) -> &'static str {
    match number {
        1 => "established",
        2 => "syn-sent",
        // 12 is TCP_NEW_SYN_RECV, the same to everyone outside the kernel.
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 => "unconnected",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listen",
        11 => "closing",
        _ => "unknown",
    }
}

/// Name of a socket type (socket(2)).
pub(super) fn socket_type(number: u16) -> SocketProtocol {
    match number {
        1 => SocketProtocol::Named("stream"),
        2 => SocketProtocol::Named("dgram"),
        3 => SocketProtocol::Named("raw"),
        4 => SocketProtocol::Named("rdm"),
        5 => SocketProtocol::Named("seqpacket"),
        10 => SocketProtocol::Named("packet"),
        other => SocketProtocol::Number(other.into()),
    }
}

/// Protocol of this source's own queries.
pub(super) const SOCK_DIAG: SocketProtocol = SocketProtocol::Named("sock_diag");

/// Name of a netlink protocol: `NETLINK_*` of `linux/netlink.h` in lower case.
pub(super) fn netlink_protocol(number: u8) -> SocketProtocol {
    let name = match number {
        0 => "route",
        2 => "usersock",
        3 => "firewall",
        4 => return SOCK_DIAG,
        5 => "nflog",
        6 => "xfrm",
        7 => "selinux",
        8 => "iscsi",
        9 => "audit",
        10 => "fib_lookup",
        11 => "connector",
        12 => "netfilter",
        13 => "ip6_fw",
        14 => "dnrtmsg",
        15 => "kobject_uevent",
        16 => "generic",
        18 => "scsitransport",
        19 => "ecryptfs",
        20 => "rdma",
        21 => "crypto",
        22 => "smc",
        other => return SocketProtocol::Number(other.into()),
    };
    SocketProtocol::Named(name)
}
