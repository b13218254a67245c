//! The frame format as a whole: encoded data is decoded unchanged, and damaged or hostile data is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use edr_wire::frame::{
    EncodedFrame, Frame, FrameError, FrameHeader, FrameKey, FrameKind, LostRange, MissedTicks, PreviousEpoch, Record,
    split_records,
};
use edr_wire::limits::{RANGES_MAX, RAW_BYTES_MAX, SIGNATURE_BYTES_MAX};
use edr_wire::{Epoch, HostId};
use proptest::prelude::*;

fn header(kind: FrameKind, seq: u64, base_seq: u64) -> FrameHeader {
    FrameHeader {
        host_id: HostId([7; 16]),
        epoch: Epoch([1, 2, 3, 4, 5, 6, 7, 8]),
        seq,
        kind,
        base_seq,
        boot_id: "0f3c5a1e-6f0e-4a52-9d0a-0d9d5cf0a001".to_owned(),
        previous_epoch: Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 41 }),
        captured_ns: 1_790_000_000_000_000_000,
        lost: vec![LostRange { epoch: Epoch([9; 8]), first_seq: 7, last_seq: 9, reason: "spool_full".to_owned() }],
        missed: vec![MissedTicks { from_boottime_ns: 10, to_boottime_ns: 20, ticks: 2, reason: "overrun".to_owned() }],
        bye: true,
    }
}

fn decode_all(frame: &EncodedFrame) -> Frame {
    Frame::assemble(frame.records.iter().map(|record| Record::decode(record).unwrap()).collect()).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

proptest! {
    #[test]
    fn any_bytes_come_back_from_a_key_and_from_a_delta(
        raw in proptest::collection::vec(any::<u8>(), 0..5_000),
        key in proptest::collection::vec(any::<u8>(), 0..5_000),
        part_bytes in 64_usize..4_000,
    ) {
        let frame = EncodedFrame::encode(&header(FrameKind::Key, 3, 3), &raw, None, part_bytes).unwrap();
        prop_assert_eq!(decode_all(&frame).open(None).unwrap(), raw.clone());
        let frame = EncodedFrame::encode(&header(FrameKind::Delta, 4, 3), &raw, Some(&key), part_bytes).unwrap();
        let decoded = decode_all(&frame);
        prop_assert_eq!(&decoded.header, &header(FrameKind::Delta, 4, 3));
        prop_assert_eq!(decoded.open(Some(&key)).unwrap(), raw);
        let refused = matches!(decoded.open(None), Err(FrameError::KeyMissing { base_seq: 3 }));
        prop_assert!(refused);
    }

    #[test]
    fn arbitrary_bytes_are_never_a_record(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Record::decode(&bytes).is_err());
        prop_assert!(split_records(&bytes).count() <= bytes.len());
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_an_error() {
    let raw = noise(300);
    let frame = EncodedFrame::encode(&header(FrameKind::Key, 1, 1), &raw, None, 1 << 20).unwrap();
    let record = &frame.records[0];
    assert!(Record::decode(record).is_ok());
    for end in 0..record.len() {
        assert!(Record::decode(&record[..end]).is_err(), "cut at {end}");
    }
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut damaged = record.clone();
            damaged[at] ^= 1 << bit;
            assert!(Record::decode(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    let longer = [record.as_slice(), &[0xc0]].concat();
    assert!(matches!(Record::decode(&longer), Err(FrameError::Trailing(1))));
}

#[test]
fn parts_join_in_any_order_and_only_with_their_own() {
    let raw = noise(10_000);
    let frame = EncodedFrame::encode(&header(FrameKind::Key, 5, 5), &raw, None, 3_000).unwrap();
    let mut records: Vec<Record> = frame.records.iter().map(|record| Record::decode(record).unwrap()).collect();
    assert_eq!(records.len(), 4);
    records.reverse();
    records.push(records[0].clone());
    assert_eq!(Frame::assemble(records.clone()).unwrap().open(None).unwrap(), raw);

    let other = EncodedFrame::encode(&header(FrameKind::Key, 6, 6), &raw, None, 3_000).unwrap();
    let mut mixed = records.clone();
    mixed.retain(|record| record.part != 2);
    assert!(matches!(Frame::assemble(mixed.clone()), Err(FrameError::Parts(_))), "a part is missing");
    mixed.push(Record::decode(&other.records[2]).unwrap());
    assert!(matches!(Frame::assemble(mixed), Err(FrameError::Parts(_))), "a part is of another frame");
    assert!(Frame::assemble(Vec::new()).is_err());
}

#[test]
fn a_spool_file_is_its_records_in_order() {
    let frame = EncodedFrame::encode(&header(FrameKind::Key, 5, 5), &noise(10_000), None, 3_000).unwrap();
    let file = frame.records.concat();
    let split: Vec<&[u8]> = split_records(&file).map(Result::unwrap).collect();
    assert_eq!(split, frame.records);
    let cut = &file[..file.len() - 1];
    assert_eq!(split_records(cut).filter(Result::is_ok).count(), 3);
    assert!(split_records(cut).last().unwrap().is_err());
}

#[test]
fn a_delta_read_with_another_key_is_an_error_and_never_another_snapshot() {
    let key = noise(50_000);
    let mut raw = key.clone();
    raw[25_000] ^= 1;
    let frame = EncodedFrame::encode(&header(FrameKind::Delta, 2, 1), &raw, Some(&key), 1 << 20).unwrap();
    assert!(frame.body_len < 500, "{} bytes", frame.body_len);
    let mut another = key.clone();
    another[10_000] ^= 1;
    assert!(matches!(decode_all(&frame).open(Some(&another)), Err(FrameError::Hash)));
    assert!(decode_all(&frame).open(Some(&key[..100])).is_err());
}

#[test]
fn headers_outside_their_limits_are_neither_made_nor_believed() {
    let encode = |header: &FrameHeader| EncodedFrame::encode(header, b"raw", None, 1 << 20);
    let zero = header(FrameKind::Key, 0, 0);
    assert!(encode(&zero).is_err());
    let backwards = header(FrameKind::Delta, 3, 3);
    assert!(EncodedFrame::encode(&backwards, b"raw", Some(b"key"), 1 << 20).is_err());
    let mut long = header(FrameKind::Key, 1, 1);
    long.lost = vec![long.lost[0].clone(); RANGES_MAX + 1];
    assert!(matches!(encode(&long), Err(FrameError::Limit { what: "entries of lost", .. })));
    let too_large = vec![0; RAW_BYTES_MAX + 1];
    let frame = EncodedFrame::encode(&header(FrameKind::Key, 1, 1), &too_large, None, 1 << 20);
    assert!(matches!(frame, Err(FrameError::Limit { what: "raw_len", .. })));
    let parts = EncodedFrame::encode(&header(FrameKind::Key, 1, 1), &noise(10_000), None, 10);
    assert!(matches!(parts, Err(FrameError::Limit { what: "parts", .. })));
}

/// Returns the first record of a small frame.
fn record(header: &FrameHeader, raw: &[u8]) -> Vec<u8> {
    EncodedFrame::encode(header, raw, None, 1 << 20).unwrap().records.remove(0)
}

/// Replaces bytes of a record, and sets the number of fields and the checksum.
fn replace(record: &[u8], from: &[u8], to: &[u8], fields: u8) -> Vec<u8> {
    let at = record.windows(from.len()).position(|window| window == from).unwrap();
    let mut changed = [&record[..at], to, &record[at + from.len()..]].concat();
    assert_eq!(changed[..2], [0xde, 0], "a map of more than 15 fields");
    changed[2] = fields;
    let summed = changed.len() - 16;
    let sum = blake3::hash(&changed[..summed]);
    changed[summed..].copy_from_slice(&sum.as_bytes()[..16]);
    changed
}

#[test]
fn a_key_covers_every_field_of_the_header_and_the_snapshot() {
    let changes: [fn(&mut FrameHeader); 12] = [
        |_| (),
        |header| header.host_id = HostId([8; 16]),
        |header| header.epoch = Epoch([8; 8]),
        |header| (header.seq, header.base_seq) = (2, 2),
        |header| header.boot_id = "another".to_owned(),
        |header| header.previous_epoch = None,
        |header| header.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 42 }),
        |header| header.captured_ns += 1,
        |header| header.lost[0].reason = "corrupt".to_owned(),
        |header| header.missed[0].ticks = 3,
        |header| header.missed.clear(),
        |header| header.bye = false,
    ];
    let key = |change: fn(&mut FrameHeader), raw: &[u8]| {
        let mut header = header(FrameKind::Key, 1, 1);
        change(&mut header);
        let record = Record::decode(&record(&header, raw)).unwrap();
        assert_eq!((record.key.host_id, record.key.place()), (header.host_id, (header.epoch, header.seq)));
        record.key
    };
    let mut keys: Vec<FrameKey> = changes.into_iter().map(|change| key(change, b"raw")).collect();
    keys.push(key(|_| (), b"another"));
    let contents: std::collections::BTreeSet<_> = keys.iter().map(|key| key.content).collect();
    assert_eq!(contents.len(), keys.len(), "{keys:?}");
    assert_eq!(key(|_| (), b"raw"), keys[0]);
}

#[test]
fn a_key_does_not_cover_the_division_into_parts() {
    let decode = |part_bytes| -> Vec<Record> {
        let frame = EncodedFrame::encode(&header(FrameKind::Key, 5, 5), &noise(10_000), None, part_bytes).unwrap();
        frame.records.iter().map(|record| Record::decode(record).unwrap()).collect()
    };
    let (large, small) = (decode(6_000), decode(3_000));
    assert!(large.iter().chain(&small).all(|record| record.key == large[0].key));
    assert!(large.iter().all(|record| record.fits(&large[0]) && !record.fits(&small[0])));
}

#[test]
fn fields_that_a_later_program_adds_are_skipped_and_covered_by_the_key() {
    let known = record(&header(FrameKind::Key, 1, 1), b"raw");
    // A map with a string, an array with an integer, and an extension type.
    let field = b"\xa5later\x83\xa1a\xa1b\xa1c\x91\x01\xa1d\xd4\x05\x00\xa4body";
    let later = Record::decode(&replace(&known, b"\xa4body", field, 21)).unwrap();
    let known = Record::decode(&known).unwrap();
    assert_ne!(later.key.content, known.key.content);
    assert_eq!(Record { key: known.key, ..later.clone() }, known);
    assert_eq!(Frame::assemble(vec![later]).unwrap().open(None).unwrap(), b"raw");
}

#[test]
fn a_signature_is_kept_as_received_and_is_not_part_of_the_content() {
    let plain = record(&header(FrameKind::Key, 1, 1), b"raw");
    let with = |sig: &[u8]| {
        let len = u8::try_from(sig.len() % 256).unwrap();
        let bin = if sig.len() < 256 { vec![0xc4, len] } else { vec![0xc5, 1, len] };
        let signed = replace(&plain, b"\xa3sig\xc4\x00", &[b"\xa3sig", bin.as_slice(), sig].concat(), 20);
        Record::decode(&replace(&signed, b"\xa6key_id\xc4\x00", b"\xa6key_id\xc4\x02k1", 20))
    };
    let signed = with(&[7; 64]).unwrap();
    assert_eq!((signed.key_id.as_slice(), signed.sig.as_slice()), (b"k1".as_slice(), [7; 64].as_slice()));
    let plain = Record::decode(&plain).unwrap();
    assert_eq!((plain.key, plain.key_id.len(), plain.sig.len()), (signed.key, 0, 0));
    assert!(with(&[7; SIGNATURE_BYTES_MAX]).is_ok());
    assert!(matches!(with(&[7; SIGNATURE_BYTES_MAX + 1]), Err(FrameError::Limit { what: "sig length", .. })));
}

#[test]
fn a_frame_cut_smaller_is_the_same_frame() {
    let raw = noise(10_000);
    let encoded = EncodedFrame::encode(&header(FrameKind::Key, 5, 5), &raw, None, 6_000).unwrap();
    let decode =
        |records: &[Vec<u8>]| -> Vec<Record> { records.iter().map(|record| Record::decode(record).unwrap()).collect() };
    let frame = Frame::assemble(decode(&encoded.records)).unwrap();
    for part_bytes_max in [1_000, 6_000, 1 << 20] {
        let records = frame.records(part_bytes_max).unwrap();
        assert_eq!(records.len(), frame.body.len().div_ceil(part_bytes_max));
        assert_eq!(Frame::assemble(decode(&records)).unwrap(), frame);
    }
    assert!(frame.records(6_000).unwrap() == encoded.records);
    assert!(frame.records(10).is_err(), "more parts than a frame may have");
}
