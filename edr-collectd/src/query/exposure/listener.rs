//! A socket that takes packets at a port, and which packets reach it.

use std::net::IpAddr;

use edr_wire::snapshot::Socket;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Udplite,
}

impl Transport {
    /// By the name psad and the agent give it. A multipath TCP socket takes plain TCP, too.
    pub(crate) fn of(protocol: &str) -> Option<Self> {
        match protocol {
            "tcp" | "mptcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "udplite" => Some(Self::Udplite),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Udplite => "udplite",
        }
    }
}

/// Where the firewall saw a packet, as psad tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    /// To this host.
    Input,
    /// Through this host: to another one, or to a network namespace of this one.
    Forward,
    /// From this host.
    Output,
    /// Not known.
    Other,
}

impl Chain {
    pub(crate) fn of(chain: &str) -> Self {
        match chain {
            "INPUT" => Self::Input,
            "FORWARD" => Self::Forward,
            "OUTPUT" => Self::Output,
            _ => Self::Other,
        }
    }
}

/// Whether something listens on a port; the best answer first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listening {
    Yes,
    /// In a network namespace beside the host's: a container's, reached by forwarding at most.
    OtherNamespace,
    /// At an address that only this host itself reaches.
    Loopback,
    /// Sockets are missing from the snapshot.
    Unknown,
    No,
}

impl Listening {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::OtherNamespace => "other namespace",
            Self::Loopback => "loopback only",
            Self::Unknown => "unknown",
            Self::No => "no",
        }
    }
}

/// Whether a packet reaches a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Yes,
    /// It depends on addresses that a snapshot does not hold.
    Perhaps,
    No,
}

/// A socket that takes packets of everybody at a port: a listening one of TCP, an unconnected one of UDP.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    /// As the kernel wrote it.
    pub(crate) local: String,
    /// `None` when it is no IP address.
    pub(crate) ip: Option<IpAddr>,
    /// Takes IPv6 only.
    v6only: bool,
    pub(crate) netns: u64,
    pub(crate) inode: u64,
    /// Places of the processes that hold it.
    pub(super) owners: Vec<usize>,
}

impl Listener {
    /// The socket, if it is one that listens.
    pub(crate) fn of(socket: &Socket) -> Option<Self> {
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

    /// Bound to an address that only its own host reaches.
    pub(crate) fn is_loopback(&self) -> bool {
        self.ip.is_some_and(|ip| ip.is_loopback())
    }

    /// Takes whatever address of its namespace a packet has.
    fn is_wildcard(&self) -> bool {
        self.ip.is_some_and(|ip| ip.is_unspecified())
    }

    /// The wildcard of IPv6 takes IPv4, unless it is told not to (`IPV6_V6ONLY`).
    fn takes(&self, to: IpAddr) -> bool {
        match self.ip {
            Some(own) if own.is_unspecified() => {
                own.is_ipv4() == to.is_ipv4() || (own.is_ipv6() && to.is_ipv4() && !self.v6only)
            }
            Some(own) => own == to,
            None => false,
        }
    }

    /// Whether a packet that the firewall saw in `chain` reaches this socket. `host_netns` is the namespace whose
    /// firewall it was.
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
            // An address is of one namespace; a wildcard is of every one, and of which this is one is not told.
            (_, _, false) | (Chain::Other, true, true) => Reach::Yes,
            (Chain::Forward, true, true) if host_netns.is_some() => Reach::No,
            _ => Reach::Perhaps,
        }
    }
}

/// An IP address; one of IPv4 that is mapped into IPv6 is one of IPv4, and a zone does not count.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
