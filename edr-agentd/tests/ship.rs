//! Shipping against librdkafka's mock cluster, which answers with every broker error: no frame leaves the spool without
//! a positive report, and frames arrive in the order of their making.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use edr_agentd::config::{self, Config, ProducerConfig};
use edr_agentd::heartbeat::Heartbeat;
use edr_agentd::sample::{Framer, Moment, Shape};
use edr_agentd::ship::{Health, Shipper};
use edr_agentd::spool::{FrameId, Spool};
use edr_agentd::stop::Stop;
use edr_wire::HostId;
use edr_wire::frame::{Frame, Record};
use edr_wire::snapshot::{Host, Snapshot, encode_row};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TOPIC: &str = "edr.snapshots";
/// Far longer than every step of these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, a spool with frames, and the shipper's settings.
struct ShipperScene {
    cluster: MockCluster<'static, DefaultProducerContext>,
    _dir: tempfile::TempDir,
    spool: Arc<Spool>,
    health: Arc<Health>,
    kafka: ProducerConfig,
    sent: Vec<(FrameId, Vec<Vec<u8>>)>,
}

impl ShipperScene {
    fn new(frames: usize) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 4, 1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let settings = config::Spool { bytes_max: 64 << 20, free_bytes_min: 0 };
        let (spool, resume) = Spool::open(dir.path(), dir.path(), settings).unwrap();
        let spool = Arc::new(spool);
        let (mut framer, _) =
            Framer::start(Arc::clone(&spool), &resume, HostId([7; 16]), "boot", Duration::from_secs(3600));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut sent = Vec::new();
        for tick in 0..frames {
            let moment = Moment {
                host_id: HostId([7; 16]),
                boot_id: "boot".to_owned(),
                captured_ns: i64::try_from(now.as_nanos()).unwrap(),
                boottime: Duration::from_secs(tick as u64),
                bye: false,
            };
            let shape = Shape { key_interval: Duration::from_secs(3600), part_bytes_max: 700 };
            let host = Host { os: format!("{tick} {}", noise(tick as u64)), ..Host::default() };
            let raw = encode_row(&Snapshot { host, ..Snapshot::default() });
            let made = framer.frame(&moment, shape, &mut Vec::new(), |_| raw.clone()).unwrap();
            let stored = spool.load(made.id, Instant::now()).unwrap();
            sent.push((made.id, stored.records().map(<[u8]>::to_vec).collect()));
        }
        let kafka = ProducerConfig {
            brokers: vec![cluster.bootstrap_servers()],
            topic: TOPIC.to_owned(),
            message_timeout: Duration::from_secs(2),
            ..Config::default().kafka
        };
        Self { cluster, _dir: dir, spool, health: Arc::default(), kafka, sent }
    }

    /// Runs the shipper in a new thread during `script`.
    fn shipping(&self, script: impl FnOnce(&Self)) {
        let (stop, heartbeat) = (Stop::new().unwrap(), Heartbeat::default());
        let (stop, kafka) = (&stop, &self.kafka);
        let mut shipper = Shipper::new(Arc::clone(&self.spool), Arc::clone(&self.health), kafka.clone());
        std::thread::scope(|scope| {
            scope.spawn(move || shipper.run(stop, &heartbeat, || kafka.clone()));
            // Also when the script panics: the scope waits for the thread.
            let _ending = Ending(stop, &self.spool);
            script(self);
        });
    }

    fn errors(&self, error: RDKafkaRespErr, times: usize) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, &vec![error; times]);
    }

    /// Waits until the status contains `word`. Meanwhile no frame leaves the spool.
    fn in_trouble_with(&self, word: &str) {
        let started = Instant::now();
        loop {
            assert_eq!(
                self.spool.state().unsent_frames,
                self.sent.len() as u64,
                "a frame went without being delivered"
            );
            let words = self.health.in_words(Instant::now());
            if self.health.is_in_trouble() && words.contains(word) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{words:?} does not tell of {word:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn all_sent(&self) {
        assert!(self.spool.wait_until_sent(PATIENCE), "{}", self.health.in_words(Instant::now()));
        assert!(!self.health.is_in_trouble());
    }

    /// Checks that the topic has every frame of the spool, byte for byte, in the order of their making; repeated frames
    /// count at their first arrival.
    fn arrived_in_order(&self) {
        let got = self.arrived(self.sent.iter().map(|(_, records)| records.len()).sum());
        let sent = self.sent.iter().flat_map(|(id, records)| {
            records.iter().enumerate().map(|(part, record)| (*id, u32::try_from(part).unwrap(), record.clone()))
        });
        assert!(got == sent.collect::<Vec<_>>(), "other records, or in another order");
    }

    /// The first `wanted` records of the topic, without repeats.
    fn arrived(&self, wanted: usize) -> Vec<(FrameId, u32, Vec<u8>)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[TOPIC]).unwrap();
        let mut got: Vec<(FrameId, u32, Vec<u8>)> = Vec::new();
        let started = Instant::now();
        while got.len() < wanted {
            assert!(started.elapsed() < PATIENCE, "{} of {wanted} records", got.len());
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.unwrap();
            assert_eq!(message.key(), Some(HostId([7; 16]).to_string().as_bytes()));
            let record = Record::decode(message.payload().unwrap()).unwrap();
            let id = FrameId { epoch: record.header.epoch, seq: record.header.seq };
            if !got.iter().any(|(known, part, _)| *known == id && *part == record.part) {
                got.push((id, record.part, message.payload().unwrap().to_vec()));
            }
        }
        got
    }
}

struct Ending<'a>(&'a Stop, &'a Spool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.request();
        self.1.wake();
    }
}

fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    (0..3_000).map(next).collect()
}

#[test]
fn frames_of_many_parts_arrive_whole_and_in_order() {
    let scene = ShipperScene::new(40);
    assert!(scene.sent.iter().all(|(_, records)| records.len() >= 3));
    scene.shipping(ShipperScene::all_sent);
    scene.arrived_in_order();
}

#[test]
fn frames_of_larger_parts_are_cut_to_the_configured_size() {
    let mut scene = ShipperScene::new(5);
    scene.kafka.part_bytes_max = 300;
    scene.shipping(ShipperScene::all_sent);
    let decode = |record: &Vec<u8>| Record::decode(record).unwrap();
    let body = |records: Vec<Record>| Frame::assemble(records).unwrap().body;
    let bodies: Vec<Vec<u8>> =
        scene.sent.iter().map(|(_, records)| body(records.iter().map(decode).collect())).collect();
    let got = scene.arrived(bodies.iter().map(|body| body.len().div_ceil(300)).sum());
    assert!(got.iter().all(|(_, _, record)| decode(record).body.len() <= 300));
    for ((id, _), wanted) in scene.sent.iter().zip(bodies) {
        let parts = got.iter().filter(|(known, _, _)| known == id).map(|(_, _, record)| decode(record));
        assert!(body(parts.collect()) == wanted, "{id}");
    }
}

#[test]
fn errors_that_pass_cost_nothing() {
    use RDKafkaRespErr::*;
    for error in [
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        let scene = ShipperScene::new(6);
        scene.errors(error, 3);
        scene.shipping(ShipperScene::all_sent);
        scene.arrived_in_order();
    }
}

#[test]
fn a_refusal_keeps_every_frame_and_names_the_remedy() {
    use RDKafkaRespErr::*;
    for (error, word) in [
        (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "max.message.bytes"),
        (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "--operation Write"),
        (RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "--operation IdempotentWrite"),
        (RD_KAFKA_RESP_ERR_POLICY_VIOLATION, "policies"),
    ] {
        let scene = ShipperScene::new(4);
        scene.errors(error, 500);
        scene.shipping(|scene| {
            scene.in_trouble_with(word);
            scene.cluster.clear_request_errors(RDKafkaApiKey::Produce);
            scene.all_sent();
        });
        scene.arrived_in_order();
    }
}

#[test]
fn a_producer_with_a_fatal_error_is_made_anew() {
    use RDKafkaRespErr::*;
    for error in [
        RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ] {
        let scene = ShipperScene::new(6);
        scene.errors(error, 2);
        scene.shipping(ShipperScene::all_sent);
        scene.arrived_in_order();
    }
}

#[test]
fn a_topic_that_is_not_there_keeps_every_frame() {
    let scene = ShipperScene::new(3);
    scene.cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    scene.shipping(|scene| {
        scene.in_trouble_with("edr-collectd check --online --create-topic");
        scene.cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        scene.all_sent();
    });
    scene.arrived_in_order();
}

#[test]
fn a_broker_that_goes_and_comes_back_gets_everything_in_order() {
    let scene = ShipperScene::new(20);
    scene.cluster.broker_down(-1).unwrap();
    scene.shipping(|scene| {
        scene.in_trouble_with("no broker of");
        scene.cluster.broker_up(-1).unwrap();
        scene.all_sent();
    });
    scene.arrived_in_order();
}

#[test]
fn a_stop_during_an_outage_is_quick_and_leaves_the_spool_unchanged() {
    let scene = ShipperScene::new(5);
    scene.cluster.broker_down(-1).unwrap();
    let stopped = AtomicUsize::new(0);
    let mut started = Instant::now();
    scene.shipping(|_| {
        scene.in_trouble_with("no broker of");
        stopped.store(1, Ordering::Relaxed);
        started = Instant::now();
    });
    // The agent's limit is 5 s for everything.
    edr_tests::wait::within("a stop", Duration::from_secs(5), started.elapsed()).unwrap();
    assert_eq!(scene.spool.state().unsent_frames, 5);
}
