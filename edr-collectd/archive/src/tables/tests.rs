//! Tests of `hosts`: overwritten by partitions, by several collectors, and kept small.

use std::collections::BTreeMap;

use edr_wire::frame::FrameKey;
use edr_wire::{ContentHash, HostId};

use crate::testing::{ClockAhead, entries, partition};
use crate::*;

use super::hosts;

fn list<const N: usize>(hosts: [SavedHost; N]) -> SavedHosts {
    SavedHosts { hosts: hosts.into(), ..SavedHosts::default() }
}

fn key(n: u8) -> FrameKey {
    let (host_id, epoch) = (HostId([n; 16]), edr_wire::Epoch([n; 8]));
    FrameKey { host_id, epoch, seq: 7, content: ContentHash([n; 32]) }
}

fn saved(n: u8, received_ns: i64) -> SavedHost {
    SavedHost {
        host_id: HostId([n; 16]),
        partition: partition(i32::from(n % 2)),
        facts: SavedFacts { hostname: format!("host-{n}\u{1b}\"\\"), processes: 3, ..SavedFacts::default() },
        newest: SavedFrame {
            frame: ArchivedFrame {
                key: key(n),
                kind: edr_wire::frame::FrameKind::Key,
                base_seq: 7,
                captured_ns: -5,
                previous_epoch: None,
                bye: true,
            },
            received_ns,
            places: vec![RecordPosition { received_ns, partition: 0, offset: 3 }],
        },
        key: None,
        facts_of: None,
        epochs: vec![(edr_wire::Epoch([n; 8]), 7)],
        conflicts: 1,
        conflicting: vec![FrameKey { content: ContentHash([3; 32]), ..key(n) }],
        account: Default::default(),
        readable: None,
        doubts: crate::SavedDoubts::default(),
        first_ns: received_ns,
        named_ns: received_ns,
    }
}

#[tokio::test]
async fn hosts_are_overwritten_by_the_partitions_a_collector_owns() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = HostsTable::open(dir.path()).await.unwrap();
    assert_eq!(table.load(&Default::default()).await.unwrap(), SavedHosts::default());
    let covers = |numbers: &[i32], position, until| -> Coverage {
        numbers.iter().map(|&number| (partition(number), (position, until))).collect()
    };
    let mut earlier_log = saved(2, 5);
    earlier_log.partition.generation = 7;
    table.save(list([saved(1, 5), earlier_log, saved(3, 5)]), &covers(&[0, 1], 10, 100)).await.unwrap();
    // A second collector owns partition 1, and has received a known and a new host.
    let mut other = HostsTable::open(dir.path()).await.unwrap();
    other.save(list([saved(1, 9), saved(3, 5), saved(5, 9)]), &covers(&[1], 11, 200)).await.unwrap();
    // An overtaken collector does not restore old rows.
    table.save(list([saved(1, 5)]), &covers(&[1], 10, 300)).await.unwrap();
    let loaded = table.load(&Default::default()).await.unwrap();
    let rows: Vec<(HostId, i64)> = loaded.hosts.iter().map(|host| (host.host_id, host.newest.received_ns)).collect();
    let host = |n| HostId([n; 16]);
    assert_eq!(rows, [(host(1), 9), (host(2), 5), (host(3), 5), (host(5), 9)]);
    assert_eq!(loaded.hosts[0], saved(1, 9));
    // Complete until 100 in one partition and until 200 in another means complete until 100.
    assert_eq!(loaded.complete_until_ns, Some(100));
}

#[tokio::test]
async fn offsets_are_saved_once_for_each_partition_also_without_hosts() {
    use edr_model::accounting::LogOffsets;
    let dir = tempfile::tempdir().unwrap();
    let mut table = HostsTable::open(dir.path()).await.unwrap();
    let offsets: BTreeMap<PartitionName, LogOffsets> =
        (0..3).map(|number| (partition(number), LogOffsets::default())).collect();
    let coverage: Coverage = (0..3).map(|number| (partition(number), (10, 100))).collect();
    // Partition 1 has three hosts, partition 0 has one and partition 2 has none.
    let saved = SavedHosts { offsets, ..list([saved(1, 5), saved(2, 5), saved(3, 5), saved(5, 5)]) };
    table.save(saved.clone(), &coverage).await.unwrap();
    let loaded = table.load(&Default::default()).await.unwrap();
    assert_eq!(loaded.offsets, saved.offsets);
    assert_eq!((loaded.hosts, loaded.complete_until_ns), (saved.hosts, Some(100)));
    // In one row of each partition.
    let mut bytes = 0;
    for number in 0..3 {
        for file in std::fs::read_dir(dir.path().join(format!("hosts/partition={number}"))).unwrap() {
            let file = std::fs::File::open(file.unwrap().path()).unwrap();
            let rows = deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in rows.build().unwrap() {
                let batch = batch.unwrap();
                let column = batch.column_by_name("archived_offsets").unwrap();
                bytes += column.len() - column.null_count();
            }
        }
    }
    assert_eq!(bytes, 3);
}

#[tokio::test]
async fn hosts_are_saved_by_who_was_idle_while_the_log_was_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut busy = HostsTable::open(dir.path()).await.unwrap();
    let covers = |number, position| -> Coverage { BTreeMap::from([(partition(number), (position, 100 + position))]) };
    busy.save(list([saved(1, 1)]), &covers(1, 1)).await.unwrap();
    let mut idle = HostsTable::open(dir.path()).await.unwrap();
    let mut position = 1;
    while position < 25 {
        position += 1;
        busy.save(list([saved(1, position)]), &covers(1, position)).await.unwrap();
    }
    Upkeep::new(dir.path(), hosts::STORAGE).run().await.unwrap();
    for version in 0..20 {
        std::fs::remove_file(&entries(&dir.path().join("hosts"))[&version]).unwrap();
    }
    idle.save(list([saved(2, 7)]), &covers(0, 7)).await.unwrap();
    let loaded = HostsTable::open(dir.path()).await.unwrap().load(&Default::default()).await.unwrap();
    assert_eq!(loaded.hosts, [saved(1, position), saved(2, 7)]);
}

#[tokio::test]
async fn what_saves_leave_behind_goes_after_an_hour_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = HostsTable::open(dir.path()).await.unwrap();
    let coverage: Coverage = BTreeMap::from([(partition(1), (10, 100))]);
    for received_ns in 1..=5 {
        table.save(list([saved(1, received_ns)]), &coverage).await.unwrap();
    }
    let files = || std::fs::read_dir(dir.path().join("hosts/partition=1")).unwrap().count();
    assert_eq!(files(), 5);
    let upkeep = Upkeep::new(dir.path(), hosts::STORAGE);
    upkeep.vacuum(None).await.unwrap();
    assert_eq!(files(), 5);
    upkeep.vacuum(Some(std::sync::Arc::new(ClockAhead(2 * 3_600_000)))).await.unwrap();
    assert_eq!(files(), 1);
    assert_eq!(table.load(&Default::default()).await.unwrap().hosts, [saved(1, 5)]);
    table.save(list([saved(1, 6)]), &coverage).await.unwrap();
    assert_eq!(table.load(&Default::default()).await.unwrap().hosts, [saved(1, 6)]);
}
