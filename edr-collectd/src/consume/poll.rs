//! Stage 1: takes records from Kafka and fills batches.
//!
//! The loop turns at least once a second. Each wait of the loop is a wait for a channel or for the clock; requests that
//! wait for a broker run on threads that may block, and their answers come as events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edr_archive::decode::decode;
use edr_archive::{PartitionName, ReceivedRecord};
use edr_wire::frame::Record;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::Filling;
use super::client::Event;
use super::connection::{Connection, KafkaFailure};
use super::logs::{Arrival, Log, Logs};
use super::message::{CommitOrder, Reply};
use super::start::PendingStart;
use super::{Progress, STOP_MAX, Vitals, now_ns, sleep_until};
use crate::config;
use crate::event::Event as Said;

/// Longest time between two turns of the loop.
const BEAT: Duration = Duration::from_secs(1);

/// The first stage.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) connection: Connection,
    logs: Logs,
    start: PendingStart,
    filling: Filling,
    /// Records in batches that were sent and are not archived yet.
    sent: usize,
    is_paused: bool,
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
            is_paused: false,
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
                    result = self.connection.check();
                    if self.connection.is_outdated() && self.connection.renew() {
                        client = self.connection.client();
                        self.revoked();
                        self.kafka_trouble(None);
                    }
                }
                message = client.recv() => self.received(message),
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
            if self.is_paused {
                self.pause(false);
            }
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
        if self.is_paused {
            self.pause(false);
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

    /// Restarts all partitions at the archive's positions. Until then nothing is fetched.
    fn restart(&mut self) {
        let partitions = self.logs.stop();
        if partitions.is_empty() || self.start.is_under_way() {
            return;
        }
        self.connection.unassign();
        self.filling.hurry();
        self.start.begin(partitions);
    }

    /// Asks Kafka for the cluster and the offsets of the partitions to start.
    fn ask(&mut self) {
        let (round, partitions) = self.start.ask();
        self.connection.ask(round, partitions);
    }

    /// Handles a record or an error of a broker.
    fn received(&mut self, message: Result<BorrowedMessage<'_>, KafkaError>) {
        match message {
            Ok(message) => {
                if self.progress.borrow().kafka_trouble.is_some() {
                    self.kafka_trouble(None);
                }
                self.add(&message);
            }
            // Kafka no longer has the requested offset: the record was deleted meanwhile, or the topic was recreated.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => self.restart(),
            Err(error) => {
                if let Some(words) = self.connection.refusal(&error) {
                    edr_daemon::limited!(
                        log::Level::Warn,
                        Said::KafkaRefuses,
                        EDR_SOURCE = "consume",
                        "read topic {}: {words}",
                        self.connection.topic()
                    );
                    self.kafka_trouble(Some(words));
                }
            }
        }
        // With room in the channel, the full batch is sent in the next turn.
        if self.filling.is_full() && !self.is_paused && self.orders.capacity() == 0 {
            self.pause(true);
        }
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) {
        let (number, offset, payload) = (message.partition(), message.offset(), message.payload());
        let (partition, missing) = match self.logs.arrive(number, offset, payload) {
            Arrival::Next { partition, missing } => (partition, missing),
            Arrival::Ignored => return,
            Arrival::Replaced => return self.restart(),
        };
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
        let content = payload.map_or_else(|| Err("no value".to_owned()), decode);
        if let Err(fault) = &content {
            edr_daemon::limited!(
                log::Level::Warn,
                Said::NoFrame,
                EDR_SOURCE = "decode",
                "{partition} offset {offset} is no frame: {fault}; it is archived with its fault"
            );
        }
        self.filling.add(ReceivedRecord {
            partition,
            offset,
            kafka_timestamp_ms: message.timestamp().to_millis(),
            received_ns: now_ns(),
            key: message.key().map(<[u8]>::to_vec),
            record: payload.map(<[u8]>::to_vec),
            content: content.map(|record| Record { body: Vec::new(), ..record }),
        });
    }

    fn pause(&mut self, pause: bool) {
        match self.connection.pause(pause) {
            Ok(()) => self.is_paused = pause,
            Err(error) => edr_daemon::limited!(log::Level::Warn, "pause or resume reading: {error}"),
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
