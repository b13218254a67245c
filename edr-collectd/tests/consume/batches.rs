//! Batches of Kafka that any client can write, and damage on the disk of a broker, neither end the collector nor stop
//! it: all frames around them are archived and shown.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use edr_archive::{PartitionName, Reader};
use edr_collectd::consume::look;
use edr_tests::batch::{Codec, TestBatch, produce_batch};
use edr_tests::kafka::More;
use edr_tests::topic::produce;
use edr_wire::HostId;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::frames::frames;
use crate::scene::{Collector, LIMIT, Scene, TOPIC, eventually};

/// The most memory, bytes, that this process may need beside the memory at the start of a test: less than half of the
/// collector's `MemoryMax`, and less than one bomb unfolded. This process also makes the batches, and runs other tests.
const MEMORY_MAX: u64 = 768 << 20;

/// Returns a number of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Runs a collector on a topic of two partitions, writes `attacks` to partition 0, and between them frames of host 1;
/// host 2 sends to partition 1. Returns the collector after all frames and `rows` rows of the attacks are archived.
async fn attacked(scene: &Scene, attacks: &[Vec<u8>], rows: usize) -> Collector {
    let mut collector = scene.collector("one", &scene.archive()).await;
    let mut sent = rows;
    for (seq, attack) in (1..).zip(attacks) {
        produce_batch(&scene.broker, TOPIC, 0, attack).unwrap();
        for (partition, host) in [(0, 1), (1, 2)] {
            let frame = frames(host, seq..=seq);
            scene.produce(partition, &frame);
            sent += frame.len();
        }
    }
    for host in [1, 2] {
        eventually("the newest frame", || seq(&collector, host) == Some(attacks.len() as u64)).await;
    }
    collector.archived(sent as u64).await;
    collector
}

/// Returns the sequence number of the newest frame of a host.
fn seq(collector: &Collector, host: u8) -> Option<u64> {
    collector.newest.current(HostId([host; 16])).map(|current| current.newest.saved.frame.key.seq)
}

/// Returns what the archive has at an offset of partition 0.
async fn record_at(scene: &Scene, offset: i64) -> Option<Vec<u8>> {
    let cluster = look(&scene.config("look", &scene.archive()).kafka).unwrap().cluster;
    let log = PartitionName { cluster, topic: TOPIC.into(), partition: 0, generation: 0 };
    Reader::new(&scene.archive()).record_at(&log, offset).await.unwrap()
}

/// Returns the first segment of partition 0.
fn segment(scene: &Scene) -> PathBuf {
    scene.dir.path().join(format!("kafka/data/{TOPIC}-0/00000000000000000000.log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_unfolds_to_a_gigabyte_costs_little_and_stops_nobody() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let zeros = vec![0; 1_000_000];
    let large = |codec, count| TestBatch::repeated(Some(&zeros), count).codec(codec).encode();
    let small = |codec, count| TestBatch::repeated(None, count).null_key().codec(codec).encode();
    let bombs = [
        large(Codec::Gzip, 950),
        large(Codec::Lz4, 220),
        large(Codec::Snappy, 18),
        large(Codec::SnappyJava, 18),
        large(Codec::Zstd, 950),
        small(Codec::Gzip, 200_000),
        small(Codec::Zstd, 200_000),
        large(Codec::Gzip, 950),
    ];
    for bomb in &bombs {
        assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    }
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let collector = attacked(&scene, &bombs, bombs.len()).await;
    let needed = memory("VmHWM").saturating_sub(before);
    assert!(needed < MEMORY_MAX, "{} MiB", needed >> 20);

    let progress = collector.progress.borrow().clone();
    assert_eq!(progress.faults, bombs.len() as u64);
    assert_eq!(progress.unreadable, bombs.len() as u64);
    let trouble = progress.trouble().unwrap();
    assert!(trouble.contains("cannot be read") && trouble.contains("of gzip unfold to more than"), "{trouble}");
    // The archive has the batch as Kafka stores it: the records, after a header with the offset.
    assert_eq!(record_at(&scene, 0).await.unwrap()[61..], bombs[0][61..]);

    // A start continues behind the batches.
    collector.stop().await;
    let mut collector = scene.collector("one", &scene.archive()).await;
    let more = frames(1, 9..=10);
    scene.produce(0, &more);
    collector.archived(more.len() as u64).await;
    assert_eq!(seq(&collector, 1), Some(10));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_tiny_records_cost_little_memory() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let tiny = TestBatch::repeated(None, 100_000).null_key().encode();
    let attacks = vec![tiny; 10];
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let collector = attacked(&scene, &attacks, 1_000_000).await;
    let needed = memory("VmHWM").saturating_sub(before);
    assert!(needed < MEMORY_MAX, "{} MiB", needed >> 20);
    assert_eq!(collector.progress.borrow().unreadable, 0);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_every_codec_are_archived() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let mut collector = scene.collector("one", &scene.archive()).await;
    let mut sent = 0;
    for (seq, codec) in (1..).zip(Codec::ALL) {
        let records = frames(1, seq..=seq);
        produce_batch(&scene.broker, TOPIC, 0, &TestBatch::new(&records).codec(codec).encode()).unwrap();
        sent += records.len();
    }
    collector.archived(sent as u64).await;
    assert_eq!(seq(&collector, 1), Some(Codec::ALL.len() as u64));
    assert_eq!((collector.progress.borrow().faults, collector.progress.borrow().trouble()), (0, None));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_and_records_without_key_and_value_stop_nobody() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let frame = &frames(3, 1..=1)[0];
    let attacks = [
        TestBatch::new([frame]).header(vec![b'h'; 900_000]).encode(),
        TestBatch::repeated(None, 3).null_key().encode(),
        TestBatch::repeated(None, 3).null_key().codec(Codec::Gzip).encode(),
        TestBatch::repeated(Some(b""), 3).null_key().encode(),
    ];
    let collector = attacked(&scene, &attacks, 10).await;
    assert_eq!(collector.progress.borrow().faults, 9);
    assert_eq!(record_at(&scene, 0).await.as_ref(), Some(frame));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_damaged_on_the_brokers_disk_is_passed_over() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    // Two batches of three records in partition 0, then a frame.
    let batch = TestBatch::new([b"one", b"two", b"six"]).encode();
    for _ in 0..2 {
        produce_batch(&scene.broker, TOPIC, 0, &batch).unwrap();
    }
    let frame = frames(1, 1..=1);
    scene.produce(0, &frame);
    // The first batch gets a wrong checksum, the second a codec that does not exist, with a right checksum.
    let file = OpenOptions::new().write(true).open(segment(&scene)).unwrap();
    let damaged_at = batch.len() as u64 - 2;
    file.write_all_at(b"?", damaged_at).unwrap();
    let other = TestBatch::new([b"one", b"two", b"six"]).attributes(7).encode();
    file.write_all_at(&other[17..], batch.len() as u64 + 17).unwrap();

    let other_host = frames(2, 1..=1);
    scene.produce(1, &other_host);
    let mut collector = scene.collector("one", &scene.archive()).await;
    collector.archived((2 + frame.len() + other_host.len()) as u64).await;
    assert_eq!((seq(&collector, 1), seq(&collector, 2)), (Some(1), Some(1)));
    let progress = collector.progress.borrow().clone();
    assert_eq!((progress.unreadable, progress.faults), (2, 2));
    let trouble = progress.trouble().unwrap();
    assert!(trouble.contains("offsets 3 to 5 cannot be read: the batch has codec 7"), "{trouble}");
    assert_eq!(record_at(&scene, 0).await.unwrap().len(), batch.len());
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_delay_nothing_and_their_marks_are_no_loss() {
    let Some(scene) = Scene::new() else { return };
    scene.create_topic().await;
    let mut collector = scene.collector("one", &scene.archive()).await;
    let producer: BaseProducer = scene.broker.client_config().set("transactional.id", "attack").create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    let mut sent = 0;
    for (seq, is_aborted) in [(1, true), (2, false), (3, true)] {
        producer.begin_transaction().unwrap();
        for partition in [0, 1] {
            producer.send(BaseRecord::<(), _>::to(TOPIC).partition(partition).payload(b"x")).unwrap();
        }
        producer.flush(LIMIT).unwrap();
        sent += 2;
        // The transaction is open: frames behind its records arrive all the same.
        for (partition, host) in [(0, 1), (1, 2)] {
            let frame = frames(host, seq..=seq);
            scene.produce(partition, &frame);
            sent += frame.len() as u64;
        }
        collector.archived(sent).await;
        assert_eq!((seq_of(&collector, 1), seq_of(&collector, 2)), (seq, seq));
        if is_aborted {
            producer.abort_transaction(LIMIT).unwrap();
        } else {
            producer.commit_transaction(LIMIT).unwrap();
        }
    }
    // A start right behind a mark.
    collector.stop().await;
    let mut collector = scene.collector("one", &scene.archive()).await;
    let frame = frames(1, 4..=4);
    scene.produce(0, &frame);
    collector.archived(frame.len() as u64).await;
    assert_eq!(collector.progress.borrow().trouble(), None);
    collector.stop().await;
}

fn seq_of(collector: &Collector, host: u8) -> u64 {
    seq(collector, host).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_of_compaction_are_passed_over() {
    let more = More { properties: "log.cleaner.backoff.ms=100\n".to_owned(), ..More::default() };
    let Some(scene) = Scene::with(&more) else { return };
    let admin: AdminClient<DefaultClientContext> = scene.broker.client_config().create().unwrap();
    let topic = NewTopic::new(TOPIC, 2, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "200")
        .set("min.cleanable.dirty.ratio", "0.001")
        .set("max.compaction.lag.ms", "200");
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // All records have the same key; a compacted segment keeps only the last.
    let old = TestBatch::repeated(Some(&[0; 10_000]), 5).encode();
    for _ in 0..4 {
        produce_batch(&scene.broker, TOPIC, 0, &old).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The parts of the frames have keys of their own, so that they stay.
    let send = |seq| {
        let parts = frames(1, seq..=seq);
        for (part, record) in parts.iter().enumerate() {
            produce(&scene.broker, TOPIC, 0, format!("{seq} {part}").as_bytes(), record).unwrap();
        }
        parts.len() as u64
    };
    send(1);
    let folder = segment(&scene).parent().unwrap().to_owned();
    let size = || {
        let logs = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        // A file may vanish meanwhile.
        logs.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>()
    };
    eventually("the compaction", || size() < old.len() as u64).await;

    produce(&scene.broker, TOPIC, 1, b"2", &frames(2, 1..=1)[0]).unwrap();
    let mut collector = scene.collector("one", &scene.archive()).await;
    eventually("the newest frame", || seq(&collector, 1) == Some(1)).await;
    let faults = collector.progress.borrow().faults;
    assert!(faults < 20, "{faults} of 20 records are there");
    assert_eq!(collector.progress.borrow().unreadable, 0);
    let archived = collector.progress.borrow().archived;
    let more = send(2);
    collector.archived(archived + more).await;
    collector.stop().await;
}
