//! Reads records from Kafka into the archive, starting where the archive ends.
//!
//! One loop owns the consumer, the current batch, and the commit under way. Promises:
//! - A partition starts at the archive's position, never at the group's offset. The record before the position is
//!   compared with the archived record, because a recreated topic has the same name ([`position`]).
//! - Memory is bounded: a batch in the commit, a batch that fills, and librdkafka's fetch buffer. When the batch is
//!   full and the commit is still running, partitions are paused. Kafka is still polled, so that the group does not
//!   expel a collector with a slow disk.
//! - When a commit of another collector wins, the current batch is dropped and reading restarts at the archive's
//!   position. A failed commit is retried until success; before each retry the archive shows whether the commit was
//!   made in spite of the failure.
//!
//! This module decodes records, but no snapshots.

mod batch;
mod client;
mod commit;
mod position;
mod start;
mod topic;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edr_daemon::secret::Stamp;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::Instant;

use self::batch::Batch;
use self::client::{Client, Event};
use self::commit::{Committed, finished};
pub use self::topic::{PARTITIONS, Topic, allow_command, command, create, judge_topic, look, may_read};
use self::trouble::{Judged, Told};
use crate::archive::{ArchivedHeader, Frames, HostsTable, PartitionName, Reader, Row};
use crate::config::Config;
use crate::decode::decode;
use crate::event::Event as Said;
use crate::newest::Newest;

/// Interval between two saves of the hosts; a start reads all records of `frames` received after the last save.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between two removals of the files of earlier saves.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3_600);
/// First and longest delay of a retry after a failure of store or broker.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Timeout for a broker's answer about cluster and offsets.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Age, in ns, at which an incomplete frame stops limiting the coverage of a save.
const WAITING_NS_MAX: i64 = 600_000_000_000;
/// Longest time between two turns of the loop.
const BEAT: Duration = Duration::from_secs(1);
/// Time limit for closing the client.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Time limit for the last commit at a stop.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Progress of the consumer, for status and pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records archived since the start.
    pub archived: u64,
    /// Archived records with a fault.
    pub faults: u64,
    /// Number of partitions being read.
    pub partitions: usize,
    /// The failure of reading or archiving, if any.
    pub trouble: Option<String>,
    /// Commits made.
    pub commits: u64,
    /// Duration of the last commit.
    pub commit: Duration,
}

/// The consumer's access to the archive.
#[derive(Debug)]
pub struct Archive {
    /// The table of records, to write.
    pub frames: Frames,
    /// The table of hosts, to save.
    pub hosts: HostsTable,
    /// The reader, for comparison with archived records.
    pub reader: Arc<Reader>,
}

/// The Kafka consumer.
pub struct Consumer {
    config: Config,
    /// Name of this member in the group.
    instance: String,
    client: Arc<Client>,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    /// The current configuration, if changes are followed.
    settings: Option<watch::Receiver<Config>>,
    /// Stamp of the client's files with secrets and certificates.
    stamp: Stamp,
    told: Told,
    newest: Arc<Newest>,
    reader: Arc<Reader>,
    hosts: HostsTable,
    /// `None` while a commit is under way: the commit owns the table then.
    frames: Option<Frames>,
    commit: Option<Pin<Box<dyn Future<Output = Committed> + Send>>>,
    batch: Batch,
    /// The logs being read, by partition number.
    reading: BTreeMap<i32, Reading>,
    /// Partitions with a log that differs from the archived log.
    replaced: BTreeSet<i32>,
    /// Partitions waiting for a start, and the moment of the next attempt.
    waiting: Option<(Vec<i32>, Instant)>,
    /// Position after the last archived record of each log.
    archived: BTreeMap<PartitionName, i64>,
    paused: bool,
    last_received_ns: i64,
    save_at: Instant,
    clean_at: Instant,
    backoff: Duration,
    progress: watch::Sender<Progress>,
    /// Turns of the loop, for the watchdog.
    beats: Arc<AtomicU64>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("reading", &self.reading).finish_non_exhaustive()
    }
}

/// A log being read.
#[derive(Debug)]
struct Reading {
    name: PartitionName,
    /// The next offset to archive.
    next: i64,
    /// The archived bytes of the record before `next`, until the comparison with Kafka's record.
    proof: Option<Vec<u8>>,
}

impl Consumer {
    /// Makes and subscribes a consumer; reading begins with [`run`](Self::run). `instance` is the member's name in the
    /// group and must be the same at every start.
    ///
    /// # Errors
    /// When the client cannot be made. An unreachable broker is not an error.
    pub fn new(
        config: Config,
        instance: &str,
        archive: Archive,
        newest: Arc<Newest>,
    ) -> anyhow::Result<(Self, watch::Receiver<Progress>)> {
        let (sender, events) = unbounded_channel();
        let stamp = config.kafka.security.stamp();
        let client = Arc::new(client::subscribe(&config.kafka, instance, sender.clone())?);
        let (progress, seen) = watch::channel(Progress::default());
        let consumer = Self {
            config,
            instance: instance.to_owned(),
            client,
            events,
            sender,
            settings: None,
            stamp,
            told: Told::default(),
            newest,
            reader: archive.reader,
            hosts: archive.hosts,
            frames: Some(archive.frames),
            commit: None,
            batch: Batch::default(),
            reading: BTreeMap::new(),
            replaced: BTreeSet::new(),
            waiting: None,
            archived: BTreeMap::new(),
            paused: false,
            last_received_ns: 0,
            save_at: Instant::now() + SAVE_INTERVAL,
            clean_at: Instant::now() + CLEAN_INTERVAL,
            backoff: BACKOFF.0,
            progress,
            beats: Arc::default(),
        };
        Ok((consumer, seen))
    }

    /// Follows `settings`: changes of the Kafka settings take effect while the consumer runs, other changes do not.
    #[must_use]
    pub fn follow(mut self, settings: watch::Receiver<Config>) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Returns a counter that grows as long as the consumer is alive, idle or not.
    pub fn beats(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.beats)
    }

    /// Reads and archives until `stop` is true; then commits the current batch and saves the hosts.
    ///
    /// # Errors
    /// When librdkafka reports a fatal error: this client never reads again.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut result = Ok(());
        let mut client = Arc::clone(&self.client);
        let mut beat = tokio::time::interval(BEAT);
        while !*stop.borrow() {
            if self.is_outdated() {
                client = self.renew(client).await;
            }
            self.beats.fetch_add(1, Ordering::Relaxed);
            let commit_at = self.commit_at();
            let start_at = self.waiting.as_ref().map(|(_, at)| *at);
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                Some(event) = self.events.recv() => self.rebalanced(event).await,
                () = sleep_until(start_at), if self.commit.is_none() => self.start().await,
                committed = finished(&mut self.commit) => self.committed(committed).await,
                () = sleep_until(commit_at) => self.begin_commit(),
                _ = beat.tick() => {
                    result = self.is_able();
                    if result.is_err() {
                        break;
                    }
                }
                message = client.recv() => self.received(message).await,
            }
        }
        self.finish().await;
        drop(client);
        close(self.client).await;
        result
    }

    /// Returns true when the Kafka settings, or a file with a secret or a certificate, have changed since the client
    /// was made.
    fn is_outdated(&self) -> bool {
        let kafka = &self.config.kafka;
        self.settings.as_ref().is_some_and(|settings| settings.borrow().kafka != *kafka)
            || kafka.security.stamp() != self.stamp
    }

    /// Replaces the client after a change of settings, certificates or secrets; partitions then start again where the
    /// archive ends. Invalid files leave the old client in place: the administrator may still be writing them.
    async fn renew(&mut self, old: Arc<Client>) -> Arc<Client> {
        if let Some(settings) = &self.settings {
            self.config.kafka = settings.borrow().kafka.clone();
        }
        self.stamp = self.config.kafka.security.stamp();
        if let Err(error) = client::settings(&self.config.kafka) {
            edr_daemon::limited!(
                log::Level::Error, Said::SecretsRefused, EDR_SOURCE = "consume";
                "settings for Kafka changed and do not do; the old ones stay: {error}"
            );
            return old;
        }
        edr_daemon::event!(
            log::Level::Info, Said::SecretsRenewed, EDR_SOURCE = "consume";
            "settings, certificates or secrets for Kafka changed; connecting with the new ones"
        );
        let (sender, events) = unbounded_channel();
        let made = client::subscribe(&self.config.kafka, &self.instance, sender.clone());
        let made = match made {
            Ok(made) => Arc::new(made),
            Err(error) => {
                edr_daemon::limited!(log::Level::Error, Said::SecretsRefused, EDR_SOURCE = "consume"; "make a Kafka client: {error}; the old one stays");
                return old;
            }
        };
        drop(old);
        (self.events, self.sender, self.told) = (events, sender, Told::default());
        close(std::mem::replace(&mut self.client, Arc::clone(&made))).await;
        self.rebalanced(Event::Revoked).await;
        self.trouble(None);
        made
    }

    /// Handles an unusable broker: explains the reason at once, or on a thread that may block.
    fn troubled(&mut self, reason: String) {
        match self.told.judge(reason, &self.config.kafka) {
            Judged::Known(event, words) => self.in_trouble(event, words),
            Judged::Asked => {}
            Judged::Ask(ask) => {
                let sender = self.sender.clone();
                tokio::task::spawn_blocking(move || {
                    // Sending fails when the collector stops or has replaced the client; ignored.
                    let _ = sender.send(Event::InWords(ask.words()));
                });
            }
        }
    }

    fn in_trouble(&mut self, event: Said, words: String) {
        edr_daemon::limited!(log::Level::Warn, event, EDR_SOURCE = "consume"; "Kafka: {words}; it is tried again until it answers");
        self.trouble(Some(words));
    }

    /// Fails when librdkafka has reported a fatal error: the client receives nothing more.
    fn is_able(&self) -> anyhow::Result<()> {
        match self.client.client().fatal_error() {
            None => Ok(()),
            Some((RDKafkaErrorCode::FencedInstanceId, _)) => anyhow::bail!(
                "another collector joined group {} under the name of this one, {}: it has the same instance-id in its \
                 state-dir; remove that file from the one that is a copy",
                self.config.kafka.group,
                self.instance
            ),
            Some((_, reason)) => anyhow::bail!("the Kafka client gave up for good: {reason}"),
        }
    }

    /// Returns when the next commit begins: at once for a full batch, otherwise when the oldest row has waited for the
    /// commit interval.
    fn commit_at(&self) -> Option<Instant> {
        if self.commit.is_some() || self.frames.is_none() {
            return None;
        }
        let due = self.batch.since? + self.config.archive.commit_interval;
        Some(if self.is_full() { Instant::now() } else { due })
    }

    fn is_full(&self) -> bool {
        self.batch.bytes >= self.config.archive.batch_bytes_max
    }

    async fn rebalanced(&mut self, event: Event) {
        match event {
            Event::Trouble(reason) => self.troubled(reason),
            Event::InWords(words) => {
                self.told.words.clone_from(&words);
                self.in_trouble(Said::KafkaRefuses, words);
            }
            Event::Assigned(partitions) => self.waiting = Some((partitions, Instant::now())),
            Event::Revoked => {
                // The next owner of the partitions starts where the archive ends, so the batch is committed as soon as
                // possible. If the next owner commits first, this commit is refused.
                self.waiting = None;
                if self.commit.is_none() && !self.batch.is_empty() {
                    self.begin_commit();
                }
                self.reading.clear();
                self.archived.clear();
                self.report();
            }
        }
    }

    async fn received(&mut self, message: Result<BorrowedMessage<'_>, KafkaError>) {
        match message {
            Ok(message) => {
                if self.progress.borrow().trouble.is_some() {
                    self.trouble(None);
                }
                self.add(&message);
            }
            // Kafka no longer has the requested offset: the record was deleted meanwhile, or the topic was recreated.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => self.restart(),
            Err(error) if !error.rdkafka_error_code().is_none_or(client::is_answer) => {}
            Err(error) => {
                let topic = &self.config.kafka.topic;
                let remedy = match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                        "; make it with `edr-collectd check --online --create-topic`".to_owned()
                    }
                    _ => trouble::remedy(&error, &self.config.kafka),
                };
                edr_daemon::limited!(log::Level::Warn, Said::KafkaRefuses, EDR_SOURCE = "consume"; "read topic {topic}: {error}{remedy}");
                self.trouble(Some(format!("{error}{remedy}")));
            }
        }
        if self.is_full() && !self.paused && self.commit.is_some() {
            self.pause(true);
        }
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) {
        let (number, offset) = (message.partition(), message.offset());
        // Records fetched before a restart or a rebalance are discarded.
        let Some(reading) = self.reading.get_mut(&number) else { return };
        if self.waiting.is_some() {
            return;
        }
        let proof = reading.proof.take();
        if offset < reading.next {
            if offset + 1 == reading.next && proof.is_some_and(|proof| message.payload() != Some(&proof)) {
                self.replaced.insert(number);
                self.restart();
            }
            return;
        }
        if offset > reading.next {
            edr_daemon::limited!(
                log::Level::Warn, Said::RecordsGone, EDR_SOURCE = "consume";
                "{}: Kafka has no records at offsets {} to {}",
                reading.name,
                reading.next,
                offset - 1
            );
        }
        reading.next = offset + 1;
        let partition = reading.name.clone();
        let received_ns = self.now_ns();
        let content = match message.payload() {
            None => Err("no value".to_owned()),
            Some(bytes) => decode(bytes),
        };
        let row = Row {
            offset,
            kafka_timestamp_ms: message.timestamp().to_millis(),
            received_ns,
            key: message.key().map(<[u8]>::to_vec),
            record: message.payload().map(<[u8]>::to_vec),
            content: content.as_ref().map(ArchivedHeader::from).map_err(Clone::clone),
            partition,
        };
        match content {
            Ok(record) => self.newest.offer(&row.partition, row.place(), record),
            Err(fault) => edr_daemon::limited!(
                log::Level::Warn, Said::NoFrame, EDR_SOURCE = "decode";
                "{} offset {offset} is no frame: {fault}; it is archived with its fault",
                row.partition
            ),
        }
        self.batch.add(row);
    }

    /// Returns the collector's clock, ns since the epoch. After the clock was set back, the next commit saves the
    /// hosts, because a start finds the records after a save by their times.
    fn now_ns(&mut self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        if now_ns < self.last_received_ns {
            self.save_at = Instant::now();
        }
        self.last_received_ns = now_ns;
        now_ns
    }

    fn pause(&mut self, pause: bool) {
        let result = self.client.assignment().and_then(|assignment| {
            if pause { self.client.pause(&assignment) } else { self.client.resume(&assignment) }
        });
        match result {
            Ok(()) => self.paused = pause,
            Err(error) => edr_daemon::limited!(log::Level::Warn, "pause or resume reading: {error}"),
        }
    }

    fn next_backoff(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF.1);
        pause
    }

    fn trouble(&self, reason: Option<String>) {
        self.progress.send_modify(|progress| progress.trouble = reason);
    }

    fn report(&self) {
        let partitions = self.reading.len();
        self.progress.send_modify(|progress| progress.partitions = partitions);
    }
}

/// Closes a client, or abandons the client after [`CLOSE_MAX`]: closing waits for a broker, perhaps in vain.
async fn close(client: Arc<Client>) {
    let close = tokio::task::spawn_blocking(move || drop(client));
    if tokio::time::timeout(CLOSE_MAX, close).await.is_err() {
        log::debug!("the Kafka client did not close in time");
    }
}

/// Waits until a moment; forever when there is none.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
