use edr_wire::snapshot::{
    Agent, Attacker, Exe, Fd, FileKind, Host, OpenFile, Process, Psad, Reread, ScanSource, ScanTarget, SignatureMatch,
    Snapshot, SnapshotView, Socket, TargetPackets, Time,
};
use edr_wire::{Bytes, Epoch, HostId};

use super::*;
use crate::query::{HostSnapshot, Joined};

/// Returns a snapshot in the collector's form, from the bytes of an agent.
pub(crate) fn host_snapshot(snapshot: &Snapshot) -> HostSnapshot {
    HostSnapshot {
        host_id: HostId([1; 16]),
        epoch: Epoch([2; 8]),
        seq: 1,
        captured_ns: 0,
        received_ns: 0,
        view: SnapshotView::parse(rmp_serde::to_vec_named(snapshot).unwrap()).unwrap(),
        joined: Joined::default(),
        alarms: Vec::new(),
    }
}

/// Returns a snapshot with a hostile process, a forking server and a kernel thread.
pub(crate) fn sample() -> Snapshot {
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

fn table(view: View, select: &Select) -> Table {
    view.table(&host_snapshot(&sample()), select).unwrap()
}

fn column(view: View, table: &Table, name: &str) -> Vec<String> {
    let place = view.columns().iter().position(|column| column.name == name).unwrap();
    table.rows.iter().map(|row| row[place].text()).collect()
}

fn filtered(view: View, filter: &str, name: &str) -> Vec<String> {
    column(view, &table(view, &Select { filter: Some(filter.into()), ..Select::default() }), name)
}

#[test]
fn every_row_of_every_view_has_a_cell_for_each_column() {
    let snapshot = host_snapshot(&sample());
    for view in View::ALL {
        let table = view.table(&snapshot, &Select::default()).unwrap();
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{view:?}");
        let mut names: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table.columns.len(), "{view:?}");
    }
}

#[test]
fn a_process_shows_what_ps_shows() {
    let all = table(View::Processes, &Select::default());
    assert_eq!(all.total, 3);
    let last = |name| column(View::Processes, &all, name).pop().unwrap();
    assert_eq!(last("comm"), "<b>)\\x0a\\xff");
    assert_eq!(last("argv"), "/tmp/<script> 'a b' ''");
    assert_eq!(last("cpu_percent"), "50.00");
    assert_eq!(last("memory_percent"), "0.99");
    assert_eq!(last("cpu_time"), "0:25");
    assert_eq!(last("user"), "1000");
    assert_eq!(last("state"), "Rs");
    assert_eq!(last("exe_state"), "deleted");
}

#[test]
fn rows_of_processes_and_files_say_when_they_were_read() {
    let mut snapshot = sample();
    snapshot.agent.interval_ns = 10_000_000_000;
    snapshot.reread = Reread { slice: 1, slices: 6, out_of_turn: vec![9] };
    let host = host_snapshot(&snapshot);
    for view in [View::Processes, View::Files] {
        let table = view.table(&host, &Select::default()).unwrap();
        let (pids, as_of) = (column(view, &table, "pid"), column(view, &table, "as_of"));
        let newest = time_text(host.captured_ns);
        for (pid, as_of) in pids.iter().zip(&as_of) {
            let process = snapshot.processes.iter().find(|process| process.pid.to_string() == *pid).unwrap();
            let ticks = snapshot
                .reread
                .age_ticks_max(edr_wire::ProcessKey { pid: process.pid, start_ticks: process.start_ticks });
            assert_eq!(*as_of, time_text(host.captured_ns - i64::from(ticks) * 10_000_000_000));
        }
        let of_nine: Vec<&String> =
            pids.iter().zip(&as_of).filter(|(pid, _)| *pid == "9").map(|(_, as_of)| as_of).collect();
        assert!(!of_nine.is_empty() && of_nine.iter().all(|as_of| **as_of == newest));
        assert!(as_of.iter().any(|as_of| *as_of != newest), "{as_of:?}");
    }
}

#[test]
fn files_name_their_process_and_sockets_their_endpoints() {
    let all = table(View::Files, &Select::default());
    assert_eq!(all.total, 6);
    assert_eq!(column(View::Files, &all, "path")[0], "tcp [::]:80 (listen)");
    assert_eq!(column(View::Files, &all, "fd"), ["3", "4", "3", "4", "cwd", "1"]);
    assert_eq!(filtered(View::Files, "deleted:yes", "path"), ["/tmp/\\xffx"]);
}

#[test]
fn a_socket_names_all_its_owners_and_may_have_none() {
    let all = table(View::Sockets, &Select::default());
    assert_eq!(column(View::Sockets, &all, "pids"), ["", "9 10"]);
    assert_eq!(column(View::Sockets, &all, "comm"), ["", "nginx"]);
    assert_eq!(filtered(View::Sockets, "pids:10", "local_port"), ["80"]);
    assert!(filtered(View::Sockets, "pids:1", "local_port").is_empty());
}

#[test]
fn sources_are_flattened_and_one_without_targets_is_not_lost() {
    let all = table(View::Sources, &Select::default());
    assert_eq!(column(View::Sources, &all, "kind"), ["source", "ports", "signature"]);
    assert_eq!(column(View::Sources, &all, "port_high"), ["", "99", ""]);
    assert_eq!(column(View::Sources, &all, "start_time")[1], "2026-03-08 20:00:00");
}

#[test]
fn a_filter_looks_everywhere_or_in_one_column() {
    assert_eq!(filtered(View::Processes, "NGINX", "pid"), ["9", "10"]);
    assert_eq!(filtered(View::Processes, "pid:9", "pid"), ["9"]);
    assert!(filtered(View::Processes, "pid:nine", "pid").is_empty());
    assert_eq!(filtered(View::Processes, "comm:b>)\\x0a", "pid"), ["31"]);
    // No column has the name `[`, so the whole text is searched for.
    assert_eq!(filtered(View::Files, "[::]:80", "pid"), ["9", "9", "10", "10"]);
}

#[test]
fn numbers_are_sorted_by_size_addresses_by_their_numbers_and_pages_fit_together() {
    let by = |view, name: &str, descending| {
        let select = Select { sort: Some(name.into()), descending, ..Select::default() };
        column(view, &table(view, &select), name)
    };
    assert_eq!(by(View::Processes, "pid", true), ["31", "10", "9"]);
    assert_eq!(by(View::TopAttackers, "ip", false), ["10.0.0.9", "10.0.0.10"]);
    assert_eq!(by(View::Sockets, "local_port", false), ["80", ""]);
    assert_eq!(by(View::Sockets, "local_port", true), ["80", ""]);

    for sort in [None, Some("pid".to_owned())] {
        let page = |page| Select { sort: sort.clone(), page, page_rows: 4, ..Select::default() };
        let pages: Vec<String> =
            (0..3).flat_map(|number| column(View::Files, &table(View::Files, &page(number)), "fd")).collect();
        assert_eq!(pages, ["3", "4", "3", "4", "cwd", "1"]);
        assert_eq!(table(View::Files, &page(usize::MAX)).rows.len(), 0);
    }
    let unknown =
        View::Processes.table(&host_snapshot(&sample()), &Select { sort: Some("x".into()), ..Select::default() });
    assert!(unknown.unwrap_err().to_string().starts_with("no column \"x\"; there are: pid, ppid, user"));
}

#[test]
fn what_a_join_repeats_is_cut() {
    let mut snapshot = sample();
    snapshot.processes[0].comm = Bytes(vec![b'a'; 1 << 20]);
    let all = View::Files.table(&host_snapshot(&snapshot), &Select::default()).unwrap();
    let Cell::Bytes(comm) = &all.rows[0][0] else { panic!("{:?}", all.rows[0][0]) };
    assert!(comm.0.len() < JOINED_BYTES_MAX + 8);
}

#[test]
fn a_row_that_is_no_process_is_counted_and_the_others_are_shown() {
    let raw = rmp_serde::to_vec_named(&sample()).unwrap();
    // The second process begins with its pid, 10; with nil in place of the pid the process is undecodable.
    let name = b"\xa3pid\x0a";
    let at = raw.windows(name.len()).position(|window| window == name).unwrap() + 4;
    let mut hostile = raw;
    hostile[at] = 0xc0;
    let snapshot = HostSnapshot { view: SnapshotView::parse(hostile).unwrap(), ..host_snapshot(&sample()) };
    let table = View::Processes.table(&snapshot, &Select::default()).unwrap();
    assert_eq!((table.rows.len(), table.undecodable), (2, 1));
}

#[test]
fn json_is_exact_and_typed() {
    let all = table(View::Processes, &Select::default());
    let row = &all.rows[2];
    let value = |name| row[all.columns.iter().position(|column| column.name == name).unwrap()].json();
    assert_eq!(value("pid"), serde_json::json!(31));
    assert_eq!(value("comm"), serde_json::json!("<b>)\n\\xff"));
    assert_eq!(value("argv"), serde_json::json!(["/tmp/<script>", "a b", ""]));
    assert_eq!(value("cpu_percent"), serde_json::json!(50.0));
}

#[test]
fn device_numbers_are_those_of_ls() {
    assert_eq!(device(0x0801), "8:1");
    assert_eq!(device(0x10_3003), "48:259");
}
