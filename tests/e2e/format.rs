//! The wire format, sent through a broker with default limits and read by a program without code of this project.

use anyhow::{Context as _, ensure};
use edr_tests::reader;
use edr_tests::scene::Scene;
use edr_tests::topic::{produce, records};
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind, Record};
use edr_wire::limits::PART_BYTES;
use edr_wire::snapshot::{Process, SCHEMA, Snapshot};
use edr_wire::{Bytes, Epoch, HostId};
use serde_json::Value;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

/// A key of several parts and a delta must pass Kafka unchanged, and the reader must see the same rows.
pub(crate) fn read_without_our_code(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("format", |scene| {
        // Every byte value, and 3 MB of incompressible bytes.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let process = |pid: u32, argv: Vec<u8>| Process {
            pid,
            comm: Bytes::from(b"<b>)\n\xff\\x41"),
            argv: vec![Bytes::from(argv), Bytes::from((0..=255).collect::<Vec<u8>>())],
            state: 'S',
            ..Process::default()
        };
        let mut snapshot = Snapshot { schema: SCHEMA, ..Snapshot::default() };
        snapshot.processes = (1..=48).map(|pid| process(pid, (0..65_536).map(|_| noise()).collect())).collect();
        let key_raw = rmp_serde::to_vec_named(&snapshot)?;
        snapshot.processes[7].ppid = 4;
        let delta_raw = rmp_serde::to_vec_named(&snapshot)?;

        let header = |seq, kind| FrameHeader {
            host_id: HostId([0x5a; 16]),
            epoch: Epoch([0xe0; 8]),
            seq,
            kind,
            base_seq: 1,
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            previous_epoch: None,
            captured_ns: 1_795_489_920_000_000_000,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let key = EncodedFrame::encode(&header(1, FrameKind::Key), &key_raw, None, PART_BYTES)?;
        let delta = EncodedFrame::encode(&header(2, FrameKind::Delta), &delta_raw, Some(&key_raw), PART_BYTES)?;
        ensure!(key.records.len() > 3, "the key has {} parts", key.records.len());
        ensure!(delta.body_len < 10_000, "the delta has {} bytes", delta.body_len);

        let broker = shared.broker()?;
        for value in key.records.iter().chain(&delta.records) {
            produce(broker, &topic, 0, HostId([0x5a; 16]).to_string().as_bytes(), value)?;
        }
        let stored = records(broker, &topic)?;
        let parts = key.records.len();
        let file = |name: &str, values: &[edr_tests::topic::KafkaRecord]| {
            let path = scene.path().join(name);
            let bytes: Vec<u8> = values.iter().flat_map(|record| record.value.iter().copied()).collect();
            std::fs::write(&path, bytes).map(|()| path).context("write a frame file")
        };
        let key_file = file("1.frame", &stored[..parts])?;
        let delta_file = file("2.frame", &stored[parts..])?;

        let expected = |raw: &[u8]| -> anyhow::Result<Value> {
            Ok(serde_json::to_value(rmp_serde::from_slice::<Snapshot>(raw)?)?)
        };
        ensure!(reader::snapshot(&key_file, None)? == expected(&key_raw)?, "the key reads differently");
        ensure!(
            reader::snapshot(&delta_file, Some(&key_file))? == expected(&delta_raw)?,
            "the delta reads differently"
        );
        let read = reader::header(&delta_file)?;
        ensure!(read["base_seq"] == 1, "the header reads differently");
        let record = Record::decode(&delta.records[0])?;
        let content = record.key.content.to_string();
        ensure!(read["content_hash"] == content, "the content hash {content} is different in {read}");
        ensure!(reader::snapshot(&delta_file, None).is_err(), "a delta was read without its key");
        ensure!(reader::snapshot(&delta_file, Some(&delta_file)).is_err(), "a delta was read with a wrong key");
        PASSED
    })
}
