use edr_wire::snapshot::{
    Attacker, Exe, Family, Fd, Gap, GapReason, Namespaces, OpenFile, Process, Psad, PsadConf, ScanSource, ScanTarget,
    ScannedPort, SignatureMatch, Snapshot, TargetPackets,
};

use super::*;

const HOST: u64 = 4_026_531_840;
const CONTAINER: u64 = 4_026_532_999;

fn socket(protocol: &str, local: &str, port: u16, inode: u64) -> Socket {
    let family = if local.contains(':') { Family::Inet6 } else { Family::Inet };
    let state = if protocol.starts_with("udp") { "unconnected" } else { "listen" };
    Socket {
        inode,
        netns: HOST,
        family,
        protocol: protocol.to_owned(),
        state: state.to_owned(),
        local: local.to_owned(),
        local_port: port.into(),
        ..Socket::default()
    }
}

fn process(pid: u32, comm: &str, inodes: &[u64]) -> Process {
    let file = |(fd, &inode)| OpenFile { fd: Fd::Number(fd), kind: FileKind::Socket, inode, ..OpenFile::default() };
    Process {
        pid,
        comm: Bytes::from(comm),
        exe: Some(Exe { path: Bytes::from(&format!("/usr/sbin/{comm}")), ..Exe::default() }),
        unit: Some(format!("{comm}.service")),
        user: Some("root".to_owned()),
        start_time_ns: i64::from(pid) * 1_000_000_000,
        namespaces: Namespaces { net: HOST, ..Namespaces::default() },
        files: (3..).zip(inodes).map(file).collect(),
        ..Process::default()
    }
}

/// Returns a source that sent packets of `protocol` to the ports of `to`.
fn source(ip: &str, chain: &str, protocol: &str, to: &str, (low, high): (u16, u16)) -> ScanSource {
    let packets = TargetPackets {
        chain: chain.to_owned(),
        protocol: protocol.to_owned(),
        packets: 9,
        port_low: Some(low),
        port_high: Some(high),
        ..TargetPackets::default()
    };
    let target = ScanTarget { ip: to.to_owned(), packets: vec![packets], ..ScanTarget::default() };
    ScanSource { ip: ip.to_owned(), danger_level: 4, targets: vec![target], ..ScanSource::default() }
}

fn port(protocol: &str, port: u16) -> ScannedPort {
    ScannedPort { protocol: protocol.to_owned(), port, packets: 100 }
}

/// Returns a snapshot with pid 1 in the host's own namespace.
fn snapshot(sockets: Vec<Socket>, processes: Vec<Process>, psad: Psad) -> Snapshot {
    let mut all = vec![process(1, "systemd", &[])];
    all.extend(processes);
    Snapshot { schema: 1, sockets, processes: all, psad, ..Snapshot::default() }
}

fn join(snapshot: &Snapshot) -> Exposure {
    Exposure::of(&SnapshotView::parse(rmp_serde::to_vec_named(snapshot).unwrap()).unwrap())
}

fn range(join: &Exposure, protocol: &str, ports: (u16, u16), to: &str, chain: &str) -> Option<(Listening, Vec<u16>)> {
    let transport = Transport::of(protocol).unwrap();
    join.in_range(transport, ports, to, Chain::of(chain)).map(|found| (found.listening, found.ports))
}

#[test]
fn a_scanned_port_gets_the_process_that_listens_there() {
    let psad = Psad {
        top_ports: vec![port("tcp", 22), port("tcp", 23), port("udp", 53)],
        sources: vec![
            source("203.0.113.8", "INPUT", "tcp", "192.0.2.10", (1, 1_000)),
            source("203.0.113.9", "INPUT", "tcp", "192.0.2.10", (22, 22)),
        ],
        ..Psad::default()
    };
    let join = join(&snapshot(
        vec![
            socket("tcp", "0.0.0.0", 22, 700),
            socket("udp", "192.0.2.10", 53, 701),
            socket("tcp", "0.0.0.0", 80, 702),
        ],
        vec![process(90, "sshd", &[700, 700]), process(91, "named", &[701]), process(92, "nginx", &[702])],
        psad,
    ));
    let (listening, found) = join.on_port(Transport::Tcp, 22);
    let owners: Vec<_> = join.owners_of(found[0]).map(|owner| (owner.pid, owner.comm.to_string())).collect();
    assert_eq!((listening, owners), (Listening::Yes, vec![(90, "sshd".to_owned())]));
    let owner = join.owners_of(found[0]).next().unwrap();
    assert_eq!((owner.exe.to_string().as_str(), owner.unit.to_string().as_str()), ("/usr/sbin/sshd", "sshd.service"));
    assert_eq!(owner.start_time_ns, 90_000_000_000);
    assert_eq!(join.on_port(Transport::Tcp, 23).0, Listening::No);
    assert_eq!(join.on_port(Transport::Udp, 53).0, Listening::Yes);
    assert_eq!(join.on_port(Transport::Tcp, 53).0, Listening::No, "that is another protocol");
    // nginx is in a scanned range, but psad's complete list of ports lacks its port.
    let exposed: Vec<_> = join
        .exposed()
        .iter()
        .map(|row| (join.listener(row).port, row.packets, row.attackers, row.danger_level))
        .collect();
    assert_eq!(exposed, [(22, Some(100), Some(2), 4), (53, Some(100), Some(0), 0)]);
    assert!(join.missing().is_none());
}

#[test]
fn a_list_of_ports_that_psad_cut_lets_the_ranges_speak() {
    let conf = PsadConf { top_rows: [500, 500, 1], ..PsadConf::default() };
    let sources = vec![source("203.0.113.8", "INPUT", "tcp", "192.0.2.10", (1, 1_000))];
    let psad = Psad { top_ports: vec![port("tcp", 23)], sources, conf: Some(conf), ..Psad::default() };
    let sockets = vec![socket("tcp", "0.0.0.0", 80, 702), socket("tcp", "0.0.0.0", 8_080, 703)];
    let join = join(&snapshot(sockets, vec![], psad));
    let exposed: Vec<_> = join.exposed().iter().map(|row| (join.listener(row).port, row.packets)).collect();
    assert_eq!(exposed, [(80, None)]);
}

#[test]
fn addresses_decide_which_socket_a_packet_reaches() {
    let v6only = |socket| Socket { v6only: true, ..socket };
    let sockets = vec![
        socket("tcp", "0.0.0.0", 1, 1),
        socket("tcp", "::", 2, 2),
        v6only(socket("tcp", "::", 3, 3)),
        socket("tcp", "192.0.2.10", 4, 4),
        socket("tcp", "::ffff:192.0.2.10", 5, 5),
        socket("tcp", "2001:db8::10", 6, 6),
        socket("tcp", "127.0.0.1", 7, 7),
        socket("tcp", "::1", 8, 8),
        socket("mptcp", "0.0.0.0", 9, 9),
        socket("tcp", "fe80::1%eth0", 10, 10),
        socket("tcp", "::ffff:0.0.0.0", 11, 11),
    ];
    let join = join(&snapshot(sockets, vec![], Psad::default()));
    let open = |to| range(&join, "tcp", (0, 65_535), to, "INPUT").unwrap().1;
    assert_eq!(open("192.0.2.10"), [1, 2, 4, 5, 9, 11]);
    assert_eq!(open("::ffff:192.0.2.10"), [1, 2, 4, 5, 9, 11]);
    assert_eq!(open("192.0.2.99"), [1, 2, 9, 11]);
    assert_eq!(open("2001:0db8:0000:0000:0000:0000:0000:0010"), [2, 3, 6]);
    assert_eq!(open("fe80::1"), [2, 3, 10]);
    assert_eq!(open("127.0.0.1"), [1, 2, 7, 9, 11]);
    assert_eq!(range(&join, "udp", (0, 65_535), "192.0.2.10", "INPUT"), Some((Listening::No, vec![])));
    assert_eq!(range(&join, "tcp", (9, 1), "192.0.2.10", "INPUT"), Some((Listening::No, vec![])));
    assert_eq!(range(&join, "tcp", (0, 65_535), "192.0.2.10", "OUTPUT"), None, "the host sent that itself");
    assert_eq!(range(&join, "tcp", (1, 1), "<script>", "INPUT").unwrap().0, Listening::Unknown);
    for port in [7, 8] {
        assert_eq!(join.on_port(Transport::Tcp, port).0, Listening::Loopback);
    }
}

#[test]
fn a_connected_socket_is_not_one_that_listens() {
    let connected = Socket {
        state: "established".to_owned(),
        remote: "203.0.113.8".to_owned(),
        remote_port: 40_000,
        ..socket("udp", "192.0.2.10", 53, 1)
    };
    let bound = Socket { state: "unconnected".to_owned(), ..socket("tcp", "0.0.0.0", 53, 2) };
    let join = join(&snapshot(vec![connected, bound], vec![], Psad::default()));
    assert_eq!(join.on_port(Transport::Udp, 53).0, Listening::No);
    assert_eq!(join.on_port(Transport::Tcp, 53).0, Listening::No);
}

#[test]
fn a_port_of_a_container_is_told_from_one_of_the_host() {
    let inside = |local, port, inode| Socket { netns: CONTAINER, ..socket("tcp", local, port, inode) };
    let sockets = vec![inside("0.0.0.0", 80, 1), inside("172.17.0.2", 81, 2), socket("tcp", "0.0.0.0", 82, 3)];
    let psad = Psad { top_ports: vec![port("tcp", 80), port("tcp", 82)], ..Psad::default() };
    let mut all = snapshot(sockets, vec![process(7, "web", &[1])], psad);
    let join_of_host = join(&all);
    assert_eq!(join_of_host.host_netns(), Some(HOST));
    assert_eq!(join_of_host.on_port(Transport::Tcp, 80).0, Listening::OtherNamespace);
    let order: Vec<u16> = join_of_host.exposed().iter().map(|row| join_of_host.listener(row).port).collect();
    assert_eq!(order, [82, 80], "what can be reached comes first");
    let forwarded = |ports| range(&join_of_host, "tcp", (ports, ports), "172.17.0.2", "FORWARD").unwrap();
    // The snapshot does not contain the owner of this address.
    assert_eq!(forwarded(80), (Listening::Unknown, vec![]));
    assert_eq!(forwarded(81), (Listening::OtherNamespace, vec![81]));
    assert_eq!(forwarded(82), (Listening::No, vec![]), "a packet that goes through is not for a socket of the host");
    assert_eq!(range(&join_of_host, "tcp", (80, 82), "172.17.0.2", "INPUT").unwrap().1, [82]);
    // When pid 1 is not visible, every namespace may be the host's.
    all.processes.remove(0);
    all.processes[0].namespaces.net = CONTAINER;
    let join_of_part = join(&all);
    assert_eq!((join_of_part.host_netns(), join_of_part.on_port(Transport::Tcp, 80).0), (None, Listening::Yes));
}

#[test]
fn several_sockets_and_several_processes_are_all_told() {
    let sockets = vec![
        socket("udp", "0.0.0.0", 514, 1),
        socket("udp", "0.0.0.0", 514, 2),
        socket("udp", "::", 514, 3),
        socket("udp", "0.0.0.0", 514, 0),
    ];
    let psad = Psad { top_ports: vec![port("udp", 514)], ..Psad::default() };
    let join = join(&snapshot(sockets, vec![process(5, "a", &[1]), process(6, "b", &[1, 2])], psad));
    let owners: Vec<Vec<u32>> =
        join.exposed().iter().map(|row| join.owners_of(join.listener(row)).map(|owner| owner.pid).collect()).collect();
    // A listener without a known owner still listens.
    assert_eq!(owners, [vec![5, 6], vec![6], vec![], vec![]]);
    assert_eq!(join.names_on(Transport::Udp, 514).len(), 2);
}

#[test]
fn no_is_said_only_when_every_socket_was_listed() {
    let gap = |field: &str, reason, detail: &str| Gap {
        source: "sockets".to_owned(),
        field: Bytes::from(field),
        reason,
        count: 1,
        detail: detail.to_owned(),
        ..Gap::default()
    };
    let psad = || Psad { top_ports: vec![port("tcp", 22), port("tcp", 23)], ..Psad::default() };
    let sockets = vec![socket("tcp", "0.0.0.0", 22, 1), socket("tcp", "127.0.0.1", 25, 2)];
    let mut all = snapshot(sockets, vec![], psad());
    let mut answers = |gaps: &[Gap]| {
        all.gaps = gaps.to_vec();
        let join = join(&all);
        let on = |port| join.on_port(Transport::Tcp, port).0;
        let within = range(&join, "tcp", (23, 23), "192.0.2.10", "INPUT").unwrap().0;
        (on(22), on(23), on(25), within, join.contacts_of("203.0.113.8"))
    };
    let known = (Listening::Yes, Listening::No, Listening::Loopback, Listening::No, Some(0));
    let unknown = (Listening::Yes, Listening::Unknown, Listening::Unknown, Listening::Unknown, None);
    // Sockets missing in other namespaces do not matter for a packet to the host itself.
    let elsewhere = (Listening::Yes, Listening::Unknown, Listening::Unknown, Listening::No, None);
    assert_eq!(answers(&[]), known);
    for (field, reason) in [
        ("xdp", GapReason::Unsupported),
        ("vsock", GapReason::Denied),
        ("tcp6", GapReason::Gone),
        ("mptcp", GapReason::Unsupported),
        ("netns/unix", GapReason::Malformed),
    ] {
        assert_eq!(answers(&[gap(field, reason, "")]), known, "{field}");
    }
    for (field, reason) in [
        ("tcp", GapReason::Denied),
        ("tcp", GapReason::Io),
        ("udp6", GapReason::Malformed),
        ("rows", GapReason::TooLong),
        ("sock_diag", GapReason::Unsupported),
        ("", GapReason::Io),
        ("something new", GapReason::Budget),
    ] {
        assert_eq!(answers(&[gap(field, reason, "why")]), unknown, "{field}");
    }
    for (field, reason) in [
        ("netns 4026532996", GapReason::Gone),
        ("netns", GapReason::Budget),
        ("netns/tcp", GapReason::TooLong),
        ("netns/mptcp", GapReason::Unsupported),
        ("ns/net", GapReason::Denied),
    ] {
        assert_eq!(answers(&[gap(field, reason, "")]), elsewhere, "{field}");
    }
    let of_processes = Gap { source: "processes".to_owned(), ..gap("rows", GapReason::TooLong, "") };
    assert_eq!(answers(&[of_processes]), known);
}

#[test]
fn sockets_of_attackers_are_found_in_both_directions() {
    let with = |remote: &str, remote_port, socket| Socket {
        state: "established".to_owned(),
        remote: remote.to_owned(),
        remote_port,
        ..socket
    };
    let attacker = |ip: &str, danger_level| Attacker { ip: ip.to_owned(), danger_level, ..Attacker::default() };
    let psad = Psad {
        top_attackers: vec![attacker("203.0.113.8", 2), attacker("2001:db8::bad", 5)],
        sources: vec![source("203.0.113.8", "INPUT", "tcp", "192.0.2.10", (22, 22))],
        ..Psad::default()
    };
    let sockets = vec![
        socket("tcp", "::", 22, 1),
        with("::ffff:203.0.113.8", 40_000, socket("tcp", "::ffff:192.0.2.10", 22, 2)),
        with("203.0.113.8", 443, socket("tcp", "192.0.2.10", 51_000, 3)),
        with("2001:db8::bad", 22, Socket { netns: CONTAINER, ..socket("tcp", "2001:db8::10", 22, 4) }),
        with("198.51.100.1", 443, socket("tcp", "192.0.2.10", 51_001, 5)),
        Socket { state: "time-wait".to_owned(), ..with("203.0.113.8", 9, socket("tcp", "192.0.2.10", 51_002, 0)) },
    ];
    let join = join(&snapshot(sockets, vec![process(5, "sshd", &[1, 2])], psad));
    let rows: Vec<_> = join
        .contacts()
        .iter()
        .map(|row| (row.ip.to_string(), row.danger_level, row.socket.local_port, row.inbound))
        .collect();
    assert_eq!(
        rows,
        [
            // No socket listens on this port in the contact's own namespace.
            ("2001:db8::bad".to_owned(), 5, 22, Some(false)),
            ("203.0.113.8".to_owned(), 4, 22, Some(true)),
            ("203.0.113.8".to_owned(), 4, 51_000, Some(false)),
            ("203.0.113.8".to_owned(), 4, 51_002, Some(false)),
        ]
    );
    assert_eq!(join.contacts_of("203.0.113.8"), Some(3));
    assert_eq!(join.contacts_of("::ffff:203.0.113.8"), Some(3));
    assert_eq!(join.contacts_of("198.51.100.1"), Some(0), "nobody psad knows");
    let holder = join.holders_of(&join.contacts()[1]).next();
    assert_eq!(holder.map(|owner| owner.pid), Some(5));
}

#[test]
fn a_hostile_snapshot_costs_a_bounded_time_and_says_what_is_not_known() {
    let sockets = (1..=17_000_u16).map(|port| socket("tcp", "0.0.0.0", port, port.into())).collect();
    let mut scanner = source("203.0.113.8", "INPUT", "tcp", "192.0.2.10", (0, u16::MAX));
    let row = scanner.targets[0].packets[0].clone();
    scanner.targets[0].packets = vec![row; 300];
    scanner.targets[0].signatures =
        vec![SignatureMatch { port: 16_999, protocol: "tcp".to_owned(), ..SignatureMatch::default() }];
    let top_ports = (0..3_000).map(|number| port("tcp", number)).collect();
    let join = join(&snapshot(sockets, vec![], Psad { top_ports, sources: vec![scanner], ..Psad::default() }));
    let known: Vec<u16> = join.listeners.iter().map(|listener| listener.port).collect();
    assert_eq!((known.len(), join.exposed()[0].attackers), (LISTENERS_MAX, None));
    assert_eq!(join.on_port(Transport::Tcp, 16_999).0, Listening::Unknown);
    assert_eq!(range(&join, "tcp", (0, u16::MAX), "192.0.2.10", "INPUT").unwrap().1.len(), PORTS_MAX);
    assert_eq!(range(&join, "tcp", (0, u16::MAX), "::1", "INPUT"), Some((Listening::Unknown, vec![])));
}
