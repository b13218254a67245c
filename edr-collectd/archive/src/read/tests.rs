//! Tests of the reader: records come back verbatim, and searches find the first complete frame.

use edr_model::accounting::Declarations;
use edr_wire::frame::{LostRange, MissedTicks, PreviousEpoch};
use edr_wire::{Epoch, HostId};

use super::*;
use crate::testing::{append, delta, header, noise, offsets, partition, records, row};
use crate::*;

const DAY_NS: i64 = 86_400_000_000_000;

#[tokio::test]
async fn the_last_frame_before_a_moment_is_found_across_days() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let host = HostId([1; 16]);
    let mut offset = 0;
    let mut expected = Vec::new();
    // A key frame per day at noon, a delta a minute later, and the same for another host; received an hour later.
    for day in 1..=4_i64 {
        for (n, at) in [(1, day * DAY_NS + DAY_NS / 2), (2, day * DAY_NS + DAY_NS / 2 + 1)] {
            let seq = u64::try_from(day).unwrap() * 2 - 1;
            let key = edr_wire::frame::FrameHeader { captured_ns: at, ..header(n, seq) };
            let next = edr_wire::frame::FrameHeader { captured_ns: at + 60_000_000_000, ..delta(n, seq + 1, seq) };
            let key_raw = vec![u8::try_from(day).unwrap(); 300];
            let mut rows = Vec::new();
            for (header, raw, key_raw) in [(key, &key_raw, None), (next, &vec![9; 300], Some(key_raw.as_slice()))] {
                for bytes in records(&header, raw, key_raw, 64) {
                    rows.push(row(0, offset, header.captured_ns + 3_600_000_000_000, &bytes));
                    offset += 1;
                }
                if n == 1 {
                    expected.push((header.captured_ns, header.seq));
                }
            }
            append(&mut frames, &rows).await.unwrap();
        }
    }
    let reader = Reader::new(dir.path());
    for &(captured_ns, seq) in &expected {
        for later in [0, 1, 30_000_000_000] {
            let found = reader.last_before(host, captured_ns + later, None).await.unwrap().found;
            assert_eq!((found[0].frame.captured_ns, found[0].frame.key.seq), (captured_ns, seq));
        }
    }
    let (last_ns, last_seq) = expected[expected.len() - 1];
    let found = reader.last_before(host, last_ns + 40 * DAY_NS, None).await.unwrap().found;
    assert_eq!(found[0].frame.key.seq, last_seq);
    assert_eq!(reader.last_before(host, expected[0].0 - 1, None).await.unwrap(), Candidates::default());
    let before_ns = expected[0].0 - 1;
    assert_eq!(reader.first_after(host, before_ns).await.unwrap(), FirstSnapshot::At(expected[0].0));
    assert_eq!(reader.first_after(host, last_ns).await.unwrap(), FirstSnapshot::Absent);

    // A key and a delta give the snapshot of a moment.
    let newest = reader.found(&found[0]).await.unwrap();
    let key = reader.frame_of(host, newest.header.epoch, newest.header.base_seq, last_ns).await.unwrap().remove(0);
    let key = reader.found(&key).await.unwrap().open(None).unwrap();
    assert_eq!(newest.open(Some(&key)).unwrap(), vec![9; 300]);
}

#[tokio::test]
async fn a_frame_that_lost_a_part_is_not_an_answer_and_one_sent_twice_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let noise = noise(4000, 1);
    let whole = records(&header(1, 1), &noise, None, 512);
    let torn = records(&header(1, 2), &noise, None, 512);
    assert!(whole.len() > 3);
    let mut rows = Vec::new();
    // The parts in reverse order, then once more, mixed with a frame whose first part is missing.
    for bytes in whole.iter().rev().chain(torn.iter().skip(1)).chain(whole.iter()) {
        let offset = rows.len() as i64;
        rows.push(row(0, offset, 100 + offset, bytes));
    }
    append(&mut frames, &rows).await.unwrap();
    let reader = Reader::new(dir.path());
    let found = reader.last_before(HostId([1; 16]), i64::MAX, None).await.unwrap().found;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].frame.key.seq, 1);
    let places = found[0].complete().remove(0);
    assert!(places.iter().all(|place| place.offset < whole.len() as i64), "the first that came counts");
    assert_eq!(reader.frame(&places).await.unwrap().open(None).unwrap(), noise);
}

#[tokio::test]
async fn a_forged_part_that_came_first_and_differs_in_one_field_of_the_header_spoils_no_frame() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let noise = noise(4000, 1);
    let lost = edr_wire::frame::LostRange {
        epoch: edr_wire::Epoch([1; 8]),
        first_seq: 1,
        last_seq: 9,
        reason: "spool_full".into(),
    };
    let good = records(&header(1, 1), &noise, None, 512);
    let forged = [
        edr_wire::frame::FrameHeader { lost: vec![lost], ..header(1, 1) },
        edr_wire::frame::FrameHeader { boot_id: "another".into(), ..header(1, 1) },
    ]
    .map(|header| records(&header, &noise, None, 512));
    // The first forged frame has the first parts, the second has the last parts.
    let mut rows = Vec::new();
    for bytes in forged[0].iter().take(3).chain(forged[1].iter().skip(2)).chain(&good) {
        let offset = rows.len() as i64;
        rows.push(row(0, offset, 100 + offset, bytes));
    }
    append(&mut frames, &rows).await.unwrap();
    let reader = Reader::new(dir.path());
    let found = reader.last_before(HostId([1; 16]), i64::MAX, None).await.unwrap().found;
    assert_eq!(found.len(), 1, "the forged frames are incomplete");
    let frame = reader.found(&found[0]).await.unwrap();
    assert_eq!(frame.open(None).unwrap(), noise);
}

#[tokio::test]
async fn records_come_back_verbatim_and_the_position_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.position(&partition(0)).await.unwrap(), None);
    let raw = noise(5000, 1);
    let sent = records(&header(1, 1), &raw, None, 1024);
    assert!(sent.len() > 1);
    let mut rows: Vec<ReceivedRecord> =
        sent.iter().zip(0..).map(|(bytes, offset)| row(0, offset, 1_000 + offset, bytes)).collect();
    // Bytes that are no frame, and a record without a value, have a row too.
    let count = rows.len() as i64;
    rows.push(row(0, count, 2_000, b"\xff no frame"));
    rows.push(ReceivedRecord {
        record: None,
        key: None,
        content: Err("no value".into()),
        ..row(0, count + 1, 2_001, b"")
    });
    append(&mut frames, &rows).await.unwrap();

    let mut again = Frames::open(dir.path()).await.unwrap();
    assert_eq!(again.position(&partition(0)).await.unwrap(), Some(count + 2));
    assert_eq!(offsets(&again).await, (0..count + 2).collect::<Vec<_>>());
    let reader = Reader::new(dir.path());
    let places: Vec<RecordPosition> = rows[..sent.len()].iter().map(ReceivedRecord::place).collect();
    assert_eq!(reader.frame(&places).await.unwrap().open(None).unwrap(), raw);
    let mut found = Vec::new();
    reader.rows(0..i64::MAX, |row| found.push(row)).await.unwrap();
    found.sort_by_key(|row| row.place.offset);
    assert_eq!(found.len(), rows.len());
    for (found, row) in found.iter().zip(&rows) {
        assert_eq!((&found.partition, found.place), (&row.partition, row.place()));
        let content = row.content.as_ref().ok().map(|record| {
            let (frame, part, parts) = (ArchivedFrame::from(record), record.part, record.parts);
            let part = ArchivedPart { partition: row.partition.clone(), place: row.place(), frame, part, parts };
            (part, Declarations::of(&record.header))
        });
        assert_eq!(found.content, content);
    }
}

/// Declarations come back from typed columns, also from a table made before the columns existed.
#[tokio::test]
async fn declared_losses_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = tables::frames::declaration();
    old.columns.retain(|column| !["boot_id", "previous_last_seq", "lost", "missed"].contains(&column.name()));
    old.open(dir.path()).await.unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let mut declaring = header(1, 5);
    declaring.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: u64::MAX });
    declaring.lost = vec![
        LostRange { epoch: Epoch([1; 8]), first_seq: 2, last_seq: 3, reason: "spool_full".into() },
        LostRange { epoch: Epoch([9; 8]), first_seq: 1, last_seq: u64::MAX, reason: "\u{1b}<i>".into() },
    ];
    declaring.missed =
        vec![MissedTicks { from_boottime_ns: 10, to_boottime_ns: 40, ticks: 4, reason: "not_running".into() }];
    let rows = [
        row(0, 0, 1, &records(&header(1, 4), b"quiet", None, 99)[0]),
        row(0, 1, 2, &records(&declaring, b"raw", None, 99)[0]),
    ];
    append(&mut frames, &rows).await.unwrap();

    let mut found = Vec::new();
    Reader::new(dir.path()).rows(0..i64::MAX, |row| found.push(row)).await.unwrap();
    found.sort_by_key(|row| row.place.offset);
    let declared: Vec<&Declarations> = found.iter().map(|row| &row.content.as_ref().unwrap().1).collect();
    assert_eq!(declared[0], &Declarations { boot_id: "boot".into(), ..Declarations::default() });
    // Delta has no larger number than 2^63 - 1.
    let largest = u64::MAX / 2;
    let mut expected = Declarations::of(&declaring);
    expected.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: largest });
    expected.lost[1].last_seq = largest;
    assert_eq!(declared[1], &expected);
}

#[tokio::test]
async fn a_table_without_content_hashes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut earlier = tables::frames::declaration();
    earlier.columns.retain(|column| column.name() != "content_hash");
    earlier.open(dir.path()).await.unwrap();
    let refused = Frames::open(dir.path()).await.unwrap_err().to_string();
    let cause = "column content_hash is missing, and older rows have no value: move the archive away";
    assert!(refused.contains(cause), "{refused}");
}

/// Replaces the data files of a table, in order of their first record, by bytes that are no data, from the given file
/// on. Returns the number of files left.
async fn spoil_files(frames: &Frames, from: usize) -> usize {
    let table = frames.newest_version();
    let all = files::candidates(&table, HostId([1; 16]), i64::MIN, usize::MAX).await.unwrap();
    let all: Vec<_> = all.into_iter().collect();
    for file in &all[from..] {
        std::fs::write(frames.path().join(&file.path), b"not read").unwrap();
    }
    all[..from].len()
}

#[tokio::test]
async fn the_first_snapshot_after_a_moment_costs_a_few_files_however_large_the_archive_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    // One commit, and so one file, for each frame of hosts 0 and 2; host 1 comes with the fourth, lies between the two
    // in order of host ids, and stays away after the fifth.
    let mut offset = 0;
    for seq in 1..=80 {
        let hosts: &[u8] = if (4..=5).contains(&seq) { &[0, 1, 2] } else { &[0, 2] };
        let rows: Vec<ReceivedRecord> = hosts
            .iter()
            .map(|&n| {
                let bytes = records(&header(n, seq), b"snapshot", None, 1 << 20).remove(0);
                offset += 1;
                row(0, offset - 1, i64::try_from(seq).unwrap() * 10_000_000_000, &bytes)
            })
            .collect();
        append(&mut frames, &rows).await.unwrap();
    }
    let reader = Reader::new(dir.path());
    let [other, host, absent] = [[0; 16], [1; 16], [3; 16]].map(HostId);
    let at = |seq: i64| seq * 10_000_000_000;
    // A search reads one file, then four, then sixteen, and so on; files that must not be read are spoiled step by
    // step.
    assert_eq!(reader.first_after(host, at(5)).await.unwrap(), FirstSnapshot::NotBefore(at(5 + 65)));
    assert_eq!(spoil_files(&frames, 64).await, 64);
    assert_eq!(reader.first_after(host, at(0)).await.unwrap(), FirstSnapshot::At(at(4)));
    spoil_files(&frames, 5).await;
    assert_eq!(reader.first_after(host, at(0)).await.unwrap(), FirstSnapshot::At(at(4)));
    assert_eq!(reader.first_after(host, at(4)).await.unwrap(), FirstSnapshot::At(at(5)));
    spoil_files(&frames, 1).await;
    assert_eq!(reader.first_after(other, at(0)).await.unwrap(), FirstSnapshot::At(at(1)));
    assert_eq!(reader.first_after(absent, at(0)).await.unwrap(), FirstSnapshot::Absent);
    assert_eq!(reader.damage().files(), [], "no spoiled file was read");
    assert_eq!(reader.first_after(host, at(0)).await.unwrap(), FirstSnapshot::NotBefore(at(65)));
    assert_ne!(reader.damage().files(), [], "the files are spoiled");
}
