//! Sample snapshots for tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use edr_wire::frame::{LostRange, MissedTicks};
use edr_wire::snapshot::{
    Agent, Attacker, Exe, Fd, FileKind, Host, OpenFile, Process, Psad, ScanSource, ScanTarget, SignatureMatch,
    Snapshot, SnapshotView, Socket, TargetPackets, Time,
};
use edr_wire::{Bytes, Epoch, HostId};

use crate::accounting::{Account, Declarations, Summary};
use crate::snapshot::{HostSnapshot, Joined};

/// Returns a snapshot in the collector's form, from the bytes of an agent.
pub fn host_snapshot(snapshot: &Snapshot) -> HostSnapshot {
    HostSnapshot {
        host_id: HostId([1; 16]),
        epoch: Epoch([2; 8]),
        seq: 1,
        captured_ns: 0,
        received_ns: 0,
        view: Arc::new(SnapshotView::parse(rmp_serde::to_vec_named(snapshot).unwrap()).unwrap()),
        joined: Arc::new(Joined::default()),
        account: Arc::new(summary()),
        alarms: Vec::new(),
    }
}

/// Returns the account of a host with a loss of each kind; the reason of the lost frames is hostile.
pub fn summary() -> Summary {
    let (epoch, mut account) = (Epoch([2; 8]), Account::default());
    let declared = Declarations {
        boot_id: "boot".into(),
        lost: vec![LostRange { epoch, first_seq: 5, last_seq: 6, reason: "<b>full\u{202e}".into() }],
        missed: vec![MissedTicks {
            from_boottime_ns: 20_000_000_000,
            to_boottime_ns: 40_000_000_000,
            ticks: 3,
            reason: "stopped".into(),
        }],
        ..Declarations::default()
    };
    account.frame(epoch, 3, 20_521, 1_773_112_350_000_000_000, &declared);
    account.part(epoch, 8, &declared);
    account.frame(epoch, 9, 20_521, 1_773_112_360_000_000_000, &declared);
    account.set_boot("boot", 1_773_112_000_000_000_000);
    account.summary()
}

/// Returns a snapshot with a hostile process, a forking server and a kernel thread.
pub fn sample() -> Snapshot {
    let socket = |fd, inode| OpenFile { fd: Fd::Number(fd), kind: FileKind::Socket, inode, ..OpenFile::default() };
    let server = |pid| Process {
        pid,
        ppid: 1,
        comm: Bytes::from("nginx"),
        argv: vec![Bytes::from("nginx"), Bytes::from("-g"), Bytes::from("daemon off;")],
        user: Some("www".into()),
        state: 'S',
        files: vec![socket(3, 700), socket(4, 700)],
        ..Process::default()
    };
    Snapshot {
        schema: 1,
        host: Host {
            host_id: HostId([1; 16]),
            hostname: "web-1".into(),
            os: "Debian".into(),
            page_bytes: 4096,
            ticks_per_second: 100,
            uptime_ticks: 10_000,
            memory_bytes: 1 << 30,
            ..Host::default()
        },
        agent: Agent { interval_ns: 10_000_000_000, ..Agent::default() },
        time: Time { wall_ns: 1_773_112_360_000_000_000, ..Time::default() },
        processes: vec![
            server(9),
            server(10),
            Process {
                pid: 31,
                ppid: 1,
                sid: 31,
                start_ticks: 5_000,
                utime_ticks: 2_000,
                stime_ticks: 500,
                rss_pages: 2_621,
                comm: Bytes::from(b"<b>)\n\xff"),
                argv: vec![Bytes::from("/tmp/<script>"), Bytes::from("a b"), Bytes::from("")],
                exe: Some(Exe { path: Bytes::from("/tmp/<script>"), deleted: true, ..Exe::default() }),
                user: None,
                uids: [0, 1000, 0, 0],
                state: 'R',
                files: vec![
                    OpenFile {
                        fd: Fd::Cwd,
                        kind: FileKind::Directory,
                        path: Bytes::from("/tmp"),
                        ..OpenFile::default()
                    },
                    OpenFile {
                        fd: Fd::Number(1),
                        kind: FileKind::Regular,
                        path: Bytes::from(b"/tmp/\xffx"),
                        deleted: true,
                        size: 77,
                        ..OpenFile::default()
                    },
                ],
                ..Process::default()
            },
        ],
        sockets: vec![
            Socket { inode: 0, protocol: "tcp".into(), state: "time-wait".into(), ..Socket::default() },
            Socket {
                inode: 700,
                protocol: "tcp".into(),
                state: "listen".into(),
                local: "::".into(),
                local_port: 80,
                ..Socket::default()
            },
        ],
        psad: Psad {
            top_attackers: vec![
                Attacker { ip: "10.0.0.10".into(), danger_level: 2, packets: 5, ..Attacker::default() },
                Attacker { ip: "10.0.0.9".into(), danger_level: 5, packets: 50, ..Attacker::default() },
            ],
            sources: vec![
                ScanSource { ip: "10.0.0.7".into(), ..ScanSource::default() },
                ScanSource {
                    ip: "10.0.0.9".into(),
                    danger_level: 5,
                    targets: vec![ScanTarget {
                        ip: "10.0.0.1".into(),
                        start_time: 1_773_000_000,
                        packets: vec![TargetPackets {
                            port_low: Some(1),
                            port_high: Some(99),
                            ..TargetPackets::default()
                        }],
                        signatures: vec![SignatureMatch {
                            sid: 100_001,
                            msg: Bytes::from("x"),
                            ..SignatureMatch::default()
                        }],
                    }],
                    ..ScanSource::default()
                },
            ],
            ..Psad::default()
        },
        ..Snapshot::default()
    }
}
