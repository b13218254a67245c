use std::collections::BTreeMap;

use edr_archive::testing::{delta, header, partition, records, row};
use edr_archive::{Coverage, Frames};

use super::*;
use edr_model::testing::sample;
use edr_wire::frame::FrameHeader;

const SECOND_NS: i64 = 1_000_000_000;

/// Returns answers with a time limit that a loaded machine does not reach.
async fn open(archive: &Path) -> HostAnswers {
    HostAnswers::from_archive(archive).await.unwrap().searching_for(Duration::from_secs(300))
}

/// Returns the raw snapshot of a host with this many processes.
fn raw(n: u8, processes: usize) -> Vec<u8> {
    let mut snapshot = sample();
    snapshot.host.host_id = HostId([n; 16]);
    snapshot.host.hostname = format!("host-{n}");
    snapshot.processes.truncate(processes);
    rmp_serde::to_vec_named(&snapshot).unwrap()
}

/// Archives three frames of a host, 10 s apart: a key with 1 process, a delta with 2, a delta with 3.
async fn archive_three(frames: &mut Frames, n: u8, offset: i64) -> i64 {
    let key_raw = raw(n, 1);
    let mut rows = Vec::new();
    for seq in 1..=3_u64 {
        let header = if seq == 1 { header(n, 1) } else { delta(n, seq, 1) };
        let raw = raw(n, usize::try_from(seq).unwrap());
        let key_raw = (seq > 1).then_some(key_raw.as_slice());
        for bytes in records(&header, &raw, key_raw, 256) {
            let offset = offset + rows.len() as i64;
            rows.push(row(0, offset, header.captured_ns + SECOND_NS, &bytes));
        }
    }
    let next = offset + rows.len() as i64;
    frames.append(&rows, &BTreeMap::from([(partition(0), next)])).await.unwrap();
    next
}

async fn processes(answers: &HostAnswers, host: &str, at_ns: Option<i64>) -> usize {
    answers.snapshot(host, at_ns).await.unwrap().view.process_count()
}

#[tokio::test]
async fn a_command_answers_from_the_archive_alone_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(HostAnswers::from_archive(dir.path()).await, Err(ArchiveError::Missing(_))));
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let next = archive_three(&mut frames, 1, 0).await;
    archive_three(&mut frames, 2, next).await;

    let answers = open(dir.path()).await;
    let id = HostId([1; 16]).to_string();
    assert_eq!(processes(&answers, &id, None).await, 3);
    for (at, expected) in [(10, 1), (15, 1), (20, 2), (29, 2), (30, 3), (10_000, 3)] {
        assert_eq!(processes(&answers, &id, Some(at * SECOND_NS)).await, expected, "at {at} s");
    }
    let nothing = answers.snapshot(&id, Some(9 * SECOND_NS)).await.unwrap_err().to_string();
    assert_eq!(
        nothing,
        format!(
            "no snapshot of {id} at or before 1970-01-01 00:00:09 UTC; its first one is of 1970-01-01 00:00:10 UTC"
        )
    );
    answers.refresh_facts().await;
    let rows = answers.hosts();
    assert_eq!(rows.iter().map(|row| row.hostname.as_str()).collect::<Vec<_>>(), ["host-1", "host-2"]);
    assert_eq!((rows[0].processes, rows[0].seq), (3, 3));
    assert_eq!(processes(&answers, "host-2", None).await, 3);
}

#[tokio::test]
async fn a_start_reads_what_was_saved_and_what_came_since() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let next = archive_three(&mut frames, 1, 0).await;
    let first = open(dir.path()).await;
    first.refresh_facts().await;
    let mut hosts = HostsTable::open(dir.path()).await.unwrap();
    let until = 32 * SECOND_NS;
    let coverage: Coverage = BTreeMap::from([(partition(0), (next, until))]);
    hosts.save(first.newest.save(|_| true), &coverage).await.unwrap();

    // After the save, one more delta of the saved host; its key was received before the save.
    let bytes = records(&delta(1, 4, 1), &raw(1, 2), Some(&raw(1, 1)), 1 << 20).remove(0);
    let late = row(0, next, until, &bytes);
    frames.append(&[late], &BTreeMap::from([(partition(0), next + 1)])).await.unwrap();

    let second = open(dir.path()).await;
    assert_eq!(second.hosts()[0].hostname, "host-1", "before anything was opened");
    assert_eq!(processes(&second, "host-1", None).await, 2);
    // Without the saved rows everything is read again, with the same result.
    std::fs::remove_dir_all(dir.path().join("hosts")).unwrap();
    let third = open(dir.path()).await;
    assert_eq!(third.newest.save(|_| true).hosts.len(), 1);
    assert_eq!(third.newest.save(|_| true).hosts[0].newest, second.newest.save(|_| true).hosts[0].newest);
}

/// Archives records of partition 0 from `offset` on, received one per ns from `received_ns` on.
async fn archive_records(frames: &mut Frames, offset: i64, received_ns: i64, bytes: &[Vec<u8>]) -> i64 {
    let rows: Vec<_> = bytes.iter().zip(0..).map(|(bytes, n)| row(0, offset + n, received_ns + n, bytes)).collect();
    let next = offset + rows.len() as i64;
    frames.append(&rows, &BTreeMap::from([(partition(0), next)])).await.unwrap();
    next
}

#[tokio::test]
async fn no_later_content_replaces_the_first_one_and_every_moment_says_that_there_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let mut next = archive_three(&mut frames, 1, 0).await;
    // Later, other contents of frame 2: eight at the same moment, eight each one and two seconds later.
    let forgeries: Vec<Vec<u8>> = (0..24)
        .flat_map(|n| {
            let forged = FrameHeader { captured_ns: (20 + n / 8) * SECOND_NS, ..header(1, 2) };
            let mut snapshot = sample();
            snapshot.host.host_id = HostId([1; 16]);
            snapshot.host.hostname = format!("forged-{n}");
            records(&forged, &rmp_serde::to_vec_named(&snapshot).unwrap(), None, 1 << 20)
        })
        .collect();
    next = archive_records(&mut frames, next, 60 * SECOND_NS, &forgeries).await;
    // Also a frame with the content of another host, under an unused epoch.
    let stranger = FrameHeader { captured_ns: 25 * SECOND_NS, epoch: Epoch([7; 8]), ..header(1, 1) };
    archive_records(&mut frames, next, 70 * SECOND_NS, &records(&stranger, &raw(2, 1), None, 1 << 20)).await;

    let answers = open(dir.path()).await;
    let id = HostId([1; 16]).to_string();
    for at in 20..25 {
        let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
        assert_eq!((snapshot.seq, snapshot.view.host().unwrap().hostname.as_str()), (2, "host-1"), "at {at} s");
        assert!(snapshot.alarms[0].starts_with("frame 2 of epoch 0101010101010101 came with other contents too"));
    }
    assert_eq!(answers.snapshot(&id, Some(15 * SECOND_NS)).await.unwrap().alarms, [""; 0]);
    let other = answers.snapshot(&id, Some(26 * SECOND_NS)).await.unwrap();
    assert_eq!(other.alarms, [format!("its content says that it is of another host, {}", HostId([2; 16]))]);
}

#[tokio::test]
async fn records_that_came_later_hide_no_frame_however_many_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let mut next = archive_three(&mut frames, 1, 0).await;
    // Incomplete contents of key and delta, and incomplete frames of an unused epoch, before the moment of the
    // question.
    let first_part = |header: &FrameHeader, n: usize| {
        let mut raw = raw(1, 1);
        raw.extend_from_slice(&n.to_le_bytes());
        records(header, &raw, None, 64).swap_remove(0)
    };
    let junk: Vec<Vec<u8>> = (0..300)
        .flat_map(|n| {
            let free = FrameHeader { epoch: Epoch([8; 8]), captured_ns: 29 * SECOND_NS, ..header(1, 1 + n as u64) };
            [first_part(&header(1, 1), n), first_part(&header(1, 2), n), first_part(&free, n)]
        })
        .collect();
    next = archive_records(&mut frames, next, 60 * SECOND_NS, &junk).await;
    // Complete frames that are unreadable: deltas without a key.
    let orphans: Vec<Vec<u8>> = (0..9)
        .flat_map(|n| {
            let orphan = FrameHeader { captured_ns: 28 * SECOND_NS, epoch: Epoch([9; 8]), ..delta(1, 5 + n, 4) };
            records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20)
        })
        .collect();
    archive_records(&mut frames, next, 70 * SECOND_NS, &orphans).await;

    let answers = open(dir.path()).await;
    let id = HostId([1; 16]).to_string();
    for (at, expected) in [(15, 1), (20, 2), (29, 2)] {
        let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
        assert_eq!((snapshot.epoch, snapshot.view.process_count()), (Epoch([1; 8]), expected), "at {at} s");
    }
}

#[tokio::test]
async fn a_frame_sent_again_in_other_parts_is_read_whichever_of_them_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let key = raw(1, 1);
    let cut = |part_bytes| records(&header(1, 1), &key, None, part_bytes);
    let (large, small) = (cut(256), cut(64));
    assert!(large.len() > 1 && small.len() > large.len());
    let next = archive_records(&mut frames, 0, SECOND_NS, &large[1..2]).await;
    let next = archive_records(&mut frames, next, 2 * SECOND_NS, &small).await;
    let deltas = records(&delta(1, 2, 1), &raw(1, 2), Some(&key), 1 << 20);
    archive_records(&mut frames, next, 3 * SECOND_NS, &deltas).await;
    let answers = open(dir.path()).await;
    let id = HostId([1; 16]).to_string();
    for (at, expected) in [(15, 1), (20, 2)] {
        let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
        assert_eq!((snapshot.view.process_count(), snapshot.alarms.len()), (expected, 0), "at {at} s");
    }
}

#[tokio::test]
async fn a_newest_frame_that_cannot_be_read_is_named_and_the_one_before_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let next = archive_three(&mut frames, 1, 0).await;
    // A delta whose key was never received.
    let orphan = FrameHeader { epoch: Epoch([9; 8]), ..delta(1, 5, 4) };
    let bytes = records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20).remove(0);
    frames.append(&[row(0, next, 60 * SECOND_NS, &bytes)], &BTreeMap::from([(partition(0), next + 1)])).await.unwrap();
    let answers = open(dir.path()).await;
    answers.refresh_facts().await;
    let row = answers.hosts().remove(0);
    assert!(
        row.alarms[0].contains("(seq 5) cannot be read: its key frame is missing: frame 4 of epoch 0909"),
        "{:?}",
        row.alarms
    );
    let shown = answers.snapshot(&row.host_id.to_string(), None).await.unwrap();
    assert_eq!((shown.seq, shown.alarms.len()), (3, 1), "{:?}", shown.alarms);
    assert!(shown.alarms[0].starts_with("this is the newest snapshot that can be read, seq 3"), "{:?}", shown.alarms);
}
#[tokio::test]
async fn a_search_that_runs_out_of_time_says_where_to_go_on_and_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let next = archive_three(&mut frames, 1, 0).await;
    // Deltas whose key was never received, all after the expected answer.
    let orphans: Vec<Vec<u8>> = (0..5)
        .flat_map(|n| {
            let captured_ns = (40 + n as i64) * SECOND_NS;
            let orphan = FrameHeader { captured_ns, epoch: Epoch([9; 8]), ..delta(1, 5 + n, 4) };
            records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20)
        })
        .collect();
    archive_records(&mut frames, next, 70 * SECOND_NS, &orphans).await;

    let answers = open(dir.path()).await.searching_for(Duration::ZERO);
    let id = HostId([1; 16]).to_string();
    let used_up = answers.snapshot(&id, Some(43 * SECOND_NS)).await.unwrap_err();
    assert!(matches!(used_up, QueryError::Budget(_)), "{used_up}");
    assert_eq!(
        used_up.to_string(),
        format!(
            "0 frames of host {id} cannot be read, and the 0ns for one question are used up; what lies before \
             1970-01-01 00:00:43 UTC was not looked at: ask for that moment"
        )
    );
    let answers = answers.searching_for(Duration::from_secs(300));
    assert_eq!(answers.snapshot(&id, Some(43 * SECOND_NS)).await.unwrap().seq, 3);
}

#[tokio::test]
async fn readers_and_the_list_of_hosts_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    archive_three(&mut frames, 1, 0).await;
    let answers = open(dir.path()).await;
    let limit = Duration::from_secs(60);

    let readers = answers.opens.acquire_many(u32::try_from(OPENS_MAX).unwrap()).await.unwrap();
    tokio::time::timeout(limit, answers.refresh_facts()).await.unwrap();
    assert_eq!(answers.hosts()[0].hostname, "host-1");
    let then = Some(10 * SECOND_NS);
    let wait = tokio::time::timeout(Duration::from_millis(100), answers.snapshot("host-1", then)).await;
    assert!(wait.is_err(), "all places of readers are taken");
    drop(readers);

    let _list = answers.list_opens.acquire_many(u32::try_from(LIST_OPENS_MAX).unwrap()).await.unwrap();
    assert_eq!(tokio::time::timeout(limit, processes(&answers, "host-1", then)).await.unwrap(), 1);
}
