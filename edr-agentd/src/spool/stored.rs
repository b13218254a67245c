//! A frame as stored in the spool: verified records in order.

use std::ops::Range;
use std::sync::Arc;

use edr_wire::frame::{Frame, FrameError, FrameHeader, Record, split_records};

/// A verified frame, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Header of the frame.
    pub header: FrameHeader,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

impl Stored {
    /// Verifies the content of a spool file: the checksum of each record, all parts present, in order, of one frame.
    ///
    /// # Errors
    /// The first fault of the content.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, FrameError> {
        let mut first: Option<Record> = None;
        let mut records = Vec::new();
        let mut at = 0;
        for piece in split_records(&bytes) {
            let piece = piece?;
            let mut record = Record::decode(piece)?;
            record.body = Vec::new();
            if record.part as usize != records.len() {
                return Err(FrameError::Parts(format!("part {} where part {} belongs", record.part, records.len())));
            }
            if first.as_ref().is_some_and(|first| !record.is_same_frame(first)) {
                return Err(FrameError::Parts(format!("part {} is of another frame than part 0", record.part)));
            }
            first.get_or_insert(record);
            records.push(at..at + piece.len());
            at += piece.len();
        }
        let first = first.ok_or_else(|| FrameError::Parts("an empty file".to_owned()))?;
        if records.len() != first.parts as usize {
            return Err(FrameError::Parts(format!("{} of {} parts", records.len(), first.parts)));
        }
        Ok(Self { header: first.header, bytes, records })
    }

    /// Takes a frame fresh from the encoder.
    pub(super) fn from_parts(header: FrameHeader, parts: Vec<Vec<u8>>) -> Self {
        let mut at = 0;
        let place = |part: &Vec<u8>| {
            at += part.len();
            at - part.len()..at
        };
        let records = parts.iter().map(place).collect();
        Self { header, bytes: parts.concat(), records }
    }

    /// The Kafka values, in order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.records.iter().map(|place| &self.bytes[place.clone()])
    }

    /// Bytes of all records.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The same frame in parts of at most `part_bytes_max` body bytes; unchanged when all parts are small enough.
    ///
    /// # Errors
    /// When the frame would need more parts than allowed.
    pub fn within(self: &Arc<Self>, part_bytes_max: usize) -> Result<Arc<Self>, FrameError> {
        // A record is longer than its body, so for most records the length decides.
        if self.records.iter().all(|record| record.len() <= part_bytes_max) {
            return Ok(Arc::clone(self));
        }
        let records = self.records().map(Record::decode).collect::<Result<Vec<_>, _>>()?;
        if records.iter().all(|record| record.body.len() <= part_bytes_max) {
            return Ok(Arc::clone(self));
        }
        let parts = Frame::assemble(records)?.records(part_bytes_max)?;
        Ok(Arc::new(Self::from_parts(self.header.clone(), parts)))
    }

    /// The snapshot's msgpack.
    ///
    /// # Errors
    /// When the body is damaged, or `key_raw` is not the key with seq `header.base_seq`.
    pub fn open(&self, key_raw: Option<&[u8]>) -> Result<Vec<u8>, FrameError> {
        let records = self.records().map(Record::decode).collect::<Result<Vec<_>, _>>()?;
        Frame::assemble(records)?.open(key_raw)
    }
}
