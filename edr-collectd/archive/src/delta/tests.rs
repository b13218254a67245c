//! Tests of the promises of a table, each under a matching failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::testing::{ClockAhead, append, entries, header, offsets, partition, records, row};
use crate::{ArchiveError, Frames, PartitionName, Reader, ReceivedRecord, tables};

/// Moves a position forward by `count` commits without rows.
async fn commits(frames: &mut Frames, number: i32, from: i64, count: i64) {
    for next in from + 1..=from + count {
        frames.append(&[], &BTreeMap::from([(partition(number), next)])).await.unwrap();
    }
}

/// Sets the age of all log files of a table to two hours.
fn age(table: &Path) {
    let then = SystemTime::now() - Duration::from_secs(7_200);
    for file in std::fs::read_dir(table.join("_delta_log")).unwrap() {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(then).unwrap();
    }
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
    assert_eq!(offsets(&first).await, [0, 1]);
    second.reload().await.unwrap();
    assert_eq!(second.position(&partition(0)).await.unwrap(), Some(2));
    append(&mut second, &[row(0, 2, 4, &bytes)]).await.unwrap();
    // The first writer is now behind.
    assert!(matches!(append(&mut first, &[row(0, 2, 5, &bytes)]).await, Err(ArchiveError::Fenced { .. })));
    assert_eq!(offsets(&first).await, [0, 1, 2]);
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
    assert_eq!(offsets(&other).await, [0, 0]);
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
    let mut upkeep = Upkeep::new(dir.path(), tables::frames::STORAGE);
    commits(&mut busy, 0, 1, 120).await;
    upkeep.run().await.unwrap();
    age(busy.path());
    commits(&mut busy, 0, 121, 100).await;
    upkeep.run().await.unwrap();
    assert!(entries(busy.path()).keys().all(|version| *version >= 100), "{:?}", entries(busy.path()));

    append(&mut idle, &[row(1, 0, 2, &bytes)]).await.unwrap();
    assert_eq!(offsets(&idle).await, [0, 0]);
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
    let mut upkeep = Upkeep::new(dir.path(), tables::frames::STORAGE);
    commits(&mut busy, 0, 0, 120).await;
    upkeep.run().await.unwrap();
    age(busy.path());
    commits(&mut busy, 0, 120, 100).await;
    upkeep.run().await.unwrap();
    // A writer that stopped between check and write.
    let store = busy.newest_version().log_store();
    let operation = deltalake::protocol::DeltaOperation::Write {
        mode: deltalake::protocol::SaveMode::Append,
        partition_by: None,
        predicate: None,
    };
    let commit = deltalake::kernel::transaction::CommitData::new(Vec::new(), operation, Default::default(), Vec::new());
    let known = (5, log::Freshness::JustRead);
    let entry = log::append(&store, busy.path(), known, &commit, &Default::default()).await.unwrap();
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
    assert_eq!(offsets(&frames).await, [4]);
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
    assert_eq!(offsets(&frames).await, [0, 1]);

    // The log entry is an empty file: as after a power cut.
    std::fs::write(entry(committed + 1), b"").unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    assert_eq!(frames.position(&partition(0)).await.unwrap(), Some(2));
    append(&mut frames, &[row(0, 2, 4, &bytes)]).await.unwrap();
    assert_eq!(offsets(&frames).await, [0, 1, 2]);
    assert!(log.join(format!("{:020}.json.torn", committed + 1)).exists());
}

/// Appends rows at the offsets `from..to`, one commit each.
async fn fill(frames: &mut Frames, from: i64, to: i64) {
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    for offset in from..to {
        append(frames, &[row(0, offset, offset + 1, &bytes)]).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_newest_entry_costs_its_records_only_and_they_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    fill(&mut frames, 0, 3).await;
    let log = frames.path().join("_delta_log");
    let mut newest = entries(frames.path()).pop_last().unwrap().0;
    let mut next = 3;
    for damage in ["cut", "garbage", "zeros", "a link", "a folder"] {
        let path = log.join(format!("{newest:020}.json"));
        let whole = std::fs::read(&path).unwrap();
        match damage {
            "cut" => std::fs::write(&path, &whole[..whole.len() / 2]).unwrap(),
            "garbage" => std::fs::write(&path, b"{not json\0\0").unwrap(),
            "zeros" => std::fs::write(&path, vec![0; whole.len()]).unwrap(),
            "a link" => {
                std::fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
            }
            _ => {
                std::fs::remove_file(&path).unwrap();
                std::fs::create_dir(&path).unwrap();
            }
        }
        let mut again = Frames::open(dir.path()).await.unwrap();
        assert_eq!(again.position(&partition(0)).await.unwrap(), Some(next - 1), "{damage}");
        assert!(std::fs::symlink_metadata(log.join(format!("{newest:020}.json.torn"))).is_ok(), "{damage}");
        fill(&mut again, next - 1, next + 1).await;
        (newest, next) = (newest + 1, next + 1);
        assert_eq!(offsets(&again).await, (0..next).collect::<Vec<_>>(), "{damage}");
    }
    // A collector that runs goes on: its commit fails once, and the next attempt reads the table again.
    let mut running = Frames::open(dir.path()).await.unwrap();
    running.position(&partition(0)).await.unwrap();
    std::fs::write(log.join(format!("{:020}.json", newest + 1)), b"{not json").unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    append(&mut running, &[row(0, next, 9, &bytes)]).await.unwrap_err();
    running.reload().await.unwrap();
    running.position(&partition(0)).await.unwrap();
    append(&mut running, &[row(0, next, 9, &bytes)]).await.unwrap();
    assert_eq!(offsets(&running).await, (0..=next).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_checkpoint_is_named_and_put_aside_by_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    commits(&mut frames, 0, 0, 105).await;
    Upkeep::new(dir.path(), tables::frames::STORAGE).run().await.unwrap();
    let log = frames.path().join("_delta_log");
    let checkpoint = log.join(format!("{:020}.checkpoint.parquet", 100));
    let whole = std::fs::read(&checkpoint).unwrap();
    // A checkpoint only sums up entries that are still there.
    for damage in [whole[..whole.len() / 2].to_vec(), Vec::new(), vec![b'x'; whole.len()]] {
        std::fs::write(&checkpoint, damage).unwrap();
        let read = Reader::new(dir.path()).received().await.unwrap_err().to_string();
        assert!(read.contains("100.checkpoint.parquet is damaged"), "{read}");
        let mut again = Frames::open(dir.path()).await.unwrap();
        assert_eq!(again.position(&partition(0)).await.unwrap(), Some(105));
        assert!(!checkpoint.exists() && log.join(format!("{:020}.checkpoint.parquet.damaged", 100)).exists());
    }
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
    append(&mut frames, &[ReceivedRecord { partition: second.clone(), ..row(0, 0, 2, &bytes) }]).await.unwrap();
    let mut again = Frames::open(dir.path()).await.unwrap();
    assert_eq!(again.newest(&partition(0)).await.unwrap(), (second.clone(), Some(1)));
    let reader = Reader::new(dir.path());
    assert_eq!(reader.record_at(&second, 0).await.unwrap().as_deref(), Some(bytes.as_slice()));
    assert_eq!(reader.record_at(&partition(0), 9).await.unwrap().as_deref(), Some(bytes.as_slice()));
    assert_eq!(reader.record_at(&partition(0), 0).await.unwrap(), None);
}

#[tokio::test]
async fn commits_do_no_upkeep_and_upkeep_sums_up_the_log_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    commits(&mut frames, 0, 0, 230).await;
    let ends = log::ends(frames.path()).await.unwrap();
    assert_eq!((ends.entry, ends.checkpoint), (Some(230), None));
    let mut upkeep = Upkeep::new(dir.path(), tables::frames::STORAGE);
    upkeep.run().await.unwrap();
    let ends = log::ends(frames.path()).await.unwrap();
    assert_eq!((ends.entry, ends.checkpoint), (Some(230), Some(200)));
    let checkpoint = frames.path().join(format!("_delta_log/{:020}.checkpoint.parquet", 200));
    let written = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let first = written(&checkpoint);
    upkeep.run().await.unwrap();
    assert_eq!(written(&checkpoint), first);
    assert_eq!(Frames::open(dir.path()).await.unwrap().position(&partition(0)).await.unwrap(), Some(230));
}

#[tokio::test]
async fn files_of_refused_commits_go_after_an_hour_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = records(&header(1, 1), b"snapshot", None, 1 << 20).remove(0);
    let (mut first, mut second) = (Frames::open(dir.path()).await.unwrap(), Frames::open(dir.path()).await.unwrap());
    for frames in [&mut first, &mut second] {
        frames.position(&partition(0)).await.unwrap();
    }
    append(&mut first, &[row(0, 0, 1, &bytes)]).await.unwrap();
    append(&mut second, &[row(0, 0, 2, &bytes)]).await.unwrap_err();
    let files = || std::fs::read_dir(first.path().join("receive_day=1970-01-01")).unwrap().count();
    assert_eq!(files(), 2);
    let upkeep = Upkeep::new(dir.path(), tables::frames::STORAGE);
    upkeep.vacuum(None).await.unwrap();
    assert_eq!(files(), 2);
    upkeep.vacuum(Some(Arc::new(ClockAhead(2 * 3_600_000)))).await.unwrap();
    assert_eq!(files(), 1);
    // The entries of the vacuum are in the log now, and the writers go on.
    append(&mut first, &[row(0, 1, 3, &bytes)]).await.unwrap();
    assert_eq!(offsets(&first).await, [0, 1]);
}

/// A row of a made-up table: a part, and a value.
type MadeUpRow = (&'static str, i64);

fn made_up(columns: Vec<ArchiveColumn<MadeUpRow>>) -> TableDeclaration<MadeUpRow> {
    let storage = TableStorage {
        folder: "made_up",
        partition_column: "part",
        checkpoint_commits: 10,
        vacuum_interval: Duration::from_secs(3_600),
    };
    let part = ArchiveColumn::text("part", |row: &MadeUpRow| Some(row.0.to_owned())).required();
    TableDeclaration { storage, columns: [vec![part], columns].into_iter().flatten().collect() }
}

fn value() -> ArchiveColumn<MadeUpRow> {
    ArchiveColumn::long("value", |row: &MadeUpRow| Some(row.1)).required()
}

fn doubled() -> ArchiveColumn<MadeUpRow> {
    ArchiveColumn::long("doubled", |row: &MadeUpRow| Some(row.1 * 2))
}

/// Returns the values of these columns in order.
async fn values(table: &ArchiveTable<MadeUpRow>, columns: &[&str]) -> Vec<Vec<Option<i64>>> {
    let mut found = Vec::new();
    let mut rows = engine::Engine::new(Arc::default()).scan(&table.newest_version(), None, columns).await.unwrap();
    while let Some(batch) = rows.next().await.unwrap() {
        let columns: Vec<_> = columns.iter().map(|name| values::Columns(&batch).longs(name).unwrap()).collect();
        found.extend((0..batch.num_rows()).map(|at| columns.iter().map(|column| values::long(column, at)).collect()));
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_replaced_part_has_the_new_rows_only_and_the_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = made_up(vec![value()]).open(dir.path()).await.unwrap();
    let at = |position| BTreeMap::from([(partition(0), position)]);
    let parts = |parts: &[&str]| parts.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    table.position(&partition(0)).await.unwrap();
    table.append(&[("a", 1), ("b", 2), ("c", 3)], &at(5)).await.unwrap();
    // The same position again is the same state again; an earlier position is refused.
    table.replace(parts(&["a", "b"]), &[("b", 20)], &at(5)).await.unwrap();
    let refused = table.replace(parts(&["b"]), &[], &at(4)).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Backwards { from: 5, to: 4, .. }), "{refused}");
    assert_eq!(values(&table, &["value"]).await, [[Some(3)], [Some(20)]]);

    // Another writer changes a part under a position of its own.
    let mut other = made_up(vec![value()]).open(dir.path()).await.unwrap();
    other.position(&partition(1)).await.unwrap();
    other.append(&[("c", 4)], &BTreeMap::from([(partition(1), 1)])).await.unwrap();
    let refused = table.replace(parts(&["c"]), &[("c", 5)], &at(6)).await.unwrap_err();
    assert!(refused.to_string().contains("another collector changed part c"), "{refused}");
    table.replace(parts(&["b"]), &[], &at(6)).await.unwrap();
    table.reload().await.unwrap();
    assert_eq!(table.position(&partition(0)).await.unwrap(), Some(6));
    table.replace(parts(&["c"]), &[("c", 5)], &at(7)).await.unwrap();
    assert_eq!(values(&table, &["value"]).await, [[Some(5)]]);
}

#[tokio::test]
async fn a_column_declared_later_is_added_and_is_null_in_older_rows() {
    let dir = tempfile::tempdir().unwrap();
    let at = |position| BTreeMap::from([(partition(0), position)]);
    let mut old = made_up(vec![value()]).open(dir.path()).await.unwrap();
    old.position(&partition(0)).await.unwrap();
    old.append(&[("a", 1)], &at(1)).await.unwrap();
    let refused = made_up(vec![value(), doubled().required()]).open(dir.path()).await.unwrap_err();
    assert!(refused.to_string().contains("column doubled is missing"), "{refused}");
    let mut new = made_up(vec![value(), doubled()]).open(dir.path()).await.unwrap();
    new.position(&partition(0)).await.unwrap();
    new.append(&[("a", 2)], &at(2)).await.unwrap();
    // A collector of the older version goes on after a reload; its rows have no value.
    old.append(&[("a", 3)], &at(3)).await.unwrap_err();
    old.reload().await.unwrap();
    old.position(&partition(0)).await.unwrap();
    old.append(&[("a", 3)], &at(3)).await.unwrap();
    let expected = [[Some(1), None], [Some(2), Some(4)], [Some(3), None]];
    assert_eq!(values(&new, &["value", "doubled"]).await, expected);
}
