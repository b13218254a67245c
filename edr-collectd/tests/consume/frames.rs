//! Frames of made-up hosts.

use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind};
use edr_wire::snapshot::{Agent, Host, Snapshot, Time};
use edr_wire::{Epoch, HostId};

fn raw(n: u8, processes: u32) -> Vec<u8> {
    let processes = (1..=processes).map(|pid| edr_wire::snapshot::Process { pid, state: 'S', ..Default::default() });
    let snapshot = Snapshot {
        schema: 1,
        host: Host { host_id: HostId([n; 16]), hostname: format!("host-{n}"), ..Host::default() },
        agent: Agent::default(),
        time: Time::default(),
        processes: processes.collect(),
        ..Snapshot::default()
    };
    rmp_serde::to_vec_named(&snapshot).unwrap()
}

/// Returns the records of frames `seqs` of a host. Frame 1 is a key, the other frames are deltas against frame 1.
pub(crate) fn frames(n: u8, seqs: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    let frame = |seq| {
        let is_key = seq == 1;
        let header = FrameHeader {
            host_id: HostId([n; 16]),
            epoch: Epoch([n; 8]),
            seq,
            kind: if is_key { FrameKind::Key } else { FrameKind::Delta },
            base_seq: 1,
            boot_id: "boot".into(),
            previous_epoch: None,
            captured_ns: i64::try_from(seq).unwrap() * 10_000_000_000,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let key_raw = raw(n, 1);
        let raw = raw(n, u32::try_from(seq).unwrap());
        EncodedFrame::encode(&header, &raw, (!is_key).then_some(key_raw.as_slice()), 128).unwrap().records
    };
    seqs.flat_map(frame).collect()
}
