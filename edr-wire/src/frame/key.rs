//! The identity of a frame.

use serde::{Deserialize, Serialize};

use super::FrameError;
use crate::scan::{Cursor, ValueHead};
use crate::{ContentHash, Epoch, HostId};

/// Fields of a record outside the content hash: the division into parts, the signature, and the checksum. `raw_hash`
/// stands for the body.
const OUTSIDE_CONTENT: [&str; 6] = ["part", "parts", "key_id", "sig", "body", "sum"];

/// The identity of a frame. Two records are parts of one frame when their keys are equal.
///
/// The first three fields name the place of the frame in the history of the host. Two keys with the same place and
/// different contents are a conflict: a frame was forged, or a sequence number was used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameKey {
    /// The host.
    pub host_id: HostId,
    /// The epoch of the host.
    pub epoch: Epoch,
    /// The sequence number in the epoch.
    pub seq: u64,
    /// Hash of the header and of the snapshot.
    pub content: ContentHash,
}

impl FrameKey {
    /// Returns the place of the frame in the host's history, without the content.
    pub fn place(&self) -> (Epoch, u64) {
        (self.epoch, self.seq)
    }
}

/// Hashes the content of a record: the bytes of every field except [`OUTSIDE_CONTENT`], name and value, in the order of
/// the record. So the hash also covers fields that were added to the format later and are unknown here.
pub(super) fn content_hash(record: &[u8]) -> Result<ContentHash, FrameError> {
    let mut cursor = Cursor::new(record);
    let ValueHead::Map(fields) = cursor.head()? else { return Err(FrameError::NotARecord) };
    let mut hasher = blake3::Hasher::new();
    for _ in 0..fields {
        let start = cursor.at;
        let name = cursor.text()?;
        cursor.skip(1)?;
        if !OUTSIDE_CONTENT.contains(&name) {
            hasher.update(&record[start..cursor.at]);
        }
    }
    Ok(ContentHash(hasher.finalize().into()))
}
