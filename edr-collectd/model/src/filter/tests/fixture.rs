//! A host with a value in every column of every table.

use std::borrow::Cow;
use std::sync::Arc;

use edr_wire::snapshot::{
    Access, Attacker, Blocked, Capabilities, Container, Exe, Family, Fd, FileKind, Gap, GapReason, Io, MappedFile,
    Namespaces, OpenFile, Packet, PrefixCounter, Process, ProtocolCounter, ScanSource, ScanTarget, ScannedPort,
    SignatureMatch, Socket, TargetPackets, TopSignature,
};
use edr_wire::{Bytes, HostId};

use crate::snapshot::{HostRow, HostSnapshot};
use crate::testing::{host_snapshot, sample, summary};

/// The moment that is shown: 2026-03-10 03:12:40 UTC, a Tuesday.
pub(super) const NOW_NS: i64 = 1_773_112_360_000_000_000;
const HOST_NETNS: u64 = 4_026_531_840;

/// Returns the snapshot.
pub(super) fn snapshot() -> HostSnapshot {
    let mut snapshot = sample();
    snapshot.processes.extend([systemd(), sshd(), kernel_thread()]);
    snapshot.sockets.extend(sockets());
    snapshot.packets = packets();
    snapshot.gaps = gaps();
    let psad = &mut snapshot.psad;
    psad.top_attackers = vec![
        Attacker {
            ip: "203.0.113.9".into(),
            danger_level: 5,
            packets: 12_345,
            unique_signatures: 2,
            signature_matches: 1_024,
            is_local: false,
        },
        Attacker { ip: "10.0.0.66".into(), danger_level: 0, is_local: true, ..Attacker::default() },
    ];
    psad.top_signatures = vec![TopSignature {
        sid: 100_001,
        msg: Bytes::from("P2P Napster (client) attempt"),
        matches: 4_321,
        sources: 3,
        protocol: "tcp".into(),
    }];
    psad.top_ports = vec![
        ScannedPort { protocol: "tcp".into(), port: 22, packets: 1_234 },
        ScannedPort { protocol: "tcp".into(), port: 6_667, packets: 5 },
        ScannedPort { protocol: "icmp".into(), port: 0, packets: 7 },
    ];
    psad.prefix_counters = vec![PrefixCounter { prefix: Bytes::from("DROP in=yes:"), packets: 1_000 }];
    psad.protocol_counters = vec![ProtocolCounter { protocol: "udp".into(), packets: 2_000 }];
    psad.blocked = vec![
        Blocked { address: "203.0.113.9".into(), since: 1_773_000_000 },
        Blocked { address: "198.51.100.0/24".into(), since: 1_773_000_060 },
    ];
    psad.sources = sources();
    let mut host = host_snapshot(&snapshot);
    host.captured_ns = NOW_NS;
    host
}

/// Returns the list of hosts.
pub(super) fn hosts() -> Vec<HostRow> {
    let host = |hostname: &str, id| HostRow {
        host_id: HostId([id; 16]),
        hostname: hostname.into(),
        name_of: None,
        os: "Debian GNU/Linux 12".into(),
        captured_ns: NOW_NS,
        received_ns: NOW_NS + 1_000_000_000,
        interval_ns: 5_000_000_000,
        seq: 17,
        processes: 1_091,
        files: 1_804,
        sockets: 12,
        danger_level: 3,
        psad: "file/running".into(),
        degraded: vec!["files of other users cannot be read".into()],
        alarms: vec!["frame 7 was received with two contents".into()],
        bye: id == 2,
        account: Arc::new(summary()),
    };
    vec![host("web-01", 1), host("db-01", 2)]
}

fn process(pid: u32, comm: &str) -> Process {
    Process {
        pid,
        ppid: 1,
        comm: Bytes::from(comm),
        state: 'S',
        uids: [0; 4],
        user: Some("root".into()),
        namespaces: Namespaces { net: HOST_NETNS, ..Namespaces::default() },
        ..Process::default()
    }
}

fn systemd() -> Process {
    Process { ppid: 0, argv: vec![Bytes::from("/sbin/init")], threads: 1, ..process(1, "systemd") }
}

fn kernel_thread() -> Process {
    Process { kernel_thread: true, ppid: 2, incomplete: vec!["exe".into(), "io".into()], ..process(40, "kworker/0:1") }
}

fn sshd() -> Process {
    let file = |fd, kind, path: &str| OpenFile {
        fd: Fd::Number(fd),
        access: Access::ReadWrite,
        flags: vec![Cow::Borrowed("cloexec"), Cow::Borrowed("nonblock")],
        kind,
        path: Bytes::from(path),
        nlink: 1,
        dev: 0x0801,
        rdev: 0x0103,
        inode: 4_711,
        size: 1_258_291,
        offset: 20_000,
        detail: Bytes::from("eventfd-count: 3"),
        ..OpenFile::default()
    };
    let socket = |fd, inode| OpenFile { inode, size: 0, ..file(fd, FileKind::Socket, "") };
    Process {
        argv: ["/usr/sbin/sshd", "-D", "-o", "Banner=/etc/issue net", "it's"].map(Bytes::from).to_vec(),
        exe: Some(Exe { path: Bytes::from("/usr/sbin/sshd"), sha256: Some(Bytes(vec![0xab; 32])), ..Exe::default() }),
        cwd: Some(Bytes::from("/var/empty dir")),
        tty: 0x8803,
        loginuid: Some(1_000),
        capabilities: Capabilities { effective: 0x1ff, ..Capabilities::default() },
        unit: Some("ssh.service".into()),
        container: Some(Container { runtime: "docker".into(), id: "0123abcd".into(), ..Container::default() }),
        start_ticks: 8_000,
        start_time_ns: NOW_NS - 3_600_000_000_000,
        utime_ticks: 8_200,
        stime_ticks: 37,
        threads: 4,
        vsize_bytes: 3 << 30,
        rss_pages: 3_000,
        io: Some(Io { read_bytes: 12_345_678, write_bytes: 999, ..Io::default() }),
        files_total: Some(1_024),
        files: vec![
            OpenFile { fd: Fd::Cwd, access: Access::Path, ..file(0, FileKind::Directory, "/") },
            file(0, FileKind::Char, "/dev/null"),
            OpenFile { deleted: true, nlink: 0, ..file(1, FileKind::Regular, "/tmp/loot (1).tar") },
            socket(3, 801),
            socket(4, 802),
        ],
        mapped: vec![MappedFile {
            path: Bytes::from("/usr/lib/libc.so.6"),
            dev: 0x0801,
            inode: 4_712,
            deleted: true,
            executable: true,
        }],
        ..process(812, "sshd")
    }
}

fn sockets() -> Vec<Socket> {
    let tcp = |inode, state: &str, local: &str, remote: &str, remote_port| Socket {
        inode,
        netns: HOST_NETNS,
        family: Family::Inet6,
        protocol: "tcp".into(),
        state: state.into(),
        local: local.into(),
        local_port: 22,
        remote: remote.into(),
        remote_port,
        uid: Some(0),
        receive_queue: 20_000,
        send_queue: 3_000,
        interface: 2,
        ..Socket::default()
    };
    vec![
        Socket { v6only: true, ..tcp(801, "listen", "::", "", 0) },
        tcp(802, "established", "192.0.2.10", "::ffff:203.0.113.9", 50_123),
        tcp(803, "listen", "127.0.0.1", "", 0),
        Socket { local_port: 6_667, ..tcp(804, "listen", "0.0.0.0", "", 0) },
        Socket {
            inode: 805,
            netns: HOST_NETNS,
            family: Family::Unix,
            protocol: "stream".into(),
            state: "established".into(),
            path: Bytes::from(b"\0/tmp/.X11-unix/X0"),
            peer_inode: 806,
            ..Socket::default()
        },
        Socket {
            inode: 807,
            family: Family::Vsock,
            protocol: "stream".into(),
            state: "listen".into(),
            local: "4294967295".into(),
            local_port: 5_555,
            ..Socket::default()
        },
    ]
}

fn packets() -> Vec<Packet> {
    let tcp = Packet {
        time: Some(NOW_NS - 3_123_456_789),
        prefix: Bytes::from("DROP "),
        chain: "INPUT".into(),
        interface_in: Bytes::from("eth0"),
        interface_out: Bytes::from("eth1"),
        src: "203.0.113.9".into(),
        dst: "2001:db8::1".into(),
        protocol: "tcp".into(),
        src_port: Some(50_123),
        dst_port: Some(22),
        flags: "SYN".into(),
        length: Some(1_500),
        ttl: Some(64),
        repeated: 1_000,
        cut: true,
        raw: Bytes::from("IN=eth0 OUT= SRC=203.0.113.9 PROTO=TCP"),
        ..Packet::default()
    };
    let icmp = Packet { icmp_type: Some(8), icmp_code: Some(0), cut: false, protocol: "icmp".into(), ..tcp.clone() };
    vec![tcp, icmp]
}

fn gaps() -> Vec<Gap> {
    vec![Gap {
        source: "processes".into(),
        pid: Some(1),
        field: Bytes::from("exe"),
        reason: GapReason::TooLong,
        count: 1_001,
        detail: "Permission denied (os error 13)".into(),
    }]
}

fn sources() -> Vec<ScanSource> {
    let ports = TargetPackets {
        chain: "INPUT".into(),
        interface: Bytes::from("eth0"),
        protocol: "tcp".into(),
        packets: 1_234,
        port_low: Some(1),
        port_high: Some(7_000),
    };
    let signature = SignatureMatch {
        time: 1_773_112_300,
        sid: 2_001,
        matches: 1_111,
        msg: Bytes::from("SCAN \"nmap\" XMAS"),
        chain: "INPUT".into(),
        protocol: "tcp".into(),
        port: 22,
        flags: "FIN PSH URG".into(),
        is_psad: true,
        ..SignatureMatch::default()
    };
    let target = ScanTarget {
        ip: "192.0.2.10".into(),
        start_time: 1_773_000_000,
        packets: vec![ports],
        signatures: vec![signature],
    };
    vec![ScanSource {
        ip: "203.0.113.9".into(),
        danger_level: 5,
        os_guess: Bytes::from("Linux 2.4.x"),
        emails: 1_002,
        targets: vec![target],
        ..ScanSource::default()
    }]
}
