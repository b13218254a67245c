//! Tests of the consumer with a real broker and a real archive: after any failure every record is archived exactly
//! once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says why it was skipped"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_collectd::archive::{Frames, HostsTable, Reader};
use edr_collectd::config::Config;
use edr_collectd::consume::{Archive, Consumer, Progress, create, judge_topic, look, may_read};
use edr_collectd::newest::{Newest, catch_up};
use edr_collectd::query::{Answers as _, HostAnswers};
use edr_daemon::preflight::{Findings, Level};
use edr_tests::cache::cached;
use edr_tests::kafka::{Broker, free_port};
use edr_tests::topic::produce;
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind};
use edr_wire::snapshot::{Agent, Host, Snapshot, Time};
use edr_wire::{Epoch, HostId};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time limit; on an idle machine every step takes less than a second.
const LIMIT: Duration = Duration::from_secs(90);
const TOPIC: &str = "edr.snapshots";

/// A folder with a broker.
struct Scene {
    dir: tempfile::TempDir,
    broker: Broker,
}

/// A collector without the page, in this process.
struct Collector {
    task: JoinHandle<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    progress: watch::Receiver<Progress>,
    newest: Arc<Newest>,
}

impl Scene {
    /// `None` when Kafka cannot run here.
    fn new() -> Option<Self> {
        if let Err(why) = cached("kafka") {
            println!("skipped: {why}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(&dir.path().join("kafka")).unwrap();
        Some(Self { dir, broker })
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    fn config(&self, group: &str, archive: &Path) -> Config {
        let path = self.dir.path().join(format!("{group}.toml"));
        let text = format!(
            "state-dir = {:?}\n[kafka]\nbrokers = [{:?}]\ngroup = {group:?}\n[archive]\ndir = {archive:?}\n\
             commit-interval = \"100ms\"\n[web]\nlisten = \"127.0.0.1:{}\"\n",
            self.dir.path().join(group),
            self.broker.address(),
            free_port().unwrap()
        );
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    }

    async fn collector(&self, group: &str, archive: &Path) -> Collector {
        let config = self.config(group, archive);
        let frames = Frames::open(archive).await.unwrap();
        let mut hosts = HostsTable::open(archive).await.unwrap();
        let reader = Arc::new(Reader::new(archive));
        let newest = Arc::new(Newest::default());
        catch_up(&newest, &reader, Some(&mut hosts), &|| {}).await.unwrap();
        let archive = Archive { frames, hosts, reader };
        let (consumer, progress) = Consumer::new(config, group, archive, Arc::clone(&newest)).unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(consumer.run(stopped));
        Collector { task, stop, progress, newest }
    }

    fn produce(&self, partition: i32, values: &[Vec<u8>]) {
        for value in values {
            produce(&self.broker, TOPIC, partition, b"key", value).unwrap();
        }
    }

    async fn delete_topic(&self) {
        let admin: AdminClient<DefaultClientContext> = self.broker.client_config().create().unwrap();
        admin.delete_topics(&[TOPIC], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        eventually("the topic to be gone", || {
            look(&self.config("look", &self.archive()).kafka).unwrap().partitions.is_none()
        })
        .await;
    }

    async fn create_topic(&self) {
        create(&self.config("look", &self.archive()).kafka, 2, 1).await.unwrap();
    }
}

impl Collector {
    async fn archived(&mut self, count: u64) {
        let reached = self.progress.wait_for(|progress| progress.archived >= count);
        let progress = tokio::time::timeout(LIMIT, reached).await.unwrap().unwrap().clone();
        assert_eq!(progress.archived, count, "{progress:?}");
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the offsets in the archive by generation and partition, in order; a duplicate appears twice.
async fn offsets(archive: &Path) -> BTreeMap<(i32, i32), Vec<i64>> {
    let mut offsets: BTreeMap<(i32, i32), Vec<i64>> = BTreeMap::new();
    let reader = Reader::new(archive);
    reader
        .headers(0..i64::MAX, |header| {
            offsets
                .entry((header.partition.generation, header.partition.partition))
                .or_default()
                .push(header.place.offset);
        })
        .await
        .unwrap();
    offsets.values_mut().for_each(|of_partition| of_partition.sort_unstable());
    offsets
}

fn raw(n: u8, processes: u32) -> Vec<u8> {
    let processes = (1..=processes).map(|pid| edr_wire::snapshot::Process { pid, state: 'S', ..Default::default() });
    let snapshot = Snapshot {
        schema: 1,
        host: Host { host_id: HostId([n; 16]), hostname: format!("host-{n}"), ..Host::default() },
        agent: Agent::default(),
        time: Time::default(),
        processes: processes.collect(),
        ..Snapshot::default()
    };
    rmp_serde::to_vec_named(&snapshot).unwrap()
}

/// Returns the records of frames `seqs` of a host. Frame 1 is a key, the other frames are deltas against frame 1.
fn frames(n: u8, seqs: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    let frame = |seq| {
        let is_key = seq == 1;
        let header = FrameHeader {
            host_id: HostId([n; 16]),
            epoch: Epoch([n; 8]),
            seq,
            kind: if is_key { FrameKind::Key } else { FrameKind::Delta },
            base_seq: 1,
            boot_id: "boot".into(),
            previous_epoch: None,
            captured_ns: i64::try_from(seq).unwrap() * 10_000_000_000,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let key_raw = raw(n, 1);
        let raw = raw(n, u32::try_from(seq).unwrap());
        EncodedFrame::encode(&header, &raw, (!is_key).then_some(key_raw.as_slice()), 128).unwrap().records
    };
    seqs.flat_map(frame).collect()
}

fn span(count: usize) -> Vec<i64> {
    (0..i64::try_from(count).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_archived_once_through_kills_rivals_and_outages() {
    let Some(mut scene) = Scene::new() else { return };
    let archive = scene.archive();
    let kafka = scene.config("look", &archive).kafka;
    assert_eq!(look(&kafka).unwrap().partitions, None);
    // A waiting collector finds the topic once it is created.
    let mut collector = scene.collector("one", &archive).await;
    scene.create_topic().await;
    assert_eq!(look(&kafka).unwrap().partitions, Some(2));
    let mut findings = Findings::default();
    judge_topic(&kafka, &mut findings).await.unwrap();
    assert_eq!(findings.worst(), Level::Ok, "{findings:?}");
    may_read(&kafka, 2).unwrap();

    let mut sent = frames(1, 1..=3);
    scene.produce(0, &sent);
    collector.archived(sent.len() as u64).await;
    let host = HostId([1; 16]);
    assert_eq!(collector.newest.current(host).unwrap().newest.saved.seq, 3);
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
                collector.newest.current(host).is_some_and(|current| current.newest.saved.seq == seq)
            })
            .await;
        }
    }
    eventually("the last frame", || {
        collector.newest.current(host).is_some_and(|current| current.newest.saved.seq == 9)
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
                rival.newest.current(host).is_some_and(|current| current.newest.saved.seq >= seq - 1)
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
    let rows = answers.hosts().await.unwrap();
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
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.seq, 1);
    collector.stop().await;
    let reader = Reader::new(&archive);
    let log = edr_collectd::archive::PartitionName {
        cluster: look(&scene.config("look", &archive).kafka).unwrap().cluster,
        topic: TOPIC.into(),
        partition: 0,
        generation: 0,
    };
    assert_eq!(reader.record_at(&log, 0).await.unwrap().as_deref(), Some(b"no frame".as_slice()));
}

/// A small file system, unmounted when the value is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` when this process may not mount.
    fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "edr-test"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: mounting a small file system needs root");
        }
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_archive_and_loses_nothing() {
    let Some(scene) = Scene::new() else { return };
    let Some(disk) = SmallDisk::mount(scene.dir.path().join("disk")) else { return };
    let archive = disk.0.join("archive");
    scene.create_topic().await;
    let mut sent = frames(1, 1..=2);
    scene.produce(0, &sent);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(sent.len() as u64).await;

    let filler = disk.0.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    for seq in 3..=6 {
        let more = frames(1, seq..=seq);
        scene.produce(0, &more);
        sent.extend(more);
    }
    let troubled = collector.progress.wait_for(|progress| progress.trouble.is_some());
    let trouble = tokio::time::timeout(LIMIT, troubled).await.unwrap().unwrap().trouble.clone().unwrap();
    assert!(trouble.contains("space"), "{trouble}");
    // The page still shows the newest frame.
    eventually("the newest frame", || {
        collector.newest.current(HostId([1; 16])).is_some_and(|current| current.newest.saved.seq == 6)
    })
    .await;

    std::fs::remove_file(&filler).unwrap();
    collector.archived(sent.len() as u64).await;
    assert_eq!(collector.progress.borrow().trouble, None);
    collector.stop().await;
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));
}
