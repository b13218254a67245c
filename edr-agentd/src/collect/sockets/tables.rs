//! Every table of sockets that a network namespace has, and the two ways to read each.

use std::io;

use edr_wire::snapshot::Family;

use super::found::Found;
use super::message::Malformed;
use super::netlink::{Diag, Dump};
use super::{inet_diag, netlink_diag, packet_diag, proc_net, unix_diag, vsock_diag, xdp_diag};

/// One table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// Its name in gaps, and that of its file in `/proc/PID/net`.
    pub(super) name: &'static str,
    /// The kernel's names for its protocols in `/proc/PID/net/protocols`.
    pub(super) registered_as: &'static [&'static str],
    /// What `sock_diag` is asked.
    pub(super) asked: Asked,
    /// What `/proc/PID/net` holds.
    pub(super) file: Option<File>,
    /// What the kernel's count in `protocols` says about it.
    pub(super) counted: Counted,
}

/// Which sockets of a table the kernel's count leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// None: a count of 0 means an empty table.
    Whole,
    /// Those in time-wait, which `sockstat` counts, and bound ones, which nobody counts and only sock_diag lists.
    TcpInUse,
    /// The kernel's own ends, which are the same in every namespace.
    ButKernels,
    /// All of them, or it is not known which.
    Unsure,
}

/// A request to `sock_diag`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
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
pub(super) enum File {
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
    counted: Counted,
) -> Table {
    let file = match file {
        Some(protocol) => Some(File::Inet(family, protocol)),
        None => None,
    };
    Table { name, registered_as, asked: Asked::Inet(family, number), file, counted }
}

const fn ping(name: &'static str, registered_as: &'static [&'static str], family: Family) -> Table {
    Table {
        name,
        registered_as,
        asked: Asked::Nothing,
        file: Some(File::Inet(family, "icmp")),
        counted: Counted::Whole,
    }
}

use Counted::{ButKernels, TcpInUse, Unsure, Whole};
use Family::{Inet, Inet6};

/// All of them, in the order in which they are read.
pub(super) const TABLES: [Table; 21] = [
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
    Table {
        name: "unix",
        registered_as: &["UNIX", "UNIX-STREAM"],
        asked: Asked::Unix,
        file: Some(File::Unix),
        counted: Whole,
    },
    Table {
        name: "packet",
        registered_as: &["PACKET"],
        asked: Asked::Packet,
        file: Some(File::Packet),
        counted: Whole,
    },
    Table {
        name: "netlink",
        registered_as: &["NETLINK"],
        asked: Asked::Netlink,
        file: Some(File::Netlink),
        counted: ButKernels,
    },
    Table { name: "vsock", registered_as: &["AF_VSOCK"], asked: Asked::Vsock, file: None, counted: Unsure },
    Table { name: "xdp", registered_as: &["XDP"], asked: Asked::Xdp, file: None, counted: Whole },
];

impl Table {
    /// True when `protocol` of `/proc/PID/net/protocols` is one of this table's.
    pub(super) fn is_registered_as(&self, protocol: &[u8]) -> bool {
        self.registered_as.iter().any(|known| known.as_bytes() == protocol)
    }

    /// True for a file that tells less than `sock_diag` does: no peer, no uid, no groups beyond 32.
    pub(super) fn file_tells_less(&self) -> bool {
        matches!(self.file, Some(File::Unix | File::Packet | File::Netlink))
    }

    /// Asks the kernel for the whole table and gives each row to `take`.
    ///
    /// # Errors
    /// As [`Diag::dump`]; `ENOENT` when there is nothing to ask.
    pub(super) fn dump(&self, diag: &mut Diag, mut take: impl FnMut(Result<Found, Malformed>)) -> io::Result<Dump> {
        match self.asked {
            Asked::Nothing => Err(rustix::io::Errno::NOENT.into()),
            Asked::Inet(family, number) => {
                diag.dump(&inet_diag::request(family, number), |row| take(inet_diag::parse(row, number)))
            }
            Asked::Unix => diag.dump(&unix_diag::request(), |row| take(unix_diag::parse(row))),
            Asked::Packet => diag.dump(&packet_diag::request(), |row| take(packet_diag::parse(row))),
            Asked::Netlink => diag.dump(&netlink_diag::request(), |row| take(netlink_diag::parse(row))),
            Asked::Vsock => diag.dump(&vsock_diag::request(), |row| take(vsock_diag::parse(row))),
            Asked::Xdp => diag.dump(&xdp_diag::request(), |row| take(xdp_diag::parse(row))),
        }
    }
}

impl File {
    /// Gives each row of the file's text to `take`.
    pub(super) fn parse(self, text: &[u8], take: impl FnMut(Result<Found, Malformed>)) {
        match self {
            Self::Inet(family, protocol) => proc_net::inet(text, family, protocol).for_each(take),
            Self::Unix => proc_net::unix(text).into_iter().for_each(take),
            Self::Packet => proc_net::packet(text).for_each(take),
            Self::Netlink => proc_net::netlink(text).for_each(take),
        }
    }
}
