//! Stage 3: gives archived records to the readers' memory.
//!
//! All changes of the memory of newest snapshots by records are made here, and only for archived records.

use std::sync::Arc;
use std::time::Duration;

use edr_archive::decode::decode;
use edr_archive::{HostsTable, Reader};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::Batch;
use super::derive::PublishedPositions;
use super::message::{LogStarts, PublishOrder, Reply};
use super::{Progress, Vitals};
use crate::event::Event as Said;
use crate::newest::{Newest, catch_up, check_days};

/// Records between two points at which other tasks may run.
const RECORDS_AT_ONCE: usize = 256;
/// Time between two looks at the list of hosts, and at the rows of the archive.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// The third stage.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) inbox: mpsc::Receiver<PublishOrder>,
    pub(super) newest: Arc<Newest>,
    pub(super) reader: Arc<Reader>,
    /// The table of hosts, for records archived by other collectors.
    pub(super) saved: HostsTable,
    /// The archived records that memory has, for `derive`. Only the newest value counts, so a slow `derive` delays
    /// nothing here.
    pub(super) coverage: watch::Sender<PublishedPositions>,
    pub(super) replies: mpsc::Sender<Reply>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) vitals: Arc<Vitals>,
}

impl Publish {
    /// Runs until `commit` has ended and everything archived is published.
    pub(super) async fn run(mut self) {
        let mut check_at = Instant::now() + CHECK_INTERVAL;
        loop {
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    Some(PublishOrder::Batch(batch)) => self.publish(batch).await,
                    Some(PublishOrder::Start(located)) => self.start(located).await,
                    None => return,
                },
                () = tokio::time::sleep_until(check_at) => {
                    self.check().await;
                    check_at = Instant::now() + CHECK_INTERVAL;
                }
            }
        }
    }

    /// Publishes the records of a batch. The records are decoded a second time: decoded records beside the rows would
    /// double the memory of a waiting batch, and decoding costs little.
    async fn publish(&mut self, batch: Batch) {
        let _step = self.vitals.publish.step();
        let records = batch.rows.len();
        let received: Vec<i64> = batch.rows.iter().map(|row| row.received_ns).collect();
        for (at, row) in batch.rows.into_iter().enumerate() {
            match (&row.content, row.record.as_deref().map(decode)) {
                (Ok(_), Some(Ok(record))) => self.newest.offer(&row.partition, row.place(), record),
                _ => self.newest.offer_fault(&row.partition, row.place()),
            }
            if at % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                self.vitals.publish.sign();
                tokio::task::yield_now().await;
            }
        }
        self.coverage.send_modify(|published| {
            published.positions.extend(batch.positions);
            received.into_iter().for_each(|received_ns| published.receive(received_ns));
        });
        self.progress.send_modify(|progress| progress.published += records as u64);
    }

    /// Removes hosts from the list that are silent for long, and compares the accounts with the rows of the archive.
    async fn check(&mut self) {
        let _step = self.vitals.publish.step();
        self.newest.age();
        if let Err(error) = check_days(&self.newest, &self.reader, &|| self.vitals.publish.sign()).await {
            edr_daemon::limited!(log::Level::Warn, "compare the accounts with the archive: {error}");
        }
    }

    /// Loads records that other collectors have archived meanwhile: from the archive, not from Kafka. Then lets `poll`
    /// read.
    async fn start(&mut self, located: LogStarts) {
        let _step = self.vitals.publish.step();
        let LogStarts { round, logs, at_ns } = located;
        let alive = || self.vitals.publish.sign();
        let result = match catch_up(&self.newest, &self.reader, Some(&mut self.saved), &alive).await {
            Ok(()) => {
                self.coverage.send_modify(|published| {
                    published.positions = logs.iter().map(|log| (log.partition.clone(), log.next)).collect();
                    published.receive(at_ns);
                });
                self.archive_trouble(None);
                Ok(logs)
            }
            Err(error) => {
                edr_daemon::limited!(
                    log::Level::Warn,
                    Said::ArchiveFails,
                    EDR_SOURCE = "archive",
                    "start reading: {error}; trying again"
                );
                self.archive_trouble(Some(error.to_string()));
                Err(error.to_string())
            }
        };
        // After a stop `poll` may have ended; the reply is dropped then.
        let _ = self.replies.send(Reply::Started { round, result }).await;
    }

    fn archive_trouble(&self, reason: Option<String>) {
        self.progress.send_modify(|progress| progress.archive_trouble = reason);
    }
}
