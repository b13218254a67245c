use edr_wire::HostId;

use super::*;

/// The header of a key frame without declarations.
pub(super) fn header(id: FrameId) -> FrameHeader {
    FrameHeader {
        host_id: HostId([1; 16]),
        epoch: id.epoch,
        seq: id.seq,
        kind: FrameKind::Key,
        base_seq: id.seq,
        boot_id: "boot".to_owned(),
        previous_epoch: None,
        captured_ns: 0,
        lost: Vec::new(),
        missed: Vec::new(),
        bye: false,
    }
}
