//! Stage 1: takes records from Kafka and fills batches.
//!
//! The loop turns at least once a second. Each wait of the loop is a wait for a channel or for the clock; requests that
//! wait for a broker run on threads that may block, and their answers come as events.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use edr_archive::decode::decode;
use edr_archive::{PartitionName, ReceivedRecord};
use edr_wire::frame::Record;
use rdkafka::error::KafkaError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::Filling;
use super::client::Event;
use super::connection::{Connection, KafkaFailure};
use super::fetch::{Fetched, FetchedPart, UnreadableBatch};
use super::logs::{Arrival, Log, Logs};
use super::message::{CommitOrder, Reply};
use super::record_batch::FetchedRecord;
use super::start::PendingStart;
use super::{Progress, STOP_MAX, Vitals, now_ns, sleep_until};
use crate::config;
use crate::event::Event as Said;

/// Longest time between two turns of the loop.
const BEAT: Duration = Duration::from_secs(1);
/// How long an unreadable batch of Kafka is shown as trouble.
const UNREADABLE_SHOWN: Duration = Duration::from_secs(600);

/// The first stage.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) connection: Connection,
    logs: Logs,
    start: PendingStart,
    filling: Filling,
    /// Records in batches that were sent and are not archived yet.
    sent: usize,
    /// When the last unreadable batch of Kafka came, while the batch is shown.
    unreadable_at: Option<Instant>,
    orders: mpsc::Sender<CommitOrder>,
    replies: mpsc::Receiver<Reply>,
    progress: watch::Sender<Progress>,
    vitals: Arc<Vitals>,
}

impl Poll {
    pub(super) fn new(
        connection: Connection,
        archive: &config::Archive,
        orders: mpsc::Sender<CommitOrder>,
        replies: mpsc::Receiver<Reply>,
        progress: watch::Sender<Progress>,
        vitals: Arc<Vitals>,
    ) -> Self {
        Self {
            connection,
            logs: Logs::default(),
            start: PendingStart::default(),
            filling: Filling::new(archive.commit_interval, archive.batch_bytes_max),
            sent: 0,
            unreadable_at: None,
            orders,
            replies,
            progress,
            vitals,
        }
    }

    /// Runs until `stop` is true; then sends the last batch and waits for the commits, within [`STOP_MAX`]. `ending`
    /// becomes true when no more records are taken.
    ///
    /// # Errors
    /// When librdkafka reports a fatal error, or the next stage ended.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        ending: watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let mut client = self.connection.client();
        let mut beat = tokio::time::interval(BEAT);
        let mut result = Ok(());
        while result.is_ok() && !*stop.borrow() {
            self.vitals.poll.sign();
            let (due, ask_at) = (self.due(), self.start.ask_at());
            tokio::select! {
                biased;
                changed = stop.changed() => if changed.is_err() { break },
                Some(event) = self.connection.events.recv() => self.heard(event),
                Some(reply) = self.replies.recv() => self.replied(reply),
                () = sleep_until(ask_at) => self.ask(),
                room = room(self.orders.clone(), due) => result = room.map(|room| self.send(room)),
                _ = beat.tick() => {
                    self.count();
                    self.forget_unreadable();
                    result = self.connection.check();
                    if self.connection.is_outdated() && self.connection.renew() {
                        client = self.connection.client();
                        self.revoked();
                        self.kafka_trouble(None);
                    }
                }
                // Only errors come: the client's partitions are paused.
                message = client.recv() => if let Err(error) = message { self.failed(&error) },
                Some(fetched) = self.connection.fetched.recv(), if !self.filling.is_full() => self.received(fetched),
            }
        }
        drop(client);
        ending.send_replace(true);
        self.finish().await;
        result
    }

    /// Returns when the next order is to be sent. A start follows the records received before the start.
    fn due(&self) -> Option<Instant> {
        if self.start.has_order() { Some(Instant::now()) } else { self.filling.due() }
    }

    /// Sends the next order.
    fn send(&mut self, room: mpsc::OwnedPermit<CommitOrder>) {
        if self.filling.len() > 0 {
            self.sent += self.filling.len();
            room.send(CommitOrder::Archive(self.filling.take()));
        } else if let Some(order) = self.start.take_order() {
            room.send(CommitOrder::Start(order));
        }
    }

    /// Handles an event of the client.
    fn heard(&mut self, event: Event) {
        match event {
            Event::Trouble(reason) => {
                let told = self.connection.explain(reason);
                self.told(told);
            }
            Event::InWords(words) => {
                let told = self.connection.explained(words);
                self.told(Some(told));
            }
            Event::Assigned(partitions) => {
                self.connection.stop_reading();
                self.logs.stop();
                self.start.begin(partitions);
            }
            Event::Revoked => self.revoked(),
            Event::Ends { round, answer: Ok(ends) } => {
                self.start.answered(round, self.connection.topic(), ends, &self.logs.replaced);
            }
            Event::Ends { round, answer: Err(reason) } if self.start.is_current(round) => {
                edr_daemon::limited!(
                    log::Level::Warn,
                    Said::KafkaAway,
                    EDR_SOURCE = "consume",
                    "start reading: {reason}; trying again"
                );
                self.kafka_trouble(Some(reason));
                self.start.failed();
            }
            Event::Ends { .. } => {}
        }
    }

    /// Handles the loss of all partitions. The next owner of the partitions starts where the archive ends, so the batch
    /// is committed as soon as possible. If the next owner commits first, this commit is refused.
    fn revoked(&mut self) {
        self.start.cancel();
        self.filling.hurry();
        self.connection.stop_reading();
        self.logs.stop();
        self.count();
    }

    fn told(&self, told: Option<KafkaFailure>) {
        let Some(KafkaFailure { event, words }) = told else { return };
        edr_daemon::limited!(
            log::Level::Warn,
            event,
            EDR_SOURCE = "consume",
            "Kafka: {words}; it is tried again until it answers"
        );
        self.kafka_trouble(Some(words));
    }

    /// Handles a reply of a later stage.
    fn replied(&mut self, reply: Reply) {
        match reply {
            Reply::Archived { positions, records } => self.archived(&positions, records),
            Reply::Refused => {
                self.filling.clear();
                self.sent = 0;
                self.restart();
            }
            Reply::Started { round, .. } if !self.start.is_current(round) => {}
            Reply::Started { result, .. } => {
                if let Err(reason) = result.and_then(|logs| self.read(logs)) {
                    log::debug!("start reading: {reason}");
                    self.start.failed();
                }
            }
        }
        self.count();
    }

    fn archived(&mut self, positions: &BTreeMap<PartitionName, i64>, records: usize) {
        self.sent = self.sent.saturating_sub(records);
        self.connection.hint(positions.iter().filter(|(partition, _)| self.logs.has(partition)));
    }

    /// Starts reading these logs.
    fn read(&mut self, logs: Vec<Log>) -> Result<(), String> {
        if let Err(error) = self.connection.assign(&logs) {
            let reason = format!("start at the archive's positions: {error}");
            self.kafka_trouble(Some(reason.clone()));
            return Err(reason);
        }
        let cluster = logs.first().map_or("", |log| log.partition.cluster.as_str());
        let starts: Vec<String> = logs.iter().map(|log| format!("{}@{}", log.partition.partition, log.next)).collect();
        edr_daemon::event!(
            log::Level::Info,
            Said::KafkaReading,
            EDR_SOURCE = "consume",
            "reading {} of cluster {cluster}: partitions {}",
            self.connection.topic(),
            starts.join(" ")
        );
        self.logs.start(logs);
        self.start.done();
        self.kafka_trouble(None);
        Ok(())
    }

    /// Restarts all partitions at the archive's positions. Until then nothing is read.
    fn restart(&mut self) {
        let partitions = self.logs.stop();
        if partitions.is_empty() || self.start.is_under_way() {
            return;
        }
        self.connection.stop_reading();
        self.filling.hurry();
        self.start.begin(partitions);
    }

    /// Asks Kafka for the cluster and the offsets of the partitions to start.
    fn ask(&mut self) {
        let (round, partitions) = self.start.ask();
        self.connection.ask(round, partitions);
    }

    /// Handles an error of the client.
    fn failed(&self, error: &KafkaError) {
        if let Some(words) = self.connection.refusal(error) {
            self.refused(words);
        }
    }

    fn refused(&self, words: String) {
        edr_daemon::limited!(
            log::Level::Warn,
            Said::KafkaRefuses,
            EDR_SOURCE = "consume",
            "read topic {}: {words}",
            self.connection.topic()
        );
        self.kafka_trouble(Some(words));
    }

    /// Handles what a partition has.
    fn received(&mut self, fetched: Fetched) {
        let Fetched { partition, what } = fetched;
        match what {
            FetchedPart::Records(records) => {
                self.answers();
                records.into_iter().for_each(|record| self.add(partition, record));
            }
            FetchedPart::Marks { first, last } => {
                self.answers();
                self.arrive(partition, first..=last, None);
            }
            FetchedPart::Unreadable(batch) => {
                self.answers();
                self.add_unreadable(partition, batch);
            }
            FetchedPart::Answers => self.answers(),
            FetchedPart::Restart => self.restart(),
            FetchedPart::Refused(error) => self.refused(self.connection.denial(&error)),
            // The client fails as well when no broker is usable, and its failure has a remedy.
            FetchedPart::Failed(reason) if self.progress.borrow().kafka_trouble.is_some() => log::debug!("{reason}"),
            FetchedPart::Failed(reason) => {
                edr_daemon::limited!(
                    log::Level::Warn,
                    Said::KafkaAway,
                    EDR_SOURCE = "consume",
                    "Kafka: {reason}; it is tried again until it answers"
                );
                self.kafka_trouble(Some(reason));
            }
        }
    }

    fn answers(&self) {
        if self.progress.borrow().kafka_trouble.is_some() {
            self.kafka_trouble(None);
        }
    }

    /// Moves on behind offsets of a partition. Returns the log and the first new offset, if any is new.
    fn arrive(
        &mut self,
        number: i32,
        offsets: RangeInclusive<i64>,
        payload: Option<&[u8]>,
    ) -> Option<(PartitionName, i64)> {
        match self.logs.arrive(number, offsets, payload) {
            Arrival::Next { partition, missing, first } => {
                if !missing.is_empty() {
                    edr_daemon::limited!(
                        log::Level::Warn,
                        Said::RecordsGone,
                        EDR_SOURCE = "consume",
                        "{partition}: Kafka has no records at offsets {} to {}",
                        missing.start,
                        missing.end - 1
                    );
                }
                Some((partition, first))
            }
            Arrival::Ignored => None,
            Arrival::Replaced => {
                self.restart();
                None
            }
        }
    }

    fn add(&mut self, number: i32, record: FetchedRecord) {
        let FetchedRecord { offset, timestamp_ms, key, value } = record;
        let Some((partition, _)) = self.arrive(number, offset..=offset, value.as_deref()) else { return };
        let content = value.as_deref().map_or_else(|| Err("no value".to_owned()), decode);
        if let Err(fault) = &content {
            edr_daemon::limited!(
                log::Level::Warn,
                Said::NoFrame,
                EDR_SOURCE = "decode",
                "{partition} offset {offset} is no frame: {fault}; it is archived with its fault"
            );
        }
        let row = ReceivedRecord {
            partition,
            offset,
            kafka_timestamp_ms: timestamp_ms,
            received_ns: now_ns(),
            key,
            record: value,
            content: content.map(|record| Record { body: Vec::new(), ..record }),
        };
        self.filling.add(row, offset + 1);
    }

    /// Archives a batch of Kafka that cannot be read as one record, with the range of its offsets.
    fn add_unreadable(&mut self, number: i32, batch: UnreadableBatch) {
        let UnreadableBatch { first, last, bytes, reason } = batch;
        let Some((partition, first)) = self.arrive(number, first..=last, bytes.as_deref()) else { return };
        let fault = format!("offsets {first} to {last} cannot be read: {reason}");
        edr_daemon::limited!(
            log::Level::Warn,
            Said::BatchUnreadable,
            EDR_SOURCE = "consume",
            "{partition}: {fault}; reading goes on after them, and they are archived as one record with this fault"
        );
        self.unreadable_at = Some(Instant::now());
        self.progress.send_modify(|progress| {
            progress.unreadable += 1;
            progress.unreadable_batch = Some(format!("{partition}: {fault}"));
        });
        let row = ReceivedRecord {
            partition,
            offset: first,
            kafka_timestamp_ms: None,
            received_ns: now_ns(),
            key: None,
            record: bytes,
            content: Err(fault),
        };
        self.filling.add(row, last + 1);
    }

    /// Ends the display of an unreadable batch after [`UNREADABLE_SHOWN`].
    fn forget_unreadable(&mut self) {
        if self.unreadable_at.take_if(|at| at.elapsed() > UNREADABLE_SHOWN).is_some() {
            self.progress.send_modify(|progress| progress.unreadable_batch = None);
        }
    }

    fn kafka_trouble(&self, reason: Option<String>) {
        self.progress.send_modify(|progress| progress.kafka_trouble = reason);
    }

    /// Renews the counts of the progress.
    fn count(&self) {
        let (partitions, waiting) = (self.logs.len(), self.sent + self.filling.len());
        self.progress.send_if_modified(|progress| {
            let is_new = (progress.partitions, progress.waiting) != (partitions, waiting);
            (progress.partitions, progress.waiting) = (partitions, waiting);
            is_new
        });
    }

    /// Sends the last batch and waits for the commits; then closes the client.
    async fn finish(self) {
        let Self { connection, logs, mut filling, orders, mut replies, .. } = self;
        let last = async {
            if filling.len() > 0 {
                // Fails when the next stage has ended; Kafka still has the records.
                let _ = orders.send(CommitOrder::Archive(filling.take())).await;
            }
            drop(orders);
            while let Some(reply) = replies.recv().await {
                if let Reply::Archived { positions, .. } = reply {
                    connection.hint(positions.iter().filter(|(partition, _)| logs.has(partition)));
                }
            }
        };
        // The stages report on their own what they abandon.
        let _ = tokio::time::timeout(STOP_MAX, last).await;
        connection.close().await;
    }
}

/// Waits until an order is due and the next stage has room for the order.
async fn room(
    orders: mpsc::Sender<CommitOrder>,
    due: Option<Instant>,
) -> anyhow::Result<mpsc::OwnedPermit<CommitOrder>> {
    sleep_until(due).await;
    orders.reserve_owned().await.map_err(|_| anyhow::anyhow!("the stage commit ended"))
}
