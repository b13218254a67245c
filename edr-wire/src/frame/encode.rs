//! From a header and a snapshot's bytes to records.

use super::{FrameError, FrameHeader, FrameKind, body, check_header, record};
use crate::limits::RAW_BYTES_MAX;

/// A frame ready to be written and sent.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// One record per part, in order. Each record is one Kafka value; joined, the records are the spool file.
    pub records: Vec<Vec<u8>>,
    /// Bytes of the compressed body.
    pub body_len: usize,
}

impl EncodedFrame {
    /// Compresses `raw`, the snapshot's msgpack, and cuts the result into parts of at most `part_bytes_max` body bytes.
    /// `key_raw` is the msgpack of the snapshot with seq `header.base_seq` for a delta, `None` for a key.
    ///
    /// # Errors
    /// When the header or the snapshot exceeds a limit of the format.
    pub fn encode(
        header: &FrameHeader,
        raw: &[u8],
        key_raw: Option<&[u8]>,
        part_bytes_max: usize,
    ) -> Result<Self, FrameError> {
        match (header.kind, key_raw) {
            (FrameKind::Key, None) | (FrameKind::Delta, Some(_)) => {}
            (FrameKind::Delta, None) => return Err(FrameError::KeyMissing { base_seq: header.base_seq }),
            (FrameKind::Key, Some(_)) => return Err(FrameError::Field("a key frame has no key before it".to_owned())),
        }
        // Checks all but the number of parts before the compression; `cut` checks that number later.
        check_header(header, raw.len(), 0, 1)?;
        let too_large = |_| FrameError::Limit { what: "raw_len", value: raw.len() as u64, max: RAW_BYTES_MAX as u64 };
        let raw_len = u32::try_from(raw.len()).map_err(too_large)?;
        let body = body::compress(raw, key_raw)?;
        let raw_hash = blake3::hash(raw);
        let records = cut(header, raw_len, raw_hash.as_bytes(), &body, part_bytes_max)?;
        Ok(Self { records, body_len: body.len() })
    }

    /// Bytes of all records.
    pub fn byte_len(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }
}

/// Cuts a body into records of at most `part_bytes_max` body bytes.
pub(super) fn cut(
    header: &FrameHeader,
    raw_len: u32,
    raw_hash: &[u8; 32],
    body: &[u8],
    part_bytes_max: usize,
) -> Result<Vec<Vec<u8>>, FrameError> {
    let chunks: Vec<&[u8]> = body.chunks(part_bytes_max.max(1)).collect();
    let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    check_header(header, raw_len as usize, 0, parts)?;
    let encode = |(part, chunk)| record::encode(header, raw_len, raw_hash, part, parts, chunk);
    Ok((0..parts).zip(chunks).map(encode).collect())
}
