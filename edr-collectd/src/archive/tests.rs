//! Tests of the archive's promises, each under a matching failure.

use std::collections::BTreeMap;
use std::path::Path;

use edr_model::accounting::Declarations;
use edr_wire::frame::{LostRange, MissedTicks, PreviousEpoch};
use edr_wire::{Epoch, HostId};

use super::testing::{delta, header, noise, partition, records, row};
use super::*;

const DAY_NS: i64 = 86_400_000_000_000;

/// Commits rows together with the position after the last row.
async fn append(frames: &mut Frames, rows: &[Row]) -> Result<Appended, ArchiveError> {
    let mut positions = BTreeMap::new();
    for row in rows {
        positions.insert(row.partition.clone(), row.offset + 1);
    }
    frames.append(rows, &positions).await
}

/// Returns the offsets of all rows in the archive.
async fn offsets(archive: &Path) -> Vec<i64> {
    let mut offsets = Vec::new();
    let table = existing(&archive.join(FRAMES)).await.unwrap().unwrap();
    let mut rows = engine::Engine::new().scan(&table, None, &["offset"]).await.unwrap();
    while let Some(batch) = rows.next().await.unwrap() {
        let column = columns::Columns(&batch).longs("offset").unwrap();
        offsets.extend(column.values().iter().copied());
    }
    offsets.sort_unstable();
    offsets
}

#[tokio::test]
async fn records_come_back_verbatim_and_the_position_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.position(&partition(0)).await.unwrap(), None);
    let raw = noise(5000, 1);
    let sent = records(&header(1, 1), &raw, None, 1024);
    assert!(sent.len() > 1);
    let mut rows: Vec<Row> =
        sent.iter().zip(0..).map(|(bytes, offset)| row(0, offset, 1_000 + offset, bytes)).collect();
    // Bytes that are no frame, and a record without a value, have a row too.
    let count = rows.len() as i64;
    rows.push(row(0, count, 2_000, b"\xff no frame"));
    rows.push(Row { record: None, key: None, content: Err("no value".into()), ..row(0, count + 1, 2_001, b"") });
    append(&mut frames, &rows).await.unwrap();

    let mut again = Frames::open(dir.path()).await.unwrap();
    assert_eq!(again.position(&partition(0)).await.unwrap(), Some(count + 2));
    assert_eq!(offsets(dir.path()).await, (0..count + 2).collect::<Vec<_>>());
    let reader = Reader::new(dir.path());
    let places: Vec<Place> = rows[..sent.len()].iter().map(Row::place).collect();
    assert_eq!(reader.frame(&places).await.unwrap().open(None).unwrap(), raw);
    let mut found = Vec::new();
    reader.rows(0..i64::MAX, |row| found.push(row)).await.unwrap();
    found.sort_by_key(|row| row.place.offset);
    assert_eq!(found.len(), rows.len());
    for (found, row) in found.iter().zip(&rows) {
        let content = row.content.as_ref().ok().map(|header| (header.clone(), row.declared.clone()));
        assert_eq!((&found.content, found.place), (&content, row.place()));
    }
}

/// Declarations come back from typed columns, also from a table made before the columns existed.
#[tokio::test]
async fn declared_losses_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = rows::columns();
    old.retain(|column| !["boot_id", "previous_last_seq", "lost", "missed"].contains(&column.name().as_str()));
    open_or_create(&dir.path().join(FRAMES), old, "receive_day", rows::STATS_COLUMNS, 100).await.unwrap();
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
    let mut expected = rows[1].declared.clone();
    expected.previous_epoch = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: largest });
    expected.lost[1].last_seq = largest;
    assert_eq!(declared[1], &expected);
}

#[tokio::test]
async fn of_two_writers_one_wins_and_the_other_learns_the_position() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut first = Frames::open(dir.path()).await.unwrap();
    let mut second = Frames::open(dir.path()).await.unwrap();
    for frames in [&mut first, &mut second] {
        assert_eq!(frames.position(&partition(0)).await.unwrap(), None);
    }
    append(&mut first, &[row(0, 0, 1, &bytes), row(0, 1, 2, &bytes)]).await.unwrap();
    let refused = append(&mut second, &[row(0, 0, 3, &bytes)]).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Fenced { .. }), "{refused}");
    assert_eq!(offsets(dir.path()).await, [0, 1]);
    second.reload().await.unwrap();
    assert_eq!(second.position(&partition(0)).await.unwrap(), Some(2));
    append(&mut second, &[row(0, 2, 4, &bytes)]).await.unwrap();
    // The first writer is now behind.
    assert!(matches!(append(&mut first, &[row(0, 2, 5, &bytes)]).await, Err(ArchiveError::Fenced { .. })));
    assert_eq!(offsets(dir.path()).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_commit_on_another_partition_does_not_carry_a_zombie_over_its_fence() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut zombie = Frames::open(dir.path()).await.unwrap();
    let mut other = Frames::open(dir.path()).await.unwrap();
    for number in [0, 1] {
        zombie.position(&partition(number)).await.unwrap();
    }
    other.position(&partition(1)).await.unwrap();
    append(&mut other, &[row(1, 0, 1, &bytes)]).await.unwrap();
    // This commit moves the stale handle past the other's: a conflict in partition 1 would no longer be detected.
    append(&mut zombie, &[row(0, 0, 2, &bytes)]).await.unwrap();
    let refused = append(&mut zombie, &[row(1, 0, 3, &bytes)]).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Fenced { .. }), "{refused}");
    assert_eq!(offsets(dir.path()).await, [0, 0]);
}

/// Moves a position forward by `count` commits without rows.
async fn commits(frames: &mut Frames, number: i32, from: i64, count: i64) {
    for next in from + 1..=from + count {
        frames.append(&[], &BTreeMap::from([(partition(number), next)])).await.unwrap();
    }
}

/// Returns the log entries of a table, by version.
fn entries(archive: &Path, table: &str) -> BTreeMap<u64, std::path::PathBuf> {
    let files = std::fs::read_dir(archive.join(table).join("_delta_log")).unwrap().map(|file| file.unwrap().path());
    let version = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok();
    files.filter_map(|path| Some((version(&path)?, path))).collect()
}

/// Sets the age of all log files of a table to two hours.
fn age(archive: &Path, table: &str) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
    for file in std::fs::read_dir(archive.join(table).join("_delta_log")).unwrap() {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(then).unwrap();
    }
}

#[tokio::test]
async fn who_was_idle_while_the_log_was_summed_up_loses_nothing_and_passes_no_fence() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut busy = Frames::open(dir.path()).await.unwrap();
    busy.position(&partition(0)).await.unwrap();
    append(&mut busy, &[row(0, 0, 1, &bytes)]).await.unwrap();
    let mut idle = Frames::open(dir.path()).await.unwrap();
    let mut zombie = Frames::open(dir.path()).await.unwrap();
    idle.position(&partition(1)).await.unwrap();
    assert_eq!(zombie.position(&partition(0)).await.unwrap(), Some(1));
    // As if `idle` and `zombie` had written nothing for more than an hour: the known entries are removed.
    commits(&mut busy, 0, 1, 120).await;
    age(dir.path(), FRAMES);
    commits(&mut busy, 0, 121, 100).await;
    assert!(entries(dir.path(), FRAMES).keys().all(|version| *version >= 100), "{:?}", entries(dir.path(), FRAMES));

    append(&mut idle, &[row(1, 0, 2, &bytes)]).await.unwrap();
    assert_eq!(offsets(dir.path()).await, [0, 0]);
    let refused = append(&mut zombie, &[row(0, 1, 3, &bytes)]).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Fenced { .. }), "{refused}");
    let mut again = Frames::open(dir.path()).await.unwrap();
    assert_eq!(again.position(&partition(0)).await.unwrap(), Some(221));
    assert_eq!(again.position(&partition(1)).await.unwrap(), Some(1));
}

#[tokio::test]
async fn an_entry_that_gets_a_number_below_a_checkpoint_is_not_taken_for_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut busy = Frames::open(dir.path()).await.unwrap();
    busy.position(&partition(0)).await.unwrap();
    commits(&mut busy, 0, 0, 120).await;
    age(dir.path(), FRAMES);
    commits(&mut busy, 0, 120, 100).await;
    // A writer that stopped between check and write.
    let table = dir.path().join(FRAMES);
    let store = table_at(&table).unwrap().log_store();
    let operation = deltalake::protocol::DeltaOperation::Write {
        mode: deltalake::protocol::SaveMode::Append,
        partition_by: None,
        predicate: None,
    };
    let commit = deltalake::kernel::transaction::CommitData::new(Vec::new(), operation, Default::default(), Vec::new());
    let known = (5, log::Known::JustRead);
    let entry = log::append(&store, &table, known, &commit, &Default::default()).await.unwrap();
    assert_eq!(entry, log::Entry::Doubtful { version: 6 });
}

#[tokio::test]
async fn a_position_that_does_not_grow_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert!(matches!(append(&mut frames, &[row(0, 4, 1, &bytes)]).await, Err(ArchiveError::Fenced { .. })));
    frames.position(&partition(0)).await.unwrap();
    append(&mut frames, &[row(0, 4, 1, &bytes)]).await.unwrap();
    for offset in [0, 4] {
        let refused = append(&mut frames, &[row(0, offset, 1, &bytes)]).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::Backwards { from: 5, .. }), "{refused}");
    }
    assert_eq!(offsets(dir.path()).await, [4]);
}

#[tokio::test]
async fn a_crash_between_data_and_log_leaves_neither() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    append(&mut frames, &[row(0, 0, 1, &bytes)]).await.unwrap();
    let committed = append(&mut frames, &[row(0, 1, 2, &bytes)]).await.unwrap().version;
    drop(frames);

    // The data files exist, the log entry is missing: as after a kill between both writes.
    let log = dir.path().join("frames/_delta_log");
    let entry = |version: u64| log.join(format!("{version:020}.json"));
    std::fs::remove_file(entry(committed)).unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.position(&partition(0)).await.unwrap(), Some(1));
    append(&mut frames, &[row(0, 1, 3, &bytes)]).await.unwrap();
    assert_eq!(offsets(dir.path()).await, [0, 1]);

    // The log entry is an empty file: as after a power cut.
    std::fs::write(entry(committed + 1), b"").unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.position(&partition(0)).await.unwrap(), Some(2));
    append(&mut frames, &[row(0, 2, 4, &bytes)]).await.unwrap();
    assert_eq!(offsets(dir.path()).await, [0, 1, 2]);
    assert!(log.join(format!("{:020}.json.torn", committed + 1)).exists());
}

#[tokio::test]
async fn a_new_log_under_an_old_name_has_a_position_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.newest(&partition(0)).await.unwrap(), (partition(0), None));
    append(&mut frames, &[row(0, 9, 1, &bytes)]).await.unwrap();
    let second = PartitionName { generation: 1, ..partition(0) };
    frames.position(&second).await.unwrap();
    append(&mut frames, &[Row { partition: second.clone(), ..row(0, 0, 2, &bytes) }]).await.unwrap();
    let mut again = Frames::open(dir.path()).await.unwrap();
    assert_eq!(again.newest(&partition(0)).await.unwrap(), (second.clone(), Some(1)));
    let reader = Reader::new(dir.path());
    assert_eq!(reader.record_at(&second, 0).await.unwrap().as_deref(), Some(bytes.as_slice()));
    assert_eq!(reader.record_at(&partition(0), 9).await.unwrap().as_deref(), Some(bytes.as_slice()));
    assert_eq!(reader.record_at(&partition(0), 0).await.unwrap(), None);
}

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
            assert_eq!((found[0].header.captured_ns, found[0].header.seq), (captured_ns, seq));
        }
    }
    let (last_ns, last_seq) = expected[expected.len() - 1];
    let found = reader.last_before(host, last_ns + 40 * DAY_NS, None).await.unwrap().found;
    assert_eq!(found[0].header.seq, last_seq);
    assert_eq!(reader.last_before(host, expected[0].0 - 1, None).await.unwrap(), Candidates::default());
    assert_eq!(reader.first_captured_ns(host).await.unwrap(), Some(expected[0].0));

    // One key and one delta give the snapshot of that moment.
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
    assert_eq!(found[0].header.seq, 1);
    let places: Vec<Place> = found[0].places.values().map(|places| places[0]).collect();
    assert!(places.iter().all(|place| place.offset < whole.len() as i64), "the first that came counts");
    assert_eq!(reader.frame(&places).await.unwrap().open(None).unwrap(), noise);
}

#[tokio::test]
async fn a_forged_part_that_came_first_and_differs_in_nothing_that_has_a_column_spoils_no_frame() {
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
    let frame = reader.found(&found[0]).await.unwrap();
    assert_eq!(frame.open(None).unwrap(), noise);
}

fn saved(n: u8, received_ns: i64) -> SavedHost {
    SavedHost {
        host_id: HostId([n; 16]),
        partition: partition(i32::from(n % 2)),
        facts: SavedFacts { hostname: format!("host-{n}\u{1b}\"\\"), processes: 3, ..SavedFacts::default() },
        newest: SavedFrame {
            epoch: edr_wire::Epoch([n; 8]),
            seq: 7,
            kind: edr_wire::frame::FrameKind::Key,
            base_seq: 7,
            raw_hash: [n; 16],
            captured_ns: -5,
            received_ns,
            bye: true,
            places: vec![Place { received_ns, partition: 0, offset: 3 }],
        },
        key: None,
        facts_of: None,
        epochs: vec![(edr_wire::Epoch([n; 8]), 7)],
        conflicts: 1,
        conflicting: vec![(edr_wire::Epoch([n; 8]), 7, [3; 16])],
    }
}

#[tokio::test]
async fn hosts_are_overwritten_by_the_partitions_a_collector_owns() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = HostsTable::open(dir.path()).await.unwrap();
    assert_eq!(table.load().await.unwrap(), SavedHosts::default());
    let covers = |numbers: &[i32], position, until| -> Coverage {
        numbers.iter().map(|&number| (partition(number), (position, until))).collect()
    };
    let mut earlier_log = saved(2, 5);
    earlier_log.partition.generation = 7;
    table.save(&[saved(1, 5), earlier_log, saved(3, 5)], &covers(&[0, 1], 10, 100)).await.unwrap();
    // Another collector owns partition 1, and has received one known and one new host.
    let mut other = HostsTable::open(dir.path()).await.unwrap();
    other.save(&[saved(1, 9), saved(3, 5), saved(5, 9)], &covers(&[1], 11, 200)).await.unwrap();
    // An overtaken collector does not restore old rows.
    table.save(&[saved(1, 5)], &covers(&[1], 10, 300)).await.unwrap();
    let loaded = table.load().await.unwrap();
    let rows: Vec<(HostId, i64)> = loaded.hosts.iter().map(|host| (host.host_id, host.newest.received_ns)).collect();
    let host = |n| HostId([n; 16]);
    assert_eq!(rows, [(host(1), 9), (host(2), 5), (host(3), 5), (host(5), 9)]);
    assert_eq!(loaded.hosts[0], saved(1, 9));
    // Complete until 100 in one partition and until 200 in another means complete until 100.
    assert_eq!(loaded.complete_until_ns, Some(100));
}

#[tokio::test]
async fn hosts_are_saved_by_who_was_idle_while_the_log_was_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut busy = HostsTable::open(dir.path()).await.unwrap();
    let covers = |number, position| -> Coverage { BTreeMap::from([(partition(number), (position, 100 + position))]) };
    busy.save(&[saved(1, 1)], &covers(1, 1)).await.unwrap();
    let mut idle = HostsTable::open(dir.path()).await.unwrap();
    let mut position = 1;
    while !entries(dir.path(), HOSTS).contains_key(&25) {
        position += 1;
        busy.save(&[saved(1, position)], &covers(1, position)).await.unwrap();
    }
    for version in 0..20 {
        std::fs::remove_file(&entries(dir.path(), HOSTS)[&version]).unwrap();
    }
    idle.save(&[saved(2, 7)], &covers(0, 7)).await.unwrap();
    let loaded = HostsTable::open(dir.path()).await.unwrap().load().await.unwrap();
    assert_eq!(loaded.hosts, [saved(1, position), saved(2, 7)]);
}

#[tokio::test]
async fn what_saves_leave_behind_goes_after_an_hour_and_not_before() {
    #[derive(Debug)]
    struct Ahead(i64);
    impl deltalake::operations::vacuum::Clock for Ahead {
        fn current_timestamp_millis(&self) -> i64 {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(now.as_millis()).unwrap() + self.0
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut table = HostsTable::open(dir.path()).await.unwrap();
    let coverage: Coverage = BTreeMap::from([(partition(1), (10, 100))]);
    for received_ns in 1..=5 {
        table.save(&[saved(1, received_ns)], &coverage).await.unwrap();
    }
    let files = || std::fs::read_dir(dir.path().join("hosts/partition=1")).unwrap().count();
    assert_eq!(files(), 5);
    table.clean().await.unwrap();
    assert_eq!(files(), 5);
    table.clean_by(Some(std::sync::Arc::new(Ahead(2 * 3_600_000)))).await.unwrap();
    assert_eq!(files(), 1);
    assert_eq!(table.load().await.unwrap().hosts, [saved(1, 5)]);
    table.save(&[saved(1, 6)], &coverage).await.unwrap();
    assert_eq!(table.load().await.unwrap().hosts, [saved(1, 6)]);
}
