//! A record: a msgpack map whose last field is a checksum over all bytes before the checksum's value.

use serde::de::{Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::key::content_hash;
use super::{
    FrameError, FrameHeader, FrameKey, FrameKind, LostRange, MissedTicks, PreviousEpoch, check_header, check_within,
};
use crate::limits::{DEPTH_MAX, RECORD_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::scan::{Cursor, ScanError, ValueHead, value_len};
use crate::snapshot::write_named;
use crate::{Epoch, HostId};

/// Version of the record format. A reader refuses other versions.
pub const VERSION: u64 = 1;

/// Bytes of the checksum: the first 16 of BLAKE3. The checksum detects damage, not forgery: frames are not signed yet.
const SUM_BYTES: usize = 16;
/// Start of the last field: the string `sum` and the head of a `bin` of [`SUM_BYTES`].
const SUM_FIELD: &[u8] = b"\xa3sum\xc4\x10";

/// A part of a frame: one Kafka message, or one piece of a spool file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Identity of the frame.
    pub key: FrameKey,
    /// The frame's header, equal in all parts of the frame.
    pub header: FrameHeader,
    /// Bytes of the uncompressed snapshot.
    pub raw_len: u32,
    /// BLAKE3 of the uncompressed snapshot.
    pub raw_hash: [u8; 32],
    /// Number of this part, from 0.
    pub part: u32,
    /// Number of parts of the frame.
    pub parts: u32,
    /// Name of the signing key, as received; empty in frames without a signature.
    pub key_id: Vec<u8>,
    /// Signature, as received; empty in frames without a signature. Nothing checks the signature yet.
    pub sig: Vec<u8>,
    /// This part's share of the compressed body.
    pub body: Vec<u8>,
}

/// The fields in their order on the wire. Other fields, added by a later program, are skipped.
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    v: u64,
    host_id: HostId,
    epoch: Epoch,
    seq: u64,
    kind: FrameKind,
    base_seq: u64,
    boot_id: std::borrow::Cow<'a, str>,
    #[serde(default)]
    previous_epoch: Option<PreviousEpoch>,
    captured_ns: i64,
    raw_len: u32,
    #[serde(borrow)]
    raw_hash: Bin<'a>,
    part: u32,
    parts: u32,
    #[serde(default)]
    lost: std::borrow::Cow<'a, [LostRange]>,
    #[serde(default)]
    missed: std::borrow::Cow<'a, [MissedTicks]>,
    #[serde(default)]
    bye: bool,
    /// For signed frames; this version writes an empty value.
    #[serde(default, borrow)]
    key_id: Bin<'a>,
    /// For signed frames; this version writes an empty value.
    #[serde(default, borrow)]
    sig: Bin<'a>,
    #[serde(borrow)]
    body: Bin<'a>,
    #[serde(borrow)]
    sum: Bin<'a>,
}

/// A borrowed msgpack `bin`.
#[derive(Default, Clone, Copy)]
struct Bin<'a>(&'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bin<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Bin<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bin")
            }
            fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<Bin<'de>, E> {
                Ok(Bin(bytes))
            }
        }
        deserializer.deserialize_bytes(Borrowed)
    }
}

/// Encodes one part of a frame.
pub(super) fn encode(
    header: &FrameHeader,
    raw_len: u32,
    raw_hash: &[u8; 32],
    part: u32,
    parts: u32,
    body: &[u8],
) -> Vec<u8> {
    let mut record = Vec::with_capacity(body.len() + 512);
    let fields = Fields {
        v: VERSION,
        host_id: header.host_id,
        epoch: header.epoch,
        seq: header.seq,
        kind: header.kind,
        base_seq: header.base_seq,
        boot_id: header.boot_id.as_str().into(),
        previous_epoch: header.previous_epoch,
        captured_ns: header.captured_ns,
        raw_len,
        raw_hash: Bin(raw_hash),
        part,
        parts,
        lost: header.lost.as_slice().into(),
        missed: header.missed.as_slice().into(),
        bye: header.bye,
        key_id: Bin(&[]),
        sig: Bin(&[]),
        body: Bin(body),
        sum: Bin(&[0; SUM_BYTES]),
    };
    write_named(&mut record, &fields);
    let summed = record.len() - SUM_BYTES;
    let sum = blake3::hash(&record[..summed]);
    record[summed..].copy_from_slice(&sum.as_bytes()[..SUM_BYTES]);
    record
}

impl Record {
    /// Decodes one record after verifying structure, version, checksum and limits, in that order.
    ///
    /// # Errors
    /// [`FrameError`] names the fault. Before the checks are done, no allocation is larger than the record itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(FrameError::RecordTooLarge(bytes.len()));
        }
        let version = version(bytes)?;
        let len = value_len(bytes)?;
        if len < bytes.len() {
            return Err(FrameError::Trailing(bytes.len() - len));
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let summed = bytes.len().checked_sub(SUM_BYTES).ok_or(FrameError::NotARecord)?;
        let fits = bytes[..summed].ends_with(SUM_FIELD)
            && blake3::hash(&bytes[..summed]).as_bytes()[..SUM_BYTES] == bytes[summed..];
        if !fits {
            return Err(FrameError::Checksum);
        }
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        deserializer.set_max_depth(DEPTH_MAX);
        let fields = Fields::deserialize(&mut deserializer).map_err(|error| FrameError::Field(error.to_string()))?;
        check_within("key_id length", fields.key_id.0.len(), SIGNATURE_BYTES_MAX)?;
        check_within("sig length", fields.sig.0.len(), SIGNATURE_BYTES_MAX)?;
        let raw_hash = fields.raw_hash.0.try_into();
        let (host_id, epoch, seq) = (fields.host_id, fields.epoch, fields.seq);
        let record = Self {
            key: FrameKey { host_id, epoch, seq, content: content_hash(bytes)? },
            raw_len: fields.raw_len,
            raw_hash: raw_hash.map_err(|_| FrameError::Field("raw_hash is not 32 bytes".to_owned()))?,
            part: fields.part,
            parts: fields.parts,
            key_id: fields.key_id.0.to_vec(),
            sig: fields.sig.0.to_vec(),
            body: fields.body.0.to_vec(),
            header: FrameHeader {
                host_id,
                epoch,
                seq,
                kind: fields.kind,
                base_seq: fields.base_seq,
                boot_id: fields.boot_id.into_owned(),
                previous_epoch: fields.previous_epoch,
                captured_ns: fields.captured_ns,
                lost: fields.lost.into_owned(),
                missed: fields.missed.into_owned(),
                bye: fields.bye,
            },
        };
        check_header(&record.header, record.raw_len as usize, record.part, record.parts)?;
        Ok(record)
    }

    /// True when two records are parts of one division of one frame. Parts of two divisions do not fit together: a
    /// frame is sent again in smaller parts when the topic's size limit was lowered.
    pub fn fits(&self, other: &Self) -> bool {
        self.key == other.key && self.parts == other.parts
    }

    /// Drops the header's texts and lists. A host can make them large, and every part of the frame has them.
    pub fn drop_lists(&mut self) {
        let header = &mut self.header;
        (header.boot_id, header.lost, header.missed) = (String::new(), Vec::new(), Vec::new());
    }
}

/// Returns the value of the first field. The first field is the version in every version of the format.
fn version(bytes: &[u8]) -> Result<u64, FrameError> {
    let mut cursor = Cursor::new(bytes);
    if !matches!(cursor.head()?, ValueHead::Map(1..)) {
        return Err(FrameError::NotARecord);
    }
    match cursor.text() {
        Ok("v") => {}
        Err(cut @ ScanError::Cut { .. }) => return Err(cut.into()),
        _ => return Err(FrameError::NotARecord),
    }
    let mut value = bytes.get(cursor.at..).unwrap_or_default();
    rmp::decode::read_int(&mut value).map_err(|_| FrameError::NotARecord)
}
