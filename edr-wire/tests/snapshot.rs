//! Reading snapshots: row by row, from later versions, and from damaged bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use edr_wire::Bytes;
use edr_wire::snapshot::{
    Access, Fd, FileKind, Gap, GapReason, Host, OpenFile, Process, SCHEMA, Snapshot, SnapshotError, SnapshotView,
    Socket,
};
use proptest::prelude::*;

fn sample() -> Snapshot {
    let file = |fd| OpenFile { fd, access: Access::ReadWrite, kind: FileKind::Regular, ..OpenFile::default() };
    let process = |pid| Process {
        pid,
        comm: Bytes::from(b"ev\xff)\n(x R 1"),
        argv: vec![Bytes::from("a"), Bytes::default(), Bytes::from(b"\\\x00\xfe")],
        state: 'S',
        files: vec![file(Fd::Cwd), file(Fd::Number(0)), file(Fd::Number(4_000_000_000))],
        ..Process::default()
    };
    Snapshot {
        schema: SCHEMA,
        host: Host { hostname: "h".to_owned(), ..Host::default() },
        processes: vec![process(1), process(2)],
        sockets: vec![Socket { inode: 3, ..Socket::default() }],
        gaps: vec![Gap { source: "files".to_owned(), reason: GapReason::Denied, count: 2, ..Gap::default() }],
        ..Snapshot::default()
    }
}

fn packed(snapshot: &Snapshot) -> Vec<u8> {
    rmp_serde::to_vec_named(snapshot).unwrap()
}

#[test]
fn a_view_gives_every_section_and_row() {
    let snapshot = sample();
    let view = SnapshotView::parse(packed(&snapshot)).unwrap();
    assert_eq!(view.host().unwrap(), snapshot.host);
    assert_eq!(view.agent().unwrap(), snapshot.agent);
    assert_eq!(view.time().unwrap(), snapshot.time);
    assert_eq!(view.psad().unwrap(), snapshot.psad);
    assert_eq!(view.gaps().unwrap(), snapshot.gaps);
    assert_eq!(view.reread().unwrap(), snapshot.reread);
    assert_eq!((view.process_count(), view.socket_count()), (2, 1));
    let processes: Vec<Process> = view.processes().map(Result::unwrap).collect();
    assert_eq!(processes, snapshot.processes);
    let sockets: Vec<Socket> = view.sockets().map(Result::unwrap).collect();
    assert_eq!(sockets, snapshot.sockets);
    for (row, process) in view.process_rows().zip(&snapshot.processes) {
        assert_eq!(row, rmp_serde::to_vec_named(process).unwrap());
    }
}

#[test]
fn json_gives_the_same_snapshot_back() {
    let snapshot = sample();
    let json = serde_json::to_string(&snapshot).unwrap();
    assert!(json.contains(r#""comm":"ev\\xff)\n(x R 1""#), "{json}");
    assert!(json.contains(r#""fd":"cwd""#) && json.contains(r#""fd":4000000000"#));
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
}

/// Simulates a later agent: additional fields everywhere, and names unknown to this version.
#[test]
fn fields_and_names_of_a_later_version_are_passed_over() {
    let json = serde_json::to_value(sample()).unwrap();
    let mut later = json.clone();
    later["weather"] = serde_json::json!({"sky": ["blue", 7, {"deep": [1, 2]}]});
    later["host"]["moons"] = 2.into();
    later["processes"][0]["mood"] = "calm".into();
    later["processes"][0]["files"][0]["kind"] = "wormhole".into();
    later["gaps"][0]["reason"] = "eclipse".into();
    // msgpack of a JSON value has strings in place of `bin`; both are accepted as bytes.
    let view = SnapshotView::parse(rmp_serde::to_vec_named(&later).unwrap()).unwrap();
    let process = view.processes().next().unwrap().unwrap();
    assert_eq!(process.files[0].kind, FileKind::Unknown);
    assert_eq!(process.pid, 1);
    assert_eq!(view.gaps().unwrap()[0].reason, GapReason::Unknown);
}

#[test]
fn a_snapshot_without_a_host_is_refused() {
    assert!(matches!(SnapshotView::parse(vec![0x80]), Err(SnapshotError::Missing("host"))));
    assert!(matches!(SnapshotView::parse(vec![0x90]), Err(SnapshotError::Structure(_))));
    assert!(matches!(SnapshotView::parse(Vec::new()), Err(SnapshotError::Structure(_))));
    let behind = [packed(&sample()), vec![0xc0]].concat();
    assert!(matches!(SnapshotView::parse(behind), Err(SnapshotError::Structure(_))));
}

#[test]
fn every_cut_is_an_error() {
    let raw = packed(&sample());
    for end in 0..raw.len() {
        assert!(SnapshotView::parse(raw[..end].to_vec()).is_err(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_or_other_values_and_never_a_panic(at in 0_usize..2_000, with in any::<u8>()) {
        let mut raw = packed(&sample());
        let at = at % raw.len();
        raw[at] = with;
        if let Ok(view) = SnapshotView::parse(raw) {
            let _ = (view.host(), view.agent(), view.time(), view.psad());
            let _ = (view.packets(), view.gaps(), view.positions());
            let rows = view.processes().filter(Result::is_ok).count();
            prop_assert!(rows <= view.process_count());
            prop_assert!(view.sockets().filter(Result::is_ok).count() <= view.socket_count());
        }
    }
}
