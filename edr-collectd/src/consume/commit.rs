//! Stage 2: archives batches, and finds where the archive ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use edr_archive::{ArchiveError, Frames, PartitionName, Reader};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::Batch;
use super::logs::Log;
use super::message::{CommitOrder, LogStarts, PublishOrder, Reply, StartOrder};
use super::{Progress, RetryDelay, Vitals, now_ns, position};
use crate::event::Event as Said;

/// The second stage.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) inbox: mpsc::Receiver<CommitOrder>,
    pub(super) frames: Frames,
    pub(super) reader: Arc<Reader>,
    pub(super) publish: mpsc::Sender<PublishOrder>,
    pub(super) replies: mpsc::Sender<Reply>,
    /// True after a refused commit, until the next start. Later records must not be archived: the position would move
    /// past the refused records.
    pub(super) is_discarding: bool,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) vitals: Arc<Vitals>,
}

/// The archive's positions before a batch.
type BasePositions = BTreeMap<PartitionName, Option<i64>>;

impl Commit {
    /// Runs until `poll` has ended and all orders are done.
    pub(super) async fn run(mut self) {
        while let Some(order) = self.inbox.recv().await {
            match order {
                CommitOrder::Archive(batch) if self.is_discarding => {
                    log::debug!("{} records are dropped after a refused commit", batch.rows.len());
                }
                CommitOrder::Archive(batch) => self.archive(batch).await,
                CommitOrder::Start(order) => self.start(order).await,
            }
        }
    }

    /// Archives a batch; retries until the commit is made or refused.
    async fn archive(&mut self, batch: Batch) {
        let base = self.frames.known().clone();
        let (mut delay, mut begin) = (RetryDelay::default(), Instant::now());
        let mut result = self.append(&batch).await;
        loop {
            match result {
                Ok(()) => break,
                Err(error @ (ArchiveError::Fenced { .. } | ArchiveError::Backwards { .. })) => {
                    edr_daemon::limited!(
                        log::Level::Warn,
                        Said::ArchiveTaken,
                        EDR_SOURCE = "archive",
                        "{error}; reading again from where the archive ends"
                    );
                    self.is_discarding = true;
                    self.archive_trouble(None);
                    return self.reply(Reply::Refused).await;
                }
                Err(error) => {
                    edr_daemon::limited!(
                        log::Level::Warn,
                        Said::ArchiveFails,
                        EDR_SOURCE = "archive",
                        "{error}; nothing is lost, it is tried again"
                    );
                    self.archive_trouble(Some(error.to_string()));
                    tokio::time::sleep(delay.next()).await;
                    begin = Instant::now();
                    result = self.append_again(&batch, &base).await;
                }
            }
        }
        let took = begin.elapsed();
        let (records, bytes) = (batch.rows.len(), batch.bytes);
        log::debug!("archived {records} records, {bytes} bytes in {took:?}");
        let faults = batch.rows.iter().filter(|row| row.content.is_err()).count();
        self.progress.send_modify(|progress| {
            progress.archived += records as u64;
            progress.faults += faults as u64;
            progress.commits += 1;
            progress.commit = took;
            progress.archive_trouble = None;
        });
        self.reply(Reply::Archived { positions: batch.positions.clone(), records }).await;
        self.pass(PublishOrder::Batch(batch)).await;
    }

    /// Appends the batch. A store that reports a failure may have made the commit all the same.
    async fn append(&mut self, batch: &Batch) -> Result<(), ArchiveError> {
        let _step = self.vitals.commit.step();
        match self.frames.append(&batch.rows, &batch.positions).await {
            Err(ArchiveError::Store { .. }) if was_committed(&mut self.frames, batch).await => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Retries a failed commit if the archive's positions are the same as at the first attempt.
    async fn append_again(&mut self, batch: &Batch, base: &BasePositions) -> Result<(), ArchiveError> {
        {
            let _step = self.vitals.commit.step();
            self.frames.reload().await?;
            for name in batch.positions.keys() {
                let found = self.frames.position(name).await?;
                let expected = base.get(name).copied().flatten();
                if found != expected {
                    let show = |position: Option<i64>| position.map_or_else(|| "none".to_owned(), |at| at.to_string());
                    let (expected, found) = (show(expected), show(found));
                    return Err(ArchiveError::Fenced { partition: name.to_string(), expected, found });
                }
            }
        }
        self.append(batch).await
    }

    /// Finds where reading of the ordered partitions starts. All batches before the order are archived or refused.
    async fn start(&mut self, order: StartOrder) {
        let round = order.round;
        match self.locate(order).await {
            Ok(starts) => {
                self.is_discarding = false;
                self.pass(PublishOrder::Start(starts)).await;
            }
            Err(error) => {
                edr_daemon::limited!(
                    log::Level::Warn,
                    Said::ArchiveFails,
                    EDR_SOURCE = "archive",
                    "start reading: {error}; trying again"
                );
                self.archive_trouble(Some(error.to_string()));
                self.reply(Reply::Started { round, result: Err(error.to_string()) }).await;
            }
        }
    }

    async fn locate(&mut self, order: StartOrder) -> Result<LogStarts, ArchiveError> {
        let _step = self.vitals.commit.step();
        let StartOrder { round, topic, ends, replaced } = order;
        let at_ns = now_ns();
        self.frames.reload().await?;
        let mut logs = Vec::new();
        for found in ends.partitions {
            let name = PartitionName {
                cluster: ends.cluster.clone(),
                topic: topic.clone(),
                partition: found.partition,
                generation: 0,
            };
            let archived = self.frames.newest(&name).await?;
            let start = position::start(archived, found.low, found.high, replaced.contains(&found.partition));
            if let Some(note) = &start.note {
                edr_daemon::event!(log::Level::Warn, Said::RecordsGone, EDR_SOURCE = "consume", "{note}");
            }
            let proof =
                if start.has_proof { self.reader.record_at(&start.partition, start.offset - 1).await? } else { None };
            logs.push(Log { partition: start.partition, next: start.offset, proof });
            self.vitals.commit.sign();
        }
        Ok(LogStarts { round, logs, at_ns })
    }

    fn archive_trouble(&self, reason: Option<String>) {
        self.progress.send_modify(|progress| progress.archive_trouble = reason);
    }

    /// Replies to `poll`. After a stop `poll` may have ended; the reply is dropped then.
    async fn reply(&self, reply: Reply) {
        let _ = self.replies.send(reply).await;
    }

    /// Passes on to `publish`. After a failure of `publish` the collector ends; the message is dropped then.
    async fn pass(&self, order: PublishOrder) {
        let _ = self.publish.send(order).await;
    }
}

/// Returns true when the archive holds the batch although the store reported a failure.
async fn was_committed(frames: &mut Frames, batch: &Batch) -> bool {
    if frames.reload().await.is_err() {
        return false;
    }
    for (name, position) in &batch.positions {
        match frames.position(name).await {
            Ok(Some(found)) if found == *position => {}
            _ => return false,
        }
    }
    true
}
