//! Sockets with an open port, and the packets reaching the port.

use std::net::IpAddr;

use edr_wire::snapshot::Socket;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP, with multipath TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    Udplite,
}

impl Transport {
    /// Returns the protocol with this name in psad and the agent. A multipath TCP socket accepts plain TCP, too.
    pub fn of(protocol: &str) -> Option<Self> {
        match protocol {
            "tcp" | "mptcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "udplite" => Some(Self::Udplite),
            _ => None,
        }
    }

    /// Returns the name of the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Udplite => "udplite",
        }
    }
}

/// The firewall chain in which psad found a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// To this host.
    Input,
    /// Through this host: to another host, or to a network namespace of this host.
    Forward,
    /// From this host.
    Output,
    /// Unknown.
    Other,
}

impl Chain {
    /// Returns the chain with this name.
    pub fn of(chain: &str) -> Self {
        match chain {
            "INPUT" => Self::Input,
            "FORWARD" => Self::Forward,
            "OUTPUT" => Self::Output,
            _ => Self::Other,
        }
    }
}

/// The answer to "does a socket listen on this port?", strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listening {
    /// In the host's own network namespace, at an address that other hosts reach.
    Yes,
    /// In a network namespace other than the host's, such as a container's: reachable by forwarding at most.
    OtherNamespace,
    /// At an address that only the host itself can reach.
    Loopback,
    /// Unknown, because sockets are missing from the snapshot.
    Unknown,
    /// No socket listens on the port.
    No,
}

impl Listening {
    /// The words for all answers.
    pub const NAMES: &'static [&'static str] = &["yes", "other namespace", "loopback only", "unknown", "no"];

    /// Returns the words for the answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::OtherNamespace => "other namespace",
            Self::Loopback => "loopback only",
            Self::Unknown => "unknown",
            Self::No => "no",
        }
    }
}

/// The answer to "does this packet reach this listener?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Yes,
    /// Depends on addresses that a snapshot does not contain.
    Perhaps,
    No,
}

/// A socket that accepts packets from any sender at a port: listening for TCP, unconnected for UDP.
#[derive(Debug)]
pub struct Listener {
    /// Protocol.
    pub transport: Transport,
    /// Local port.
    pub port: u16,
    /// The address, as written by the kernel.
    pub local: String,
    /// The parsed address; `None` when `local` is not an IP address.
    pub(super) ip: Option<IpAddr>,
    /// True when the socket accepts only IPv6.
    v6only: bool,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Inode of the socket.
    pub inode: u64,
    /// Indexes of the processes that hold the socket.
    pub(super) owners: Vec<usize>,
}

impl Listener {
    /// Returns the listener of a socket; `None` when the socket does not listen.
    pub(super) fn of(socket: &Socket) -> Option<Self> {
        let transport = Transport::of(&socket.protocol)?;
        let listens = match transport {
            Transport::Tcp => socket.state == "listen",
            Transport::Udp | Transport::Udplite => socket.state == "unconnected" && socket.remote.is_empty(),
        };
        let port = u16::try_from(socket.local_port).ok().filter(|&port| port != 0 && listens)?;
        Some(Self {
            transport,
            port,
            local: socket.local.clone(),
            ip: address(&socket.local),
            v6only: socket.v6only,
            netns: socket.netns,
            inode: socket.inode,
            owners: Vec::new(),
        })
    }

    /// Returns true for an address that only the host itself can reach.
    pub(super) fn is_loopback(&self) -> bool {
        self.ip.is_some_and(|ip| ip.is_loopback())
    }

    /// Returns true for a socket that accepts packets to every address of its namespace.
    fn is_wildcard(&self) -> bool {
        self.ip.is_some_and(|ip| ip.is_unspecified())
    }

    /// Returns true when the socket accepts packets to this address. The IPv6 wildcard accepts IPv4 too, without
    /// `IPV6_V6ONLY`.
    fn takes(&self, to: IpAddr) -> bool {
        match self.ip {
            Some(own) if own.is_unspecified() => {
                own.is_ipv4() == to.is_ipv4() || (own.is_ipv6() && to.is_ipv4() && !self.v6only)
            }
            Some(own) => own == to,
            None => false,
        }
    }

    /// Returns whether a packet that the firewall saw in `chain` reaches this socket. `host_netns` is the namespace of
    /// the firewall.
    pub(super) fn reached_by(&self, to: Option<IpAddr>, chain: Chain, host_netns: Option<u64>) -> Reach {
        let (Some(to), Some(_)) = (to, self.ip) else { return Reach::Perhaps };
        if chain == Chain::Output || !self.takes(to) {
            return Reach::No;
        }
        let in_host = host_netns.is_none_or(|host| host == self.netns);
        match (chain, in_host, self.is_wildcard()) {
            (Chain::Input, in_host, _) => {
                if in_host {
                    Reach::Yes
                } else {
                    Reach::No
                }
            }
            // A specific address belongs to one namespace. The wildcard exists in all, and the packet's namespace is
            // unknown.
            (_, _, false) | (Chain::Other, true, true) => Reach::Yes,
            (Chain::Forward, true, true) if host_netns.is_some() => Reach::No,
            _ => Reach::Perhaps,
        }
    }
}

/// Parses an IP address. An IPv4 address mapped into IPv6 counts as IPv4; a zone is ignored.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
