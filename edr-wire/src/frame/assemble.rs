//! From records back to a frame and its snapshot.

use super::{FrameError, FrameHeader, FrameKey, FrameKind, Record, body, encode};
use crate::limits::{PARTS_MAX, RECORD_BYTES_MAX};
use crate::scan::value_len;

/// A complete frame: header and joined body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Identity of the frame.
    pub key: FrameKey,
    /// The frame's header.
    pub header: FrameHeader,
    /// Bytes of the snapshot.
    pub raw_len: u32,
    /// BLAKE3 of the snapshot.
    pub raw_hash: [u8; 32],
    /// The compressed snapshot.
    pub body: Vec<u8>,
}

impl Frame {
    /// Joins the parts of one frame, in any order; duplicates of a part are ignored.
    ///
    /// # Errors
    /// When a part is missing, or when the parts belong to different frames.
    pub fn assemble(mut records: Vec<Record>) -> Result<Self, FrameError> {
        records.sort_by_key(|record| record.part);
        records.dedup_by_key(|record| record.part);
        let Some(first) = records.first() else {
            return Err(FrameError::Parts("no part".to_owned()));
        };
        if let Some(stranger) = records.iter().find(|record| !record.fits(first)) {
            return Err(FrameError::Parts(format!(
                "part {} is of another frame than part {}",
                stranger.part, first.part
            )));
        }
        if records.len() < first.parts as usize {
            return Err(FrameError::Parts(format!("{} of {} parts", records.len(), first.parts)));
        }
        let whole: usize = records.iter().map(|record| record.body.len()).sum();
        let mut records = records.into_iter();
        let Some(first) = records.next() else {
            return Err(FrameError::Parts("no part".to_owned()));
        };
        let mut body = first.body;
        body.reserve_exact(whole - body.len());
        for record in records {
            body.extend_from_slice(&record.body);
        }
        Ok(Self { key: first.key, header: first.header, raw_len: first.raw_len, raw_hash: first.raw_hash, body })
    }

    /// Cuts the same frame into parts of at most `part_bytes_max` body bytes, for a topic whose message limit was
    /// lowered after the frame was made.
    ///
    /// # Errors
    /// When a frame may not have so many parts.
    pub fn records(&self, part_bytes_max: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        encode::cut(&self.header, self.raw_len, &self.raw_hash, &self.body, part_bytes_max)
    }

    /// Returns the snapshot's msgpack. For a delta, `key_raw` is the msgpack of the snapshot with seq
    /// `header.base_seq`.
    ///
    /// # Errors
    /// When the body is damaged, or when the key is missing or wrong.
    pub fn open(&self, key_raw: Option<&[u8]>) -> Result<Vec<u8>, FrameError> {
        let key_raw = match self.header.kind {
            FrameKind::Key => None,
            FrameKind::Delta => Some(key_raw.ok_or(FrameError::KeyMissing { base_seq: self.header.base_seq })?),
        };
        let raw = body::decompress(&self.body, self.raw_len as usize, key_raw)?;
        if blake3::hash(&raw).as_bytes() == &self.raw_hash { Ok(raw) } else { Err(FrameError::Hash) }
    }
}

/// Iterates over the records of a spool file. Ends after the first invalid record.
pub fn split_records(file: &[u8]) -> impl Iterator<Item = Result<&[u8], FrameError>> {
    let mut rest = file;
    let mut count = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        count += 1;
        let len = match value_len(&rest[..rest.len().min(RECORD_BYTES_MAX)]) {
            Ok(len) if count <= PARTS_MAX => len,
            Ok(_) => {
                rest = &[];
                return Some(Err(FrameError::Parts(format!("more than {PARTS_MAX} records"))));
            }
            Err(error) => {
                rest = &[];
                return Some(Err(error.into()));
            }
        };
        let (record, after) = rest.split_at(len);
        rest = after;
        Some(Ok(record))
    })
}
