//! Decodes the bytes of a Kafka record, or describes the fault that makes the bytes invalid.
//!
//! The archive keeps the bytes in both cases.

use edr_wire::frame::Record;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{header, records};

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
