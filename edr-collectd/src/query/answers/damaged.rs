//! Tests of answers from an archive with damaged files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use edr_archive::testing::{entries, header, partition, records, row};
use edr_archive::{Coverage, Frames};
use edr_model::testing::sample;

use super::*;

const SECOND_NS: i64 = 1_000_000_000;

/// Archives three key frames of hosts 1 and 2, each frame in a file of its own. Returns the files of host 1.
async fn archive(dir: &Path) -> Vec<PathBuf> {
    let mut frames = Frames::open(dir).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let mut files = Vec::new();
    for offset in 0..6 {
        let (n, seq) = (1 + u8::from(offset >= 3), 1 + offset as u64 % 3);
        let mut snapshot = sample();
        snapshot.host.host_id = HostId([n; 16]);
        snapshot.host.hostname = format!("host-{n}");
        snapshot.processes.truncate(usize::try_from(seq).unwrap());
        let raw = rmp_serde::to_vec_named(&snapshot).unwrap();
        let bytes = records(&header(n, seq), &raw, None, 1 << 20).remove(0);
        let rows = [row(0, offset, i64::try_from(seq).unwrap() * 10 * SECOND_NS, &bytes)];
        frames.append(&rows, &BTreeMap::from([(partition(0), offset + 1)])).await.unwrap();
        let entry = std::fs::read_to_string(entries(frames.path()).pop_last().unwrap().1).unwrap();
        let path = entry.split("\"add\":{\"path\":\"").nth(1).unwrap().split('"').next().unwrap();
        files.push(frames.path().join(path));
    }
    files.truncate(3);
    files
}

#[tokio::test]
async fn the_gap_of_a_damaged_file_is_named_where_it_matters_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let files = archive(dir.path()).await;
    std::fs::remove_file(&files[2]).unwrap();
    let answers = HostAnswers::from_archive(dir.path()).await.unwrap();
    answers.refresh_facts().await;
    assert_eq!(answers.hosts().len(), 2);
    let [one, two] = [1, 2].map(|n| HostId([n; 16]).to_string());
    let gap =
        format!("1 rows of host {one}, received from 1970-01-01 00:00:30 to 1970-01-01 00:00:30 UTC, are missing");
    let snapshot = answers.snapshot(&one, None).await.unwrap();
    assert_eq!(snapshot.view.process_count(), 2, "the newest that can be read");
    assert!(snapshot.alarms.iter().any(|alarm| alarm.starts_with(&gap)), "{:?}", snapshot.alarms);
    let other = answers.snapshot(&two, None).await.unwrap();
    assert_eq!((other.view.process_count(), other.alarms.len()), (3, 0));
    let sentences = answers.omitted().sentences();
    assert!(sentences.len() == 1 && sentences[0].starts_with(&gap), "{sentences:?}");
}

#[tokio::test]
async fn a_damaged_table_of_hosts_is_made_of_the_frames_again() {
    let dir = tempfile::tempdir().unwrap();
    archive(dir.path()).await;
    let first = HostAnswers::from_archive(dir.path()).await.unwrap();
    first.refresh_facts().await;
    let mut hosts = HostsTable::open(dir.path()).await.unwrap();
    let until_ns = i64::from(u32::MAX) * SECOND_NS;
    let coverage: Coverage = BTreeMap::from([(partition(0), (6, until_ns))]);
    hosts.save(first.newest.save(|_| true), &coverage).await.unwrap();
    let folder = dir.path().join("hosts/partition=0");
    for file in std::fs::read_dir(&folder).unwrap() {
        std::fs::write(file.unwrap().path(), b"no data").unwrap();
    }
    let again = HostAnswers::from_archive(dir.path()).await.unwrap();
    assert_eq!(again.newest.save(|_| true).hosts.len(), 2);
    assert!(again.damaged_files()[0].path.starts_with("hosts/partition=0/"), "{:?}", again.damaged_files());
    let id = HostId([1; 16]).to_string();
    assert_eq!(again.snapshot(&id, None).await.unwrap().view.process_count(), 3);
    // The next save makes the table whole, and the damage is forgotten.
    let coverage: Coverage = BTreeMap::from([(partition(0), (6, until_ns + 1))]);
    hosts.save(again.newest.save(|_| true), &coverage).await.unwrap();
    let whole = HostAnswers::from_archive(dir.path()).await.unwrap();
    assert_eq!(whole.damaged_files(), []);
    assert_eq!(whole.newest.save(|_| true).hosts.len(), 2);

    // A damaged log of the table: a command reads the frames, a collector makes the table again.
    let log = entries(&dir.path().join("hosts"));
    std::fs::write(&log[&1], b"{\"add\":{\"pa").unwrap();
    let command = HostAnswers::from_archive(dir.path()).await.unwrap();
    assert_eq!(command.newest.save(|_| true).hosts.len(), 2);
    let mut hosts = HostsTable::open(dir.path()).await.unwrap();
    assert_eq!(hosts.load(&Arc::default()).await.unwrap().hosts.len(), 0);
    let all: BTreeSet<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(all.iter().any(|name| name.starts_with("hosts.damaged-")), "{all:?}");
    hosts.save(command.newest.save(|_| true), &coverage).await.unwrap();
    assert_eq!(hosts.load(&Arc::default()).await.unwrap().hosts.len(), 2);
}

#[tokio::test]
async fn a_start_counts_the_frames_of_a_damaged_file_once_and_again_after_the_repair() {
    let dir = tempfile::tempdir().unwrap();
    let files = archive(dir.path()).await;
    let reader = Reader::new(dir.path());
    let newest = Newest::default();
    catch_up(&newest, &reader, None, &|| {}).await.unwrap();
    let host = HostId([1; 16]);
    assert!(newest.account(host).is_complete());
    let whole = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], &whole[..100]).unwrap();
    reader.rows(0..i64::MAX, |_| {}).await.unwrap();
    for _ in 0..2 {
        crate::newest::check_days(&newest, &reader, &|| {}).await.unwrap();
        let account = newest.account(host);
        let seqs: Vec<_> = account.losses.iter().map(|loss| (loss.kind.name(), loss.seqs)).collect();
        assert_eq!(seqs, [("unexplained", Some((2, 2)))]);
    }
    std::fs::write(&files[1], &whole).unwrap();
    reader.rows(0..i64::MAX, |_| {}).await.unwrap();
    assert_eq!(reader.damage().files(), []);
}
