//! One real socket of every kind.

use std::io::Write;
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use edr_wire::snapshot::Socket;
use nix::libc;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, eth, ipproto, listen,
};

use crate::run;

pub(crate) const OTHER_USER: u32 = 12_345;

/// One socket of every kind, held open.
pub(crate) struct Zoo {
    held: Vec<OwnedFd>,
    promiscuous: u64,
    groups: u64,
    udplite: Option<u64>,
    ping: u64,
    bound_to_lo: u64,
    other_user: u64,
    unix_pair: (u64, u64),
    dead: SocketAddrV4,
    only_bound: u64,
}

impl Zoo {
    pub(crate) fn new() -> Self {
        run("ip", &["link", "set", "lo", "up"]);
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut hold = |socket: OwnedFd| {
            let inode = inode(&socket);
            held.push(socket);
            inode
        };
        let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

        // TCP: listening, established with bytes waiting, time-wait; IPv6 with and without IPv4, not yet accepted.
        let listener = TcpListener::bind(loopback).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"fifteen bytes!!").unwrap();
        hold(client.into());
        hold(server.into());
        let dead = time_wait(&listener);
        hold(listener.into());
        let only = v6_listener(Ipv6Addr::LOCALHOST, true);
        let both = v6_listener(Ipv6Addr::UNSPECIFIED, false);
        hold(TcpStream::connect(only.local_addr().unwrap()).unwrap().into());
        hold(TcpStream::connect((Ipv4Addr::LOCALHOST, both.local_addr().unwrap().port())).unwrap().into());
        hold(only.into());
        hold(both.into());
        let to_lo = socket(AddressFamily::INET, SocketType::STREAM, None);
        nix::sys::socket::setsockopt(&to_lo, nix::sys::socket::sockopt::BindToDevice, &"lo".into()).unwrap();
        bind(&to_lo, &loopback).unwrap();
        listen(&to_lo, 1).unwrap();
        let bound_to_lo = hold(to_lo);
        let given_away = TcpListener::bind(loopback).unwrap();
        rustix::fs::fchown(&given_away, Some(rustix::fs::Uid::from_raw(OTHER_USER)), None).unwrap();
        let other_user = hold(given_away.into());
        if kernel_has("MPTCP") {
            let multipath = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP));
            bind(&multipath, &loopback).unwrap();
            listen(&multipath, 2).unwrap();
            hold(multipath);
        }
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None);
        bind(&bound, &loopback).unwrap();
        let only_bound = hold(bound);

        // UDP: unconnected with bytes waiting, connected, IPv6; UDP-Lite.
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let connected = UdpSocket::bind(loopback).unwrap();
        connected.connect((Ipv4Addr::LOCALHOST, udp.local_addr().unwrap().port())).unwrap();
        connected.send(&[b'x'; 100]).unwrap();
        hold(udp.into());
        hold(connected.into());
        hold(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().into());
        let udplite = kernel_has("UDP-Lite").then(|| {
            let lite = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDPLITE));
            bind(&lite, &loopback).unwrap();
            hold(lite)
        });

        // Raw and ping.
        hold(socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)));
        hold(socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)));
        let ping = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
        bind(&ping, &loopback).unwrap();
        let ping = hold(ping);

        // Packet and netlink.
        let sniffer = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL));
        let promiscuous_on_lo: [u8; 16] = {
            let mut request = [0; 16];
            request[..4].copy_from_slice(&1_u32.to_ne_bytes());
            request[4..6].copy_from_slice(&(libc::PACKET_MR_PROMISC as u16).to_ne_bytes());
            request
        };
        nix::sys::socket::setsockopt(&sniffer, AddMembership, &promiscuous_on_lo).unwrap();
        let promiscuous = hold(sniffer);
        hold(socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP)));
        let route = socket(AddressFamily::NETLINK, SocketType::RAW, None);
        bind(&route, &SocketAddrNetlink::new(0, 0x41)).unwrap();
        let groups = hold(route);

        // Unix: a pair, a path with a connected sender, an abstract name with an unaccepted connection, a new one.
        let (first, second) = UnixStream::pair().unwrap();
        let unix_pair = (hold(first.into()), hold(second.into()));
        let folder = tempfile::tempdir().unwrap();
        let path = SocketAddrUnix::new(folder.path().join("dgram")).unwrap();
        let receiver = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        bind(&receiver, &path).unwrap();
        let sender = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        connect(&sender, &path).unwrap();
        rustix::net::send(&sender, b"waiting", SendFlags::empty()).unwrap();
        hold(receiver);
        hold(sender);
        let abstract_name = SocketAddrUnix::new_abstract_name(b"edr.a\0b").unwrap();
        let listening = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        bind(&listening, &abstract_name).unwrap();
        listen(&listening, 5).unwrap();
        let waiting = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        connect(&waiting, &abstract_name).unwrap();
        hold(listening);
        hold(waiting);
        hold(socket(AddressFamily::UNIX, SocketType::STREAM, None));
        Self { held, promiscuous, groups, udplite, ping, bound_to_lo, other_user, unix_pair, dead, only_bound }
    }

    /// Checks sockets missing in ss, and that every socket made is listed by its inode.
    pub(crate) fn check(&self, rows: &[Socket]) {
        let row = |inode| rows.iter().find(|row| row.inode == inode).unwrap();
        assert!(row(self.promiscuous).promiscuous);
        assert_eq!(row(self.promiscuous).local_port, 3, "ETH_P_ALL");
        assert_eq!((&*row(self.groups).groups, &*row(self.groups).protocol), ([1, 7].as_slice(), "route"));
        if let Some(udplite) = self.udplite {
            assert_eq!((&*row(udplite).protocol, &*row(udplite).local), ("udplite", "127.0.0.1"));
        }
        assert_eq!((&*row(self.ping).protocol, &*row(self.ping).local), ("icmp", "127.0.0.1"));
        assert_eq!(row(self.bound_to_lo).interface, 1, "lo is the first interface of a namespace");
        assert_eq!(row(self.other_user).uid, Some(OTHER_USER));
        assert_eq!(row(self.unix_pair.0).peer_inode, self.unix_pair.1);
        assert_eq!(row(self.unix_pair.1).peer_inode, self.unix_pair.0);
        let dead: Vec<_> = rows.iter().filter(|row| row.local_port == u32::from(self.dead.port())).collect();
        let facts: Vec<_> = dead.iter().map(|row| (&*row.state, row.inode, row.uid)).collect();
        assert_eq!(facts, [("time-wait", 0, None)]);
        assert_eq!(rows.iter().filter(|row| row.path.as_ref() == b"\0edr.a\0b").count(), 1);
        for socket in &self.held {
            let inode = inode(socket);
            let is_listed = rows.iter().any(|row| row.inode == inode);
            assert!(is_listed || inode == self.only_bound && !lists_bound_sockets(), "socket {inode} is not listed");
        }
        assert!(rows.is_sorted_by_key(|row| row.inode));
    }
}

#[derive(Clone, Copy)]
struct AddMembership;
nix::setsockopt_impl!(
    AddMembership,
    libc::SOL_PACKET,
    libc::PACKET_ADD_MEMBERSHIP,
    [u8; 16],
    nix::sys::socket::sockopt::SetStruct<[u8; 16]>
);

/// The address of a closed connection in the state time-wait: the side that closes first keeps the address.
fn time_wait(listener: &TcpListener) -> SocketAddrV4 {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let SocketAddr::V4(address) = client.local_addr().unwrap() else { panic!("IPv4 only") };
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
    drop(server);
    address
}

fn v6_listener(address: Ipv6Addr, v6only: bool) -> TcpListener {
    let socket = socket(AddressFamily::INET6, SocketType::STREAM, None);
    rustix::net::sockopt::set_ipv6_v6only(&socket, v6only).unwrap();
    bind(&socket, &SocketAddrV6::new(address, 0, 0, 0)).unwrap();
    listen(&socket, 3).unwrap();
    socket.into()
}

/// A protocol by its name in `/proc/net/protocols`.
pub(crate) fn kernel_has(protocol: &str) -> bool {
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap();
    let has = protocols.lines().any(|line| line.split(' ').next() == Some(protocol));
    if !has {
        println!("skipped: a kernel without {protocol}");
    }
    has
}

/// True since Linux 6.8: `sock_diag` lists TCP sockets that are only bound.
fn lists_bound_sockets() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

pub(crate) fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> OwnedFd {
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap()
}

pub(crate) fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}
