//! All socket tables of a network namespace, and the two ways to read each.

use std::io;

use edr_wire::snapshot::Family;

use super::entry::SocketEntry;
use super::message::MalformedMessage;
use super::netlink::{Diag, Dump};
use super::{inet_diag, netlink_diag, packet_diag, proc_net, unix_diag, vsock_diag, xdp_diag};

/// A socket table.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketTable {
    /// Name in gaps, and name of the file in `/proc/PID/net`.
    pub(super) name: &'static str,
    /// The kernel's names of the table's protocols in `/proc/PID/net/protocols`.
    pub(super) registered_as: &'static [&'static str],
    /// Query to `sock_diag`.
    pub(super) asked: DiagQuery,
    /// File in `/proc/PID/net`.
    pub(super) file: Option<NetFile>,
    /// Coverage of the kernel's count in `protocols`.
    pub(super) counted: CountCoverage,
}

/// Sockets of a table missing in the kernel's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountCoverage {
    /// None: a count of 0 means an empty table.
    Whole,
    /// Missing: sockets in time-wait, counted in `sockstat`; and bound sockets, counted nowhere and listed only by
    /// sock_diag.
    TcpInUse,
    /// Missing: the kernel's own sockets, which are the same in every namespace.
    ButKernels,
    /// All sockets are missing, or the missing sockets are unknown.
    Unsure,
}

/// A request to `sock_diag`.
#[derive(Debug, Clone, Copy)]
pub(super) enum DiagQuery {
    /// There is none: ping sockets.
    Nothing,
    /// An IP protocol.
    Inet(Family, u16),
    Unix,
    Packet,
    Netlink,
    Vsock,
    Xdp,
}

/// The format of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum NetFile {
    Inet(Family, &'static str),
    Unix,
    Packet,
    Netlink,
}

const fn inet(
    name: &'static str,
    registered_as: &'static [&'static str],
    family: Family,
    number: u16,
    file: Option<&'static str>,
    counted: CountCoverage,
) -> SocketTable {
    let file = match file {
        Some(protocol) => Some(NetFile::Inet(family, protocol)),
        None => None,
    };
    SocketTable { name, registered_as, asked: DiagQuery::Inet(family, number), file, counted }
}

const fn ping(name: &'static str, registered_as: &'static [&'static str], family: Family) -> SocketTable {
    SocketTable {
        name,
        registered_as,
        asked: DiagQuery::Nothing,
        file: Some(NetFile::Inet(family, "icmp")),
        counted: CountCoverage::Whole,
    }
}

use CountCoverage::{ButKernels, TcpInUse, Unsure, Whole};
use Family::{Inet, Inet6};

/// All tables, in the order of reading.
pub(super) const TABLES: [SocketTable; 21] = [
    inet("tcp", &["TCP"], Inet, inet_diag::TCP, Some("tcp"), TcpInUse),
    inet("tcp6", &["TCPv6"], Inet6, inet_diag::TCP, Some("tcp"), TcpInUse),
    inet("mptcp", &["MPTCP"], Inet, inet_diag::MPTCP, None, Whole),
    inet("mptcp6", &["MPTCPv6"], Inet6, inet_diag::MPTCP, None, Whole),
    inet("udp", &["UDP"], Inet, inet_diag::UDP, Some("udp"), Whole),
    inet("udp6", &["UDPv6"], Inet6, inet_diag::UDP, Some("udp"), Whole),
    inet("udplite", &["UDP-Lite"], Inet, inet_diag::UDPLITE, Some("udplite"), Whole),
    inet("udplite6", &["UDPLITEv6"], Inet6, inet_diag::UDPLITE, Some("udplite"), Whole),
    inet("raw", &["RAW"], Inet, inet_diag::RAW, Some("raw"), Whole),
    inet("raw6", &["RAWv6"], Inet6, inet_diag::RAW, Some("raw"), Whole),
    inet("sctp", &["SCTP"], Inet, inet_diag::SCTP, None, Unsure),
    inet("sctp6", &["SCTPv6"], Inet6, inet_diag::SCTP, None, Unsure),
    inet("dccp", &["DCCP"], Inet, inet_diag::DCCP, None, Unsure),
    inet("dccp6", &["DCCPv6"], Inet6, inet_diag::DCCP, None, Unsure),
    ping("icmp", &["PING"], Inet),
    ping("icmp6", &["PINGv6"], Inet6),
    SocketTable {
        name: "unix",
        registered_as: &["UNIX", "UNIX-STREAM"],
        asked: DiagQuery::Unix,
        file: Some(NetFile::Unix),
        counted: Whole,
    },
    SocketTable {
        name: "packet",
        registered_as: &["PACKET"],
        asked: DiagQuery::Packet,
        file: Some(NetFile::Packet),
        counted: Whole,
    },
    SocketTable {
        name: "netlink",
        registered_as: &["NETLINK"],
        asked: DiagQuery::Netlink,
        file: Some(NetFile::Netlink),
        counted: ButKernels,
    },
    SocketTable { name: "vsock", registered_as: &["AF_VSOCK"], asked: DiagQuery::Vsock, file: None, counted: Unsure },
    SocketTable { name: "xdp", registered_as: &["XDP"], asked: DiagQuery::Xdp, file: None, counted: Whole },
];

impl SocketTable {
    /// True when `protocol` of `/proc/PID/net/protocols` belongs to this table.
    pub(super) fn is_registered_as(&self, protocol: &[u8]) -> bool {
        self.registered_as.iter().any(|known| known.as_bytes() == protocol)
    }

    /// True for a file with less content than `sock_diag`: no peer, no uid, no groups beyond 32.
    pub(super) fn file_tells_less(&self) -> bool {
        matches!(self.file, Some(NetFile::Unix | NetFile::Packet | NetFile::Netlink))
    }

    /// Asks the kernel for the whole table and gives each row to `take`.
    ///
    /// # Errors
    /// As [`Diag::dump`]; `ENOENT` for a table without a query.
    pub(super) fn dump(
        &self,
        diag: &mut Diag,
        mut take: impl FnMut(Result<SocketEntry, MalformedMessage>),
    ) -> io::Result<Dump> {
        match self.asked {
            DiagQuery::Nothing => Err(rustix::io::Errno::NOENT.into()),
            DiagQuery::Inet(family, number) => {
                diag.dump(&inet_diag::request(family, number), |row| take(inet_diag::parse(row, number)))
            }
            DiagQuery::Unix => diag.dump(&unix_diag::request(), |row| take(unix_diag::parse(row))),
            DiagQuery::Packet => diag.dump(&packet_diag::request(), |row| take(packet_diag::parse(row))),
            DiagQuery::Netlink => diag.dump(&netlink_diag::request(), |row| take(netlink_diag::parse(row))),
            DiagQuery::Vsock => diag.dump(&vsock_diag::request(), |row| take(vsock_diag::parse(row))),
            DiagQuery::Xdp => diag.dump(&xdp_diag::request(), |row| take(xdp_diag::parse(row))),
        }
    }
}

impl NetFile {
    /// Gives each row of the file's text to `take`.
    pub(super) fn parse(self, text: &[u8], take: impl FnMut(Result<SocketEntry, MalformedMessage>)) {
        match self {
            Self::Inet(family, protocol) => proc_net::inet(text, family, protocol).for_each(take),
            Self::Unix => proc_net::unix(text).into_iter().for_each(take),
            Self::Packet => proc_net::packet(text).for_each(take),
            Self::Netlink => proc_net::netlink(text).for_each(take),
        }
    }
}
