//! Every record is archived exactly once, after any failure of collectors, broker and topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edr_archive::Reader;
use edr_collectd::consume::{judge_topic, look, may_read};
use edr_collectd::query::HostAnswers;
use edr_daemon::preflight::{Findings, Level};
use edr_wire::HostId;

use crate::frames::frames;
use crate::scene::{LIMIT, Scene, TOPIC, eventually, offsets, span};

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_archived_once_through_kills_rivals_and_outages() {
    let Some(mut scene) = Scene::new() else { return };
    let archive = scene.archive();
    let kafka = scene.config("look", &archive).kafka;
    assert_eq!(look(&kafka).unwrap().partitions, None);
    // A waiting collector finds the topic once it is created.
    let mut collector = scene.collector("one", &archive).await;
    scene.create_topic().await;
    // A broker learns of a new topic a moment after the answer to the client that created the topic.
    eventually("the new topic", || look(&kafka).unwrap().partitions == Some(2)).await;
    let mut findings = Findings::default();
    judge_topic(&kafka, &mut findings).await.unwrap();
    assert_eq!(findings.worst(), Level::Ok, "{findings:?}");
    may_read(&kafka, 2).unwrap();

    let mut sent = frames(1, 1..=3);
    scene.produce(0, &sent);
    collector.archived(sent.len() as u64).await;
    let host = HostId([1; 16]);
    assert_eq!(collector.newest.current(host).unwrap().newest.saved.frame.key.seq, 3);
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));

    // The collector is killed repeatedly, at any moment while records arrive.
    for seq in 4..=9 {
        collector.kill().await;
        let more = frames(1, seq..=seq);
        collector = scene.collector("one", &archive).await;
        scene.produce(0, &more);
        sent.extend(more);
        if seq % 2 == 0 {
            tokio::task::yield_now().await;
        } else {
            eventually("the newest frame", || {
                collector.newest.current(host).is_some_and(|current| current.newest.saved.frame.key.seq == seq)
            })
            .await;
        }
    }
    eventually("the last frame", || {
        collector.newest.current(host).is_some_and(|current| current.newest.saved.frame.key.seq == 9)
    })
    .await;
    collector.stop().await;
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));

    // Two collectors with one archive, but in different groups: each reads every record.
    let mut rivals = [scene.collector("one", &archive).await, scene.collector("two", &archive).await];
    for seq in 10..=15 {
        let more = frames(1, seq..=seq);
        scene.produce(0, &more);
        sent.extend(more);
        for rival in &rivals {
            eventually("the rivals to read on", || {
                rival.newest.current(host).is_some_and(|current| current.newest.saved.frame.key.seq >= seq - 1)
            })
            .await;
        }
    }
    // Whichever collector commits last, no record is duplicated or missing.
    let begin = Instant::now();
    while offsets(&archive).await.get(&(0, 0)).map(Vec::len) != Some(sent.len()) {
        assert!(begin.elapsed() < LIMIT, "{:?}", offsets(&archive).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for rival in &mut rivals {
        rival.stop.send_replace(true);
    }
    for rival in rivals {
        rival.stop().await;
    }
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));

    // The broker stops and starts again.
    let mut collector = scene.collector("one", &archive).await;
    scene.broker.stop();
    scene.broker.resume().unwrap();
    let more = frames(2, 1..=2);
    scene.produce(1, &more);
    collector.archived(more.len() as u64).await;
    collector.stop().await;
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len())), ((0, 1), span(more.len()))]));
    let answers = HostAnswers::from_archive(&archive).await.unwrap();
    answers.refresh_facts().await;
    let rows = answers.hosts();
    let listed: Vec<(&str, usize)> = rows.iter().map(|row| (row.hostname.as_str(), row.processes)).collect();
    assert_eq!(listed, [("host-1", 15), ("host-2", 2)]);
    let then = answers.snapshot("host-1", Some(75_000_000_000)).await.unwrap();
    assert_eq!((then.seq, then.view.process_count()), (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_another_log_even_when_it_is_longer() {
    let Some(scene) = Scene::new() else { return };
    let archive = scene.archive();
    scene.create_topic().await;
    let first = frames(1, 1..=2);
    scene.produce(0, &first);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(first.len() as u64).await;
    collector.stop().await;

    // The new log is shorter than the position.
    scene.delete_topic().await;
    scene.create_topic().await;
    let second = frames(1, 3..=3);
    assert!(second.len() < first.len());
    scene.produce(0, &second);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(second.len() as u64).await;
    collector.stop().await;

    // The new log is longer than the position: only the record before the position shows the change.
    scene.delete_topic().await;
    scene.create_topic().await;
    let third = frames(1, 4..=9);
    assert!(third.len() > second.len());
    scene.produce(0, &third);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(third.len() as u64).await;
    collector.stop().await;
    assert_eq!(
        offsets(&archive).await,
        BTreeMap::from([((0, 0), span(first.len())), ((1, 0), span(second.len())), ((2, 0), span(third.len()))])
    );

    // The same log continues, without a second copy of its last record.
    let fourth = frames(1, 10..=10);
    scene.produce(0, &fourth);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(fourth.len() as u64).await;
    collector.stop().await;
    assert_eq!(offsets(&archive).await[&(2, 0)], span(third.len() + fourth.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_whose_name_another_one_took_ends_and_says_so() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let sent = frames(1, 1..=1);
    scene.produce(0, &sent);
    let mut first = scene.collector("one", &scene.archive()).await;
    first.archived(sent.len() as u64).await;
    let mut copy = scene.collector("one", &scene.dir.path().join("copy")).await;
    let error = tokio::time::timeout(LIMIT, first.task).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("joined group one under the name of this one, one"), "{error}");
    copy.archived(sent.len() as u64).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_is_archived_and_the_partition_goes_on() {
    let Some(scene) = Scene::new() else { return };
    let archive = scene.archive();
    scene.create_topic().await;
    let frame = frames(1, 1..=1);
    let mut damaged = frame[0].clone();
    damaged[40] ^= 1;
    scene.produce(0, &[b"no frame".to_vec(), Vec::new(), damaged]);
    scene.produce(0, &frame);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(3 + frame.len() as u64).await;
    assert_eq!(collector.progress.borrow().faults, 3);
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 1);
    collector.stop().await;
    let reader = Reader::new(&archive);
    let log = edr_archive::PartitionName {
        cluster: look(&scene.config("look", &archive).kafka).unwrap().cluster,
        topic: TOPIC.into(),
        partition: 0,
        generation: 0,
    };
    assert_eq!(reader.record_at(&log, 0).await.unwrap().as_deref(), Some(b"no frame".as_slice()));
}
