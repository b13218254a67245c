//! A frame as stored in the spool: verified records in order.

use std::ops::Range;
use std::sync::Arc;

use edr_wire::frame::{Frame, FrameError, FrameHeader, Record, split_records};

/// A verified frame, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFrame {
    /// Header of the frame.
    pub header: FrameHeader,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

impl StoredFrame {
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
            if first.as_ref().is_some_and(|first| !record.fits(first)) {
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

    /// The same frame in parts of at most `part_bytes_max` body bytes; unchanged when all parts are small enough. A new
    /// division has another number of parts, because readers tell divisions apart by this number.
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
        let frame = Frame::assemble(records)?;
        let mut parts = frame.records(part_bytes_max)?;
        if parts.len() == self.records.len() {
            parts = frame.records(frame.body.len().div_ceil(parts.len() + 1))?;
        }
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

#[cfg(test)]
mod tests {
    use edr_wire::frame::{EncodedFrame, FrameKind};
    use edr_wire::{Epoch, HostId};

    use super::*;

    #[test]
    fn a_smaller_division_has_another_number_of_parts_and_the_same_frame() {
        let header = FrameHeader {
            host_id: HostId([1; 16]),
            epoch: Epoch([1; 8]),
            seq: 1,
            kind: FrameKind::Key,
            base_seq: 1,
            boot_id: "boot".into(),
            previous_epoch: None,
            captured_ns: 1,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let raw: Vec<u8> = (0..10_000).map(|_| noise()).collect();
        let encoded = EncodedFrame::encode(&header, &raw, None, 6_000).unwrap();
        let stored = Arc::new(StoredFrame::from_parts(header, encoded.records));
        assert_eq!(stored.records().len(), 2);
        let key = |stored: &StoredFrame| Record::decode(stored.records().next().unwrap()).unwrap().key;
        for (part_bytes_max, count) in [(6_000, 2), (5_500, 3), (4_000, 3), (1_000, 11)] {
            let divided = stored.within(part_bytes_max).unwrap();
            assert_eq!(divided.records().len(), count, "{part_bytes_max} bytes");
            assert!(divided.records().all(|record| Record::decode(record).unwrap().body.len() <= part_bytes_max));
            assert_eq!(divided.open(None).unwrap(), raw);
            assert_eq!(key(&divided), key(&stored));
        }
    }
}
