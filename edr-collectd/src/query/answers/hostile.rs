//! Hosts whose frames cannot be opened or shown: other hosts and earlier snapshots stay readable.

use std::collections::BTreeMap;

use edr_archive::testing::{delta, header, partition, records, row};
use edr_archive::{Frames, RecordPosition};
use edr_model::testing::sample;
use edr_wire::frame::{FrameHeader, Record};

use super::*;

const SECOND_NS: i64 = 1_000_000_000;

/// Returns the raw snapshot of a host.
fn raw(n: u8, processes: usize) -> Vec<u8> {
    let mut snapshot = sample();
    snapshot.host.host_id = HostId([n; 16]);
    snapshot.host.hostname = format!("host-{n}");
    snapshot.processes.truncate(processes);
    (snapshot.packets, snapshot.gaps) = (Vec::new(), Vec::new());
    rmp_serde::to_vec_named(&snapshot).unwrap()
}

/// Answers without an archive: each search fails, and each read.
fn without_archive(dir: &Path) -> HostAnswers {
    HostAnswers::new(Arc::default(), Arc::new(Reader::new(&dir.join("nothing"))))
}

fn offer(answers: &HostAnswers, header: &FrameHeader, raw: &[u8], key_raw: Option<&[u8]>) {
    for bytes in records(header, raw, key_raw, 1 << 20) {
        let place = RecordPosition { received_ns: header.captured_ns + 1, partition: 0, offset: header.captured_ns };
        answers.newest.offer(&partition(0), place, Record::decode(&bytes).unwrap());
    }
}

fn alarms(answers: &HostAnswers, n: u8) -> Vec<String> {
    answers.host(HostId([n; 16])).unwrap().alarms
}

#[tokio::test]
async fn facts_never_search_the_archive_for_a_key_that_never_came() {
    let dir = tempfile::tempdir().unwrap();
    let answers = without_archive(dir.path());
    let invented = |at: u16| {
        let mut id = [0xee; 16];
        id[..2].copy_from_slice(&at.to_be_bytes());
        HostId(id)
    };
    for at in 0..300 {
        let orphan = FrameHeader { host_id: invented(at), ..delta(1, 5, 4) };
        offer(&answers, &orphan, &raw(1, 1), Some(&raw(1, 2)));
    }
    // A host with a delta before the first key, and a usual host.
    offer(&answers, &delta(2, 2, 1), &raw(2, 2), Some(&raw(2, 1)));
    offer(&answers, &header(3, 1), &raw(3, 1), None);
    answers.refresh_facts().await;
    let names = |answers: &HostAnswers| {
        let named = answers.hosts().into_iter().filter(|row| !row.hostname.is_empty());
        named.map(|row| row.hostname).collect::<Vec<_>>()
    };
    assert_eq!(names(&answers), ["host-3"]);
    for at in 0..300 {
        let alarms = answers.host(invented(at)).unwrap().alarms;
        assert!(alarms[0].contains("its key frame is missing: frame 4"), "{alarms:?}");
    }
    offer(&answers, &header(2, 1), &raw(2, 1), None);
    answers.refresh_facts().await;
    assert_eq!((names(&answers), alarms(&answers, 2)), (vec!["host-2".to_owned(), "host-3".to_owned()], vec![]));
}

#[tokio::test]
async fn thousands_of_unreadable_frames_leave_the_last_readable_snapshot_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    let answers = without_archive(dir.path());
    offer(&answers, &header(1, 1), &raw(1, 1), None);
    offer(&answers, &delta(1, 2, 1), &raw(1, 2), Some(&raw(1, 1)));
    answers.refresh_facts().await;
    // No snapshot; a snapshot of another host; a delta without a key; a delta of a key with another content.
    for seq in 3..3_003 {
        match seq % 4 {
            0 => offer(&answers, &header(1, seq), b"no snapshot", None),
            1 => offer(&answers, &header(1, seq), &raw(2, 1), None),
            2 => offer(&answers, &delta(1, seq, seq - 1), &raw(1, 1), Some(&raw(1, 2))),
            _ => offer(&answers, &delta(1, seq, 1), &raw(1, 1), Some(&raw(1, 3))),
        }
        if seq % 500 < 4 {
            answers.refresh_facts().await;
            let shown = answers.snapshot("host-1", None).await.unwrap();
            assert_eq!((shown.seq, shown.view.process_count()), (2, 2), "after frame {seq}");
            assert!(shown.alarms[0].contains("the newest snapshot that can be read, seq 2"), "{:?}", shown.alarms);
            assert!(alarms(&answers, 1)[0].contains(&format!("(seq {seq}) cannot be read: ")), "frame {seq}");
        }
    }
    offer(&answers, &header(1, 3_003), &raw(1, 3), None);
    assert_eq!(answers.snapshot("host-1", None).await.unwrap().seq, 3_003);
    assert_eq!(alarms(&answers, 1), [""; 0]);
}

#[tokio::test]
async fn a_snapshot_that_no_page_can_show_counts_as_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    let answers = without_archive(dir.path());
    let replaced = |from: &[u8], to: &[u8]| {
        let mut raw = raw(1, 2);
        let at = raw.windows(from.len()).position(|window| window == from).unwrap();
        raw.splice(at..at + from.len(), to.iter().copied());
        raw
    };
    let broken = [
        // A host, an agent and a time without a field.
        replaced(b"\xa6kernel", b"\xa6kernex"),
        replaced(b"\xaapage_bytes", b"\xaapage_bytex"),
        replaced(b"\xabconfig_hash", b"\xabconfig_hasx"),
        replaced(b"\xa7wall_ns", b"\xa7wall_nx"),
        // A host name that is a number, and lists that are no lists.
        replaced(b"\xa8hostname\xa6host-1", b"\xa8hostname\x07"),
        replaced(b"\xa7packets\x90", b"\xa7packets\xc2"),
        replaced(b"\xa4gaps\x90", b"\xa4gaps\xc3"),
    ];
    for (seq, broken) in (1..).step_by(2).zip(&broken) {
        offer(&answers, &header(1, seq), &raw(1, 1), None);
        answers.refresh_facts().await;
        offer(&answers, &header(1, seq + 1), broken, None);
        // Before and after the facts are computed.
        for _ in 0..2 {
            let shown = answers.snapshot("host-1", None).await.unwrap();
            assert_eq!(shown.seq, seq);
            assert!(shown.alarms[0].contains("the newest snapshot that can be read"), "{:?}", shown.alarms);
            let alarms = alarms(&answers, 1);
            assert!(alarms[0].contains(&format!("(seq {}) cannot be read: ", seq + 1)), "{alarms:?}");
            answers.refresh_facts().await;
        }
    }
}

async fn archive_all(frames: &mut Frames, bytes: &[Vec<u8>]) {
    let received_ns = |bytes: &[u8]| Record::decode(bytes).unwrap().header.captured_ns + SECOND_NS;
    let rows: Vec<_> = bytes.iter().zip(0..).map(|(bytes, n)| row(0, n, received_ns(bytes) + n, bytes)).collect();
    frames.append(&rows, &BTreeMap::from([(partition(0), rows.len() as i64)])).await.unwrap();
}

#[tokio::test]
async fn a_search_for_a_readable_snapshot_is_made_once_whatever_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let mut all = records(&header(2, 1), &raw(2, 1), None, 1 << 20);
    for seq in 2..40 {
        all.extend(records(&header(1, seq), b"no snapshot", None, 1 << 20));
        all.extend(records(&header(2, seq), b"no snapshot", None, 1 << 20));
    }
    archive_all(&mut frames, &all).await;
    let answers = HostAnswers::from_archive(dir.path()).await.unwrap().searching_for(Duration::from_secs(300));
    let [none, one] = [1, 2].map(|n| HostId([n; 16]).to_string());
    let refused = answers.snapshot(&none, None).await.unwrap_err();
    assert!(matches!(refused, QueryError::Unreadable(_)), "{refused:?}");
    let refused = refused.to_string();
    assert!(
        refused.contains("(seq 39) cannot be read: ") && refused.contains("no readable one was found"),
        "{refused}"
    );
    assert_eq!(answers.snapshot(&one, None).await.unwrap().seq, 1);
    // Without the archive the answers are the same: nothing is searched again.
    std::fs::rename(dir.path().join("frames"), dir.path().join("away")).unwrap();
    for _ in 0..3 {
        assert_eq!(answers.snapshot(&none, None).await.unwrap_err().to_string(), refused);
        assert_eq!(answers.snapshot(&one, None).await.unwrap().seq, 1);
    }
}
