//! Golden files: frames of each released version, as bytes. A released file is never rewritten: a reader that no longer
//! understands a released file cannot read existing archives.
//!
//! `EDR_GOLDEN=write cargo test -p edr-wire --test golden` writes the missing files, for a new version.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use edr_wire::frame::{
    EncodedFrame, Frame, FrameHeader, FrameKind, LostRange, MissedTicks, PreviousEpoch, Record, split_records,
};
use edr_wire::snapshot::{
    Access, Exe, Fd, FileKind, Gap, GapReason, OpenFile, Packet, Process, SCHEMA, Snapshot, SnapshotView, Socket,
};
use edr_wire::{Bytes, Epoch, HostId};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// Returns the bytes of a golden file. A missing file is written first with `EDR_GOLDEN=write`.
fn golden(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = folder().join(name);
    if !path.exists() && std::env::var_os("EDR_GOLDEN").is_some_and(|mode| mode == "write") {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, make()).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn snapshot(seq: u64) -> Snapshot {
    let hostile = Process {
        pid: 4_242,
        start_ticks: 71_001,
        ppid: 1,
        comm: Bytes::from(b"<b>)\n\xff"),
        argv: vec![Bytes::from(b"/tmp/x"), Bytes::default(), Bytes::from(b"<script>alert(1)</script>")],
        exe: Some(Exe { path: Bytes::from(b"/tmp/x"), deleted: true, inode: 77, ..Exe::default() }),
        uids: [1_000; 4],
        gids: [1_000; 4],
        state: 'S',
        threads: 1,
        utime_ticks: 10 * seq,
        files_total: Some(1),
        files: vec![OpenFile {
            fd: Fd::Number(3),
            access: Access::ReadWrite,
            flags: vec!["cloexec".into()],
            kind: FileKind::Socket,
            inode: 9_001,
            ..OpenFile::default()
        }],
        ..Process::default()
    };
    let mut snapshot = Snapshot {
        schema: SCHEMA,
        processes: vec![Process { pid: 1, comm: Bytes::from(b"init"), state: 'S', ..Process::default() }, hostile],
        sockets: vec![Socket {
            inode: 9_001,
            protocol: "tcp".to_owned(),
            state: "listen".to_owned(),
            local: "192.0.2.1".to_owned(),
            local_port: 8_080,
            ..Socket::default()
        }],
        packets: vec![Packet {
            src: "203.0.113.7".to_owned(),
            repeated: 1,
            raw: Bytes::from(b"IN=eth0"),
            ..Packet::default()
        }],
        gaps: vec![Gap { source: "files".to_owned(), reason: GapReason::Denied, count: 1, ..Gap::default() }],
        ..Snapshot::default()
    };
    snapshot.host.host_id = HostId([0xab; 16]);
    snapshot.host.hostname = "golden".to_owned();
    snapshot.agent.seq = seq;
    snapshot
}

fn header(kind: FrameKind, seq: u64) -> FrameHeader {
    FrameHeader {
        host_id: HostId([0xab; 16]),
        epoch: Epoch([1, 2, 3, 4, 5, 6, 7, 8]),
        seq,
        kind,
        base_seq: 1,
        boot_id: "7f2c1a64-0d35-4f5b-9d5e-4c1e2b6a9f10".to_owned(),
        previous_epoch: Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 41 }),
        captured_ns: 1_764_000_000_000_000_000,
        lost: vec![LostRange { epoch: Epoch([9; 8]), first_seq: 7, last_seq: 9, reason: "spool_full".to_owned() }],
        missed: vec![MissedTicks { from_boottime_ns: 10, to_boottime_ns: 20, ticks: 2, reason: "overrun".to_owned() }],
        bye: kind == FrameKind::Delta,
    }
}

fn raw(seq: u64) -> Vec<u8> {
    rmp_serde::to_vec_named(&snapshot(seq)).unwrap()
}

fn open(file: &[u8], key_raw: Option<&[u8]>) -> (FrameHeader, Vec<u8>) {
    let records = split_records(file).map(|record| Record::decode(record.unwrap()).unwrap()).collect();
    let frame = Frame::assemble(records).unwrap();
    let raw = frame.open(key_raw).unwrap();
    (frame.header, raw)
}

#[test]
fn frames_of_version_1_are_read_for_ever() {
    let encode = |kind, seq, key: Option<&[u8]>| {
        EncodedFrame::encode(&header(kind, seq), &raw(seq), key, 200).unwrap().records.concat()
    };
    let key = golden("key.frame", || encode(FrameKind::Key, 1, None));
    let (key_header, key_raw) = open(&key, None);
    assert_eq!(key_header, header(FrameKind::Key, 1));
    assert_eq!(golden("key.msgpack", || raw(1)), key_raw);
    assert!(split_records(&key).count() > 1, "it comes in parts");

    let delta = golden("delta.frame", || encode(FrameKind::Delta, 2, Some(&key_raw)));
    let (delta_header, delta_raw) = open(&delta, Some(&key_raw));
    assert_eq!(delta_header, header(FrameKind::Delta, 2));

    // The content hashes are those of tests/reader/read_frame.py.
    for (file, expected) in [
        (&key, "3adc0331d9bfd01d0b0758a37c7313b8e34890d2db973dd158e6328c35f76883"),
        (&delta, "445dc8b4f9c794ad1e78a8e7a0eb1f33a0e76807e93245d6c3df56f2f736e669"),
    ] {
        for record in split_records(file) {
            assert_eq!(Record::decode(record.unwrap()).unwrap().key.content.to_string(), expected);
        }
    }

    for (seq, raw) in [(1, key_raw), (2, delta_raw)] {
        assert_eq!(rmp_serde::from_slice::<Snapshot>(&raw).unwrap(), snapshot(seq));
        let view = SnapshotView::parse(raw).unwrap();
        let processes: Vec<Process> = view.processes().map(Result::unwrap).collect();
        assert_eq!(processes, snapshot(seq).processes);
    }
}
