//! The frame: the unit of transport and storage, with the same bytes in the spool, in Kafka and in the archive.
//!
//! A frame is one compressed snapshot with a header. The header names the host, the epoch and the sequence number,
//! lists the frames lost before this frame, and tells how to read the body. A `key` frame is readable alone; a `delta`
//! frame needs the key frame of its epoch with seq `base_seq`. So the loss of a delta affects no other frame.
//!
//! Kafka refuses large messages, so a frame is cut into **records**, one per part. Each record is a msgpack map with
//! the whole header, its share of the body and a checksum over itself. `docs/wire-format.md` specifies the bytes of a
//! record.

mod assemble;
mod body;
mod encode;
mod key;
mod record;

pub use assemble::{Frame, split_records};
pub use encode::EncodedFrame;
pub use key::FrameKey;
pub use record::{Record, VERSION};
use serde::{Deserialize, Serialize};

use crate::limits::{PARTS_MAX, RANGES_MAX, RAW_BYTES_MAX, RECORD_BYTES_MAX};
use crate::{Epoch, HostId, ScanError};

/// A frame's facts except its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    /// The host.
    pub host_id: HostId,
    /// The unbroken run of sequence numbers to which this frame belongs.
    pub epoch: Epoch,
    /// Sequence number in the epoch: 1, 2, 3, … without holes.
    pub seq: u64,
    /// Encoding of the body.
    pub kind: FrameKind,
    /// For a delta, `seq` of the needed key frame in the same epoch; for a key its own `seq`.
    pub base_seq: u64,
    /// Boot in which the snapshot was taken (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The previous epoch, when the host knows it.
    pub previous_epoch: Option<PreviousEpoch>,
    /// Time of the snapshot, ns since the epoch, by the host's wall clock.
    pub captured_ns: i64,
    /// Frames that were made but will never arrive.
    pub lost: Vec<LostRange>,
    /// Ticks without a frame.
    pub missed: Vec<MissedTicks>,
    /// True when the agent stopped cleanly after this frame, so that the following silence is expected.
    pub bye: bool,
}

impl FrameHeader {
    /// Returns the memory of texts and lists, in bytes, without the header's own size.
    pub fn heap_len(&self) -> usize {
        let lost = self.lost.iter().map(|range| size_of::<LostRange>() + range.reason.capacity()).sum::<usize>();
        let missed = self.missed.iter().map(|ticks| size_of::<MissedTicks>() + ticks.reason.capacity()).sum::<usize>();
        self.boot_id.capacity() + lost + missed
    }
}

/// Encoding of a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// zstd of the snapshot.
    Key,
    /// zstd of the snapshot with the raw key snapshot as prefix (raw-content dictionary).
    Delta,
}

/// The epoch that ended before this epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousEpoch {
    /// Identity of the epoch.
    pub id: Epoch,
    /// Highest sequence number of the epoch.
    pub last_seq: u64,
}

/// Frames that were made but will never arrive, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// Epoch of the lost frames.
    pub epoch: Epoch,
    /// First lost sequence number.
    pub first_seq: u64,
    /// Last lost sequence number.
    pub last_seq: u64,
    /// `spool_full`, `thinned`, `corrupt`, `unreadable`, …
    pub reason: String,
}

/// Ticks without a frame, with the reason. Times are `CLOCK_BOOTTIME` of the frame's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedTicks {
    /// Due time of the first tick, ns.
    pub from_boottime_ns: u64,
    /// Due time of the last tick, ns.
    pub to_boottime_ns: u64,
    /// Number of ticks.
    pub ticks: u64,
    /// `overrun`, `suspended`, `not_running`, …
    pub reason: String,
}

/// The reason why bytes are not a frame, or not a readable frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The record is larger than [`RECORD_BYTES_MAX`].
    #[error("record of {0} bytes, {RECORD_BYTES_MAX} are allowed")]
    RecordTooLarge(usize),
    /// The bytes are not msgpack, or not one whole value.
    #[error("record: {0}")]
    Structure(#[from] ScanError),
    /// Bytes follow after the end of the record.
    #[error("record: {0} bytes behind its end")]
    Trailing(usize),
    /// The value is not a map that starts with the version.
    #[error("not a record: it does not start with a version")]
    NotARecord,
    /// The record was made by another version of the format.
    #[error("record version {0}, this program reads {VERSION}")]
    Version(u64),
    /// The checksum does not match the bytes.
    #[error("record: checksum does not fit its bytes")]
    Checksum,
    /// A field has another shape.
    #[error("record: {0}")]
    Field(String),
    /// A value is outside its limit.
    #[error("record: {what} is {value}, {max} is allowed")]
    Limit {
        /// Name of the value.
        what: &'static str,
        /// The value.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// The parts belong to different frames, or some are missing.
    #[error("frame: {0}")]
    Parts(String),
    /// The key of a delta is missing.
    #[error("frame: a delta needs the key snapshot with seq {base_seq}")]
    KeyMissing {
        /// Sequence number of the key.
        base_seq: u64,
    },
    /// The body cannot be decompressed.
    #[error("frame body: {0}")]
    Body(String),
    /// The decompressed body has another hash than the header states.
    #[error("frame body: content does not have the hash that the header says")]
    Hash,
}

/// Checks a value against its limit.
fn check_within(what: &'static str, value: usize, max: usize) -> Result<(), FrameError> {
    if value > max { Err(FrameError::Limit { what, value: value as u64, max: max as u64 }) } else { Ok(()) }
}

/// Checks a header against the limits of the format. Encoder and decoder use the same check.
fn check_header(header: &FrameHeader, raw_len: usize, part: u32, parts: u32) -> Result<(), FrameError> {
    check_within("raw_len", raw_len, RAW_BYTES_MAX)?;
    check_within("parts", parts as usize, PARTS_MAX as usize)?;
    check_within("boot_id length", header.boot_id.len(), 64)?;
    check_within("entries of lost", header.lost.len(), RANGES_MAX)?;
    check_within("entries of missed", header.missed.len(), RANGES_MAX)?;
    let reasons = header.lost.iter().map(|lost| &lost.reason).chain(header.missed.iter().map(|missed| &missed.reason));
    for reason in reasons {
        check_within("length of a reason", reason.len(), 64)?;
    }
    if part >= parts {
        return Err(FrameError::Parts(format!("part {part} of {parts}")));
    }
    if header.seq == 0 {
        return Err(FrameError::Field("seq is 0, the first is 1".to_owned()));
    }
    let base_fits = match header.kind {
        FrameKind::Key => header.base_seq == header.seq,
        FrameKind::Delta => header.base_seq < header.seq && header.base_seq > 0,
    };
    if !base_fits {
        return Err(FrameError::Field(format!(
            "base_seq {} of a {:?} with seq {}",
            header.base_seq, header.kind, header.seq
        )));
    }
    Ok(())
}
