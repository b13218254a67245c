//! Decodes the bytes of a Kafka record, or describes the fault that makes the bytes invalid.
//!
//! The archive keeps the bytes in both cases.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use edr_wire::frame::{FrameHeader, LostRange, MissedTicks, Record};

/// Bytes kept of the text of a fault, which is archived beside the record; longer texts are cut.
const FAULT_BYTES_MAX: usize = 200;

/// Decodes one record.
///
/// # Errors
/// The fault, as text for people: the bytes are not a valid record, or a number is too large for the archive's columns.
pub fn decode(bytes: &[u8]) -> Result<Record, String> {
    let record = Record::decode(bytes).map_err(|error| {
        let mut fault = edr_wire::visible(error.to_string().as_bytes());
        if fault.len() > FAULT_BYTES_MAX {
            let end = (0..=FAULT_BYTES_MAX).rev().find(|&end| fault.is_char_boundary(end)).unwrap_or(0);
            fault.truncate(end);
            fault.push('…');
        }
        fault
    })?;
    // Delta tables have signed numbers only. A host that makes six frames a minute reaches this limit in 10^12 years.
    if i64::try_from(record.header.seq).is_err() {
        return Err(format!("record: seq {} is above 2^63", record.header.seq));
    }
    Ok(record)
}

/// Keyed hash of the header fields without a column in the archive. The random key is secret, so a host cannot make two
/// headers collide on purpose.
pub(crate) type Rest = u64;

/// Hashes the header fields without a column, and clears the large fields: two lists of up to 1,024 ranges with a
/// reason each. Parts with equal columns and equal hashes belong to the same frame.
#[derive(Debug, Default)]
pub(crate) struct Rests(RandomState);

impl Rests {
    pub(crate) fn take(&self, header: &mut FrameHeader) -> Rest {
        // Fields ignored here have a column. The full pattern makes the compiler reject a new field until this list
        // names it.
        let FrameHeader {
            boot_id,
            previous_epoch,
            lost,
            missed,
            host_id: _,
            epoch: _,
            seq: _,
            kind: _,
            base_seq: _,
            captured_ns: _,
            bye: _,
        } = header;
        let mut hasher = self.0.build_hasher();
        std::mem::take(boot_id).hash(&mut hasher);
        previous_epoch.map(|previous| (previous.id, previous.last_seq)).hash(&mut hasher);
        lost.len().hash(&mut hasher);
        for LostRange { epoch, first_seq, last_seq, reason } in std::mem::take(lost) {
            (epoch, first_seq, last_seq, reason).hash(&mut hasher);
        }
        missed.len().hash(&mut hasher);
        for MissedTicks { from_boottime_ns, to_boottime_ns, ticks, reason } in std::mem::take(missed) {
            (from_boottime_ns, to_boottime_ns, ticks, reason).hash(&mut hasher);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{header, records};

    #[test]
    fn a_record_is_read_and_any_damage_is_a_fault() {
        let bytes = records(&header(1, 1), b"raw", None, 1 << 20).remove(0);
        assert_eq!(decode(&bytes).unwrap().header, header(1, 1));
        assert_eq!(decode(b"").unwrap_err(), "record: msgpack ends in the middle of a value, at byte 0");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            let fault = decode(&damaged).unwrap_err();
            assert!(!fault.is_empty() && fault.len() <= FAULT_BYTES_MAX + 3, "{at}: {fault}");
        }
    }

    #[test]
    fn a_sequence_number_no_column_can_hold_is_a_fault() {
        let bytes = records(&header(1, u64::MAX), b"raw", None, 1 << 20).remove(0);
        assert_eq!(decode(&bytes).unwrap_err(), "record: seq 18446744073709551615 is above 2^63");
    }
}
