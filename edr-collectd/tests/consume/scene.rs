//! A broker, collectors without the page in this process, and the content of their archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_archive::{Frames, HostsTable, Reader};
use edr_collectd::config::Config;
use edr_collectd::consume::{
    ArchiveAccess, Consumer, DerivedStore, DerivedTables, Progress, Schedule, Vitals, create, look,
};
use edr_collectd::newest::{Newest, catch_up};
use edr_tests::cache::cached;
use edr_tests::kafka::{Broker, More, free_port};
use edr_tests::topic::produce;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time limit; on an idle machine every step takes less than a second.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
pub(crate) const TOPIC: &str = "edr.snapshots";

/// A folder with a broker.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) broker: Broker,
}

/// A collector without the page, in this process.
pub(crate) struct Collector {
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) newest: Arc<Newest>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Scene {
    /// `None` when Kafka cannot run here.
    pub(crate) fn new() -> Option<Self> {
        Self::with(&More::default())
    }

    /// A broker with more settings.
    pub(crate) fn with(more: &More) -> Option<Self> {
        if let Err(why) = cached("kafka") {
            println!("skipped: {why}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Broker::prepare_with(&dir.path().join("kafka"), more).unwrap();
        broker.resume().unwrap();
        Some(Self { dir, broker })
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    pub(crate) fn config(&self, group: &str, archive: &Path) -> Config {
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

    pub(crate) async fn collector(&self, group: &str, archive: &Path) -> Collector {
        let derived = DerivedTables::open(archive).await.unwrap();
        self.collector_saving(group, archive, derived, Schedule::default()).await
    }

    /// Starts a collector that saves its hosts and does upkeep in `derived`.
    pub(crate) async fn collector_saving<S: DerivedStore>(
        &self,
        group: &str,
        archive: &Path,
        derived: S,
        schedule: Schedule,
    ) -> Collector {
        let config = self.config(group, archive);
        let frames = Frames::open(archive).await.unwrap();
        let mut saved = HostsTable::open(archive).await.unwrap();
        let reader = Arc::new(Reader::new(archive));
        let newest = Arc::new(Newest::default());
        catch_up(&newest, &reader, Some(&mut saved), &|| {}).await.unwrap();
        let archive = ArchiveAccess { frames, reader, saved, derived, schedule };
        let consumer = Consumer::new(&config, group, archive, Arc::clone(&newest)).unwrap();
        let (progress, vitals) = (consumer.progress(), consumer.vitals());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(consumer.run(stopped));
        Collector { task, stop, progress, newest, vitals }
    }

    pub(crate) fn produce(&self, partition: i32, values: &[Vec<u8>]) {
        for value in values {
            produce(&self.broker, TOPIC, partition, b"key", value).unwrap();
        }
    }

    pub(crate) async fn delete_topic(&self) {
        let admin: AdminClient<DefaultClientContext> = self.broker.client_config().create().unwrap();
        admin.delete_topics(&[TOPIC], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        eventually("the topic to be gone", || {
            look(&self.config("look", &self.archive()).kafka).unwrap().partitions.is_none()
        })
        .await;
    }

    pub(crate) async fn create_topic(&self) {
        create(&self.config("look", &self.archive()).kafka, 2, 1).await.unwrap();
    }
}

impl Collector {
    pub(crate) async fn archived(&mut self, count: u64) {
        let reached = self.progress.wait_for(|progress| progress.published >= count);
        let progress = tokio::time::timeout(LIMIT, reached).await.unwrap().unwrap().clone();
        assert_eq!((progress.archived, progress.published), (count, count), "{progress:?}");
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Watches the collector, and fails when Kafka is not polled for two seconds: the loop turns once a second.
    pub(crate) async fn polls_for(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            let silence = self.vitals.poll.silence().unwrap();
            edr_tests::wait::within("a turn of the poll loop", Duration::from_secs(2), silence).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) async fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the offsets in the archive by generation and partition, in order; a duplicate appears twice.
pub(crate) async fn offsets(archive: &Path) -> BTreeMap<(i32, i32), Vec<i64>> {
    let mut offsets: BTreeMap<(i32, i32), Vec<i64>> = BTreeMap::new();
    let reader = Reader::new(archive);
    reader
        .rows(0..i64::MAX, |row| {
            offsets.entry((row.partition.generation, row.partition.partition)).or_default().push(row.place.offset);
        })
        .await
        .unwrap();
    offsets.values_mut().for_each(|of_partition| of_partition.sort_unstable());
    offsets
}

pub(crate) fn span(count: usize) -> Vec<i64> {
    (0..i64::try_from(count).unwrap()).collect()
}
