//! Kafka's record batches (format version 2): header, checksum, codecs and records. Anybody with the right to write the
//! topic controls all bytes of a batch, except the offsets and the checksum.

use std::borrow::Cow;
use std::io::{self, Read as _};

use crc::{CRC_32_ISCSI, Crc, Table};
use edr_daemon::kafka::BATCH_BYTES_MAX;
use flate2::read::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;

/// Bytes of a batch before its records.
pub(super) const HEADER_BYTES: usize = 61;
/// Most records of a compressed batch: the agents' Kafka client packs at most this number. A compressed record can have
/// less than a byte.
const COMPRESSED_RECORDS_MAX: i32 = 10_000;
/// A compressed batch may unfold to this number of bytes for each of its bytes, and some more: frames are compressed
/// already, and only long lists of losses in their headers shrink much.
const UNFOLDED_MAX: (usize, usize) = (64, 4 << 10);
/// Attributes of a batch: the codec, Kafka's own timestamps, records of Kafka itself.
const CODEC: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const CONTROL: i16 = 1 << 5;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The bytes of a batch, at least up to the format version.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordBatch<'a>(&'a [u8]);

/// The content of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Records(Vec<FetchedRecord>),
    /// Marks of transactions, made by the broker.
    Control,
}

/// A record of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FetchedRecord {
    pub(super) offset: i64,
    /// Kafka's timestamp, ms since the epoch, if any.
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
}

impl<'a> RecordBatch<'a> {
    /// Bytes of the offset, the length and the fields up to the format version.
    pub(super) const LEAST_BYTES: usize = 17;

    /// Returns the batch; `None` when the bytes end before the format version.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= Self::LEAST_BYTES).then_some(Self(bytes))
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    /// Returns the first offset.
    pub(super) fn first(&self) -> i64 {
        i64::from_be_bytes(self.field(0))
    }

    /// Returns the last offset, also that of a damaged batch; `high` is the offset after the last of the partition. A
    /// number that cannot be an offset counts as damage: the batch then ends with its first offset.
    pub(super) fn last(&self, high: i64) -> i64 {
        let delta = if self.is_current() { i32::from_be_bytes(self.field(23)) } else { 0 };
        let last = self.first().saturating_add(delta.into());
        if delta >= 0 && last < high { last } else { self.first() }
    }

    fn is_current(&self) -> bool {
        self.0[16] == 2 && self.0.len() >= HEADER_BYTES
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.field(21))
    }

    /// Returns true when the batch has another format, or the checksum is right.
    pub(super) fn is_intact(&self) -> bool {
        !self.is_current() || CRC.checksum(&self.0[21..]) == u32::from_be_bytes(self.field(17))
    }

    /// Checks, unfolds and splits the batch, with less than 128 MiB of memory: 8 MiB of records of 7 bytes cost the
    /// most.
    ///
    /// # Errors
    /// The reason why no record can be read, for people.
    pub(super) fn unpack(&self) -> Result<Content, String> {
        if !self.is_current() {
            return Err(format!("the batch has format {}; only format 2 is read", self.0[16]));
        }
        if !self.is_intact() {
            return Err("the checksum of the batch is wrong".to_owned());
        }
        if self.attributes() & CONTROL != 0 {
            return Ok(Content::Control);
        }
        let count = i32::from_be_bytes(self.field(57));
        let codec = self.attributes() & CODEC;
        if codec != 0 && count > COMPRESSED_RECORDS_MAX {
            return Err(format!("the compressed batch has {count} records; at most {COMPRESSED_RECORDS_MAX} are read"));
        }
        let bytes = unfold(codec, &self.0[HEADER_BYTES..])?;
        let records = self.records(&bytes).ok_or("a record of the batch is malformed")?;
        if usize::try_from(count) != Ok(records.len()) {
            return Err(format!("the batch has {} records and claims {count}", records.len()));
        }
        Ok(Content::Records(records))
    }

    fn records(&self, bytes: &[u8]) -> Option<Vec<FetchedRecord>> {
        let (base_ms, max_ms) = (i64::from_be_bytes(self.field(27)), i64::from_be_bytes(self.field(35)));
        let last_delta = i64::from(i32::from_be_bytes(self.field(23)));
        let (mut records, mut left, mut least_delta) = (Vec::new(), bytes, 0);
        while !left.is_empty() {
            let length = varint(&mut left)?;
            let mut record = take(&mut left, length)?;
            take(&mut record, 1)?;
            let timestamp_delta = varint(&mut record)?;
            let delta = varint(&mut record)?;
            if !(least_delta..=last_delta).contains(&delta) {
                return None;
            }
            least_delta = delta + 1;
            let timestamp_ms =
                if self.attributes() & LOG_APPEND_TIME != 0 { max_ms } else { base_ms.checked_add(timestamp_delta)? };
            // The headers of the record follow; they are not used.
            let (key, value) = (nullable(&mut record)?, nullable(&mut record)?);
            records.push(FetchedRecord {
                offset: self.first().checked_add(delta)?,
                timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
                key,
                value,
            });
        }
        Some(records)
    }
}

/// Unfolds compressed bytes, up to [`UNFOLDED_MAX`] and [`BATCH_BYTES_MAX`].
fn unfold(codec: i16, bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let most = (bytes.len().saturating_mul(UNFOLDED_MAX.0) + UNFOLDED_MAX.1).min(BATCH_BYTES_MAX);
    let (name, unfolded) = match codec {
        0 => return Ok(Cow::Borrowed(bytes)),
        1 => ("gzip", read_bounded(MultiGzDecoder::new(bytes), most)),
        2 => ("snappy", unfold_snappy(bytes, most)),
        3 => ("lz4", read_bounded(FrameDecoder::new(bytes), most)),
        4 => ("zstd", zstd::Decoder::new(bytes).and_then(|decoder| read_bounded(decoder, most))),
        _ => return Err(format!("the batch has codec {codec}, which does not exist")),
    };
    match unfolded {
        Ok(Some(unfolded)) => Ok(Cow::Owned(unfolded)),
        Ok(None) => Err(format!("{} bytes of {name} unfold to more than {most} bytes", bytes.len())),
        Err(error) => Err(format!("{name}: {}", edr_wire::visible(error.to_string().as_bytes()))),
    }
}

/// Reads to the end; `None` when the source has more than `most` bytes.
fn read_bounded(source: impl io::Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then_some(bytes))
}

/// Unfolds one block of snappy, or blocks in the frames of Kafka's Java client: a head of 16 bytes, then each block
/// after its length.
fn unfold_snappy(bytes: &[u8], most: usize) -> io::Result<Option<Vec<u8>>> {
    let Some(mut left) = bytes.strip_prefix(b"\x82SNAPPY\0").and_then(|rest| rest.get(8..)) else {
        return unfold_block(bytes, most);
    };
    let mut unfolded = Vec::new();
    while !left.is_empty() {
        let length = take(&mut left, 4).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
        let block = length.and_then(|length| take(&mut left, length.into()));
        let Some(block) = block else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match unfold_block(block, most - unfolded.len())? {
            Some(block) => unfolded.extend(block),
            None => return Ok(None),
        }
    }
    Ok(Some(unfolded))
}

/// Unfolds a block of snappy.
fn unfold_block(block: &[u8], most: usize) -> io::Result<Option<Vec<u8>>> {
    if snap::raw::decompress_len(block)? > most {
        return Ok(None);
    }
    Ok(Some(snap::raw::Decoder::new().decompress_vec(block)?))
}

/// Takes bytes from the front.
fn take<'a>(left: &mut &'a [u8], length: i64) -> Option<&'a [u8]> {
    left.split_off(..usize::try_from(length).ok()?)
}

/// Takes bytes with their length from the front; length -1 is `None` inside.
#[expect(clippy::option_option, reason = "malformed and null differ")]
fn nullable(left: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    match varint(left)? {
        -1 => Some(None),
        length => Some(Some(take(left, length)?.to_vec())),
    }
}

/// Takes a number of variable length, with its sign in the lowest bit.
fn varint(left: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *left.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use edr_tests::batch::{Codec, TestBatch};

    use super::*;

    fn unpack(bytes: &[u8]) -> Result<Content, String> {
        RecordBatch::new(bytes).unwrap().unpack()
    }

    #[test]
    fn records_of_every_codec_are_read() {
        for codec in Codec::ALL {
            let bytes = TestBatch::new([b"one".as_slice(), b"two"]).null_key().codec(codec).at(7).encode();
            let batch = RecordBatch::new(&bytes).unwrap();
            assert_eq!((batch.first(), batch.last(100)), (7, 8));
            let Content::Records(records) = batch.unpack().unwrap() else { panic!("control") };
            let values: Vec<_> = records.iter().map(|record| record.value.as_deref().unwrap()).collect();
            assert_eq!(values, [b"one", b"two"], "{codec:?}");
            assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [7, 8]);
            assert!(records.iter().all(|record| record.key.is_none() && record.timestamp_ms.is_some()));
        }
    }

    #[test]
    fn a_batch_unfolds_to_a_bounded_size() {
        let zeros = vec![0; BATCH_BYTES_MAX];
        for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
            let fault = unpack(&TestBatch::new([zeros.as_slice()]).codec(codec).encode()).unwrap_err();
            assert!(fault.contains("unfold to more than"), "{codec:?}: {fault}");
        }
        let many = TestBatch::new(vec![b"".as_slice(); 10_001]);
        assert!(unpack(&many.clone().codec(Codec::Gzip).encode()).unwrap_err().contains("has 10001 records"));
        assert!(matches!(unpack(&many.encode()), Ok(Content::Records(records)) if records.len() == 10_001));
    }

    #[test]
    fn damage_is_a_fault_and_the_end_of_the_batch_is_still_known() {
        let bytes = TestBatch::new([b"one".as_slice(), b"two"]).codec(Codec::Gzip).at(7).encode();
        for at in 17..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            let batch = RecordBatch::new(&damaged).unwrap();
            assert!(batch.unpack().unwrap_err().contains("checksum"), "{at}");
            assert!((7..=8).contains(&batch.last(9)), "{at}");
        }
        // With a right checksum, as a hostile client makes.
        for (batch, fault) in [
            (TestBatch::new([b"one".as_slice()]).attributes(7), "codec 7, which does not exist"),
            (TestBatch::new([b"one".as_slice()]).attributes(1), "gzip: "),
            (TestBatch::new([b"one".as_slice()]).attributes(2), "snappy: "),
            (TestBatch::new([b"one".as_slice()]).attributes(3), "lz4: "),
            (TestBatch::new([b"one".as_slice()]).attributes(4), "zstd: "),
            (TestBatch::new([b"one".as_slice()]).count(2), "1 records and claims 2"),
            (TestBatch::new([b"one".as_slice()]).raw_records(b"\x7f"), "malformed"),
        ] {
            let found = unpack(&batch.encode()).unwrap_err();
            assert!(found.contains(fault), "{found}");
        }
        let mut old = bytes;
        old[16] = 1;
        assert_eq!(unpack(&old).unwrap_err(), "the batch has format 1; only format 2 is read");
        for length in RecordBatch::LEAST_BYTES..HEADER_BYTES {
            unpack(&old[..length]).unwrap_err();
        }
    }

    #[test]
    fn control_records_have_no_content() {
        assert_eq!(unpack(&TestBatch::new([b"mark".as_slice()]).attributes(CONTROL).encode()), Ok(Content::Control));
    }
}
