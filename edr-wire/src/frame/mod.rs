//! The frame: what travels, lies in the spool and lies in the archive. The same bytes everywhere.
//!
//! A frame is one snapshot, compressed, with a header that says whose it is, which one, what was lost before it and
//! what it needs to be read. A `key` frame needs nothing else; a `delta` frame needs the key frame of its epoch named
//! by `base_seq`. So a lost delta harms nothing but itself.
//!
//! Kafka refuses large messages, so a frame is cut into **records**, one per part, each a msgpack map with the whole
//! header, its share of the body and a checksum over itself. `docs/wire-format.md` specifies them byte by byte.

mod assemble;
mod body;
mod encode;
mod record;

pub use assemble::{Frame, split_records};
pub use encode::EncodedFrame;
pub use record::{Record, VERSION};
use serde::{Deserialize, Serialize};

use crate::limits::{PARTS_MAX, RANGES_MAX, RAW_BYTES_MAX, RECORD_BYTES_MAX};
use crate::{Epoch, HostId, ScanError};

/// Everything a frame says beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    /// The host.
    pub host_id: HostId,
    /// The unbroken run of sequence numbers this frame belongs to.
    pub epoch: Epoch,
    /// Place in it: 1, 2, 3, … without holes.
    pub seq: u64,
    /// How the body is to be read.
    pub kind: FrameKind,
    /// The key frame of the same epoch that a delta needs; of a key its own `seq`.
    pub base_seq: u64,
    /// Boot the snapshot was taken in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The epoch before this one, where the host knows of one.
    pub previous_epoch: Option<PreviousEpoch>,
    /// When the snapshot was taken, ns since the epoch, by the host's wall clock.
    pub captured_ns: i64,
    /// Frames that were made and will not come.
    pub lost: Vec<LostRange>,
    /// Ticks that became no frame.
    pub missed: Vec<MissedTicks>,
    /// The agent stopped cleanly after this frame: silence that follows is meant.
    pub bye: bool,
}

/// How a frame's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// zstd of the snapshot.
    Key,
    /// zstd of the snapshot with the raw key snapshot as prefix (raw-content dictionary).
    Delta,
}

/// The epoch that ended where this one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousEpoch {
    /// Its id.
    pub id: Epoch,
    /// The highest sequence number it reached.
    pub last_seq: u64,
}

/// Frames that were made and will not come, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// Epoch of the lost frames.
    pub epoch: Epoch,
    /// First lost sequence number.
    pub first_seq: u64,
    /// Last lost sequence number.
    pub last_seq: u64,
    /// `spool_full`, `corrupt`, `unreadable`, …
    pub reason: String,
}

/// Ticks that became no frame, with the reason. Times are `CLOCK_BOOTTIME` of the frame's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedTicks {
    /// When the first of them was due, ns.
    pub from_boottime_ns: u64,
    /// When the last of them was due, ns.
    pub to_boottime_ns: u64,
    /// How many.
    pub ticks: u64,
    /// `overrun`, `suspended`, `not_running`, …
    pub reason: String,
}

/// Why bytes are not a frame, or not a readable one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Larger than a record may be.
    #[error("record of {0} bytes, {RECORD_BYTES_MAX} are allowed")]
    RecordTooLarge(usize),
    /// Not msgpack, or not one whole value.
    #[error("record: {0}")]
    Structure(#[from] ScanError),
    /// Bytes behind the record.
    #[error("record: {0} bytes behind its end")]
    Trailing(usize),
    /// Not a map that starts with the version.
    #[error("not a record: it does not start with a version")]
    NotARecord,
    /// Made by a later program.
    #[error("record version {0}, this program reads {VERSION}")]
    Version(u64),
    /// The checksum does not fit the bytes.
    #[error("record: checksum does not fit its bytes")]
    Checksum,
    /// A field of another shape.
    #[error("record: {0}")]
    Field(String),
    /// A value outside its limit.
    #[error("record: {what} is {value}, {max} is allowed")]
    Limit {
        /// What.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// Parts of different frames, or not all of them.
    #[error("frame: {0}")]
    Parts(String),
    /// A delta without its key.
    #[error("frame: a delta needs the key snapshot with seq {base_seq}")]
    KeyMissing {
        /// Sequence number of the key.
        base_seq: u64,
    },
    /// The body does not decompress.
    #[error("frame body: {0}")]
    Body(String),
    /// The body decompresses to something else.
    #[error("frame body: content does not have the hash that the header says")]
    Hash,
}

/// Checks a header against the limits of the format, the same way before sending and after receiving.
fn check_header(header: &FrameHeader, raw_len: usize, part: u32, parts: u32) -> Result<(), FrameError> {
    let within = |what, value: usize, max: usize| {
        if value > max { Err(FrameError::Limit { what, value: value as u64, max: max as u64 }) } else { Ok(()) }
    };
    within("raw_len", raw_len, RAW_BYTES_MAX)?;
    within("parts", parts as usize, PARTS_MAX as usize)?;
    within("boot_id length", header.boot_id.len(), 64)?;
    within("entries of lost", header.lost.len(), RANGES_MAX)?;
    within("entries of missed", header.missed.len(), RANGES_MAX)?;
    let reasons = header.lost.iter().map(|lost| &lost.reason).chain(header.missed.iter().map(|missed| &missed.reason));
    for reason in reasons {
        within("length of a reason", reason.len(), 64)?;
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
