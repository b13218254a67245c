//! Commits to the archive: start, result, retry, and the saving of hosts after a commit.

use std::pin::Pin;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::batch::Batch;
use super::{BACKOFF, CLEAN_INTERVAL, Consumer, SAVE_INTERVAL, STOP_MAX, WAITING_NS_MAX};
use crate::archive::{ArchiveError, Coverage, Frames, SavedHost};
use crate::event::Event as Said;

/// The result of a commit, with everything that the commit used.
pub(super) struct Committed {
    frames: Frames,
    batch: Batch,
    /// Hosts to save after the commit and the end of their coverage, both as of the start of the commit.
    save: Option<(Vec<SavedHost>, i64)>,
    took: Duration,
    result: Result<(), ArchiveError>,
}

impl Consumer {
    pub(super) fn begin_commit(&mut self) {
        let Some(mut frames) = self.frames.take() else { return };
        let mut batch = std::mem::take(&mut self.batch);
        batch.base.clone_from(frames.known());
        let save = (Instant::now() >= self.save_at).then(|| self.hosts_to_save());
        self.commit = Some(Box::pin(async move {
            let begin = Instant::now();
            let result = frames.append(&batch.rows, &batch.positions).await.map(|_| ());
            Committed { frames, batch, save, took: begin.elapsed(), result }
        }));
    }

    /// Returns the hosts of this collector's partitions and the end of their coverage, ns since the epoch. A start
    /// reads all later records again. The coverage therefore ends before the first part of any incomplete frame.
    fn hosts_to_save(&mut self) -> (Vec<SavedHost>, i64) {
        let now_ns = self.now_ns();
        let waiting = self.newest.waiting_since_ns(now_ns.saturating_sub(WAITING_NS_MAX));
        let numbers: Vec<i32> = self.reading.keys().copied().collect();
        (self.newest.save(|name| numbers.contains(&name.partition)), waiting.unwrap_or(now_ns).min(now_ns))
    }

    pub(super) async fn committed(&mut self, done: Committed) {
        self.commit = None;
        let mut frames = done.frames;
        let result = match done.result {
            Err(ArchiveError::Store { .. }) if was_committed(&mut frames, &done.batch).await => Ok(()),
            result => result,
        };
        self.frames = Some(frames);
        match result {
            Ok(()) => {
                self.backoff = BACKOFF.0;
                self.note_committed(&done.batch, done.took);
                if let Some((hosts, until_ns)) = done.save {
                    self.save(&hosts, until_ns).await;
                }
                if self.paused {
                    self.pause(false);
                }
            }
            Err(error @ (ArchiveError::Fenced { .. } | ArchiveError::Backwards { .. })) => {
                edr_daemon::event!(
                    log::Level::Warn, Said::ArchiveTaken, EDR_SOURCE = "archive";
                    "{error}; reading again from where the archive ends"
                );
                self.restart();
            }
            Err(error) => {
                edr_daemon::limited!(log::Level::Warn, Said::ArchiveFails, EDR_SOURCE = "archive"; "{error}; nothing is lost, it is tried again");
                self.trouble(Some(error.to_string()));
                self.try_again(done.batch).await;
            }
        }
    }

    /// Retries the commit of the same rows after a delay. The next batch waits behind the retry.
    async fn try_again(&mut self, batch: Batch) {
        let pause = self.next_backoff();
        let Some(mut frames) = self.frames.take() else { return };
        self.commit = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let begin = Instant::now();
            let result = append_again(&mut frames, &batch).await;
            Committed { frames, batch, save: None, took: begin.elapsed(), result }
        }));
    }

    fn note_committed(&mut self, batch: &Batch, took: Duration) {
        let mut hint = TopicPartitionList::new();
        for (name, &position) in &batch.positions {
            if self.reading.get(&name.partition).is_some_and(|reading| reading.name == *name) {
                self.archived.insert(name.clone(), position);
                // Errors are ignored: the group's offset is only a hint.
                let _ = hint.add_partition_offset(&name.topic, name.partition, Offset::Offset(position));
            }
        }
        if hint.count() > 0 {
            let _ = self.client.commit(&hint, CommitMode::Async);
        }
        let faults = batch.rows.iter().filter(|row| row.content.is_err()).count() as u64;
        self.progress.send_modify(|progress| {
            progress.archived += batch.rows.len() as u64;
            progress.faults += faults;
            progress.trouble = None;
            progress.commits += 1;
            progress.commit = took;
        });
        log::debug!("archived {} records, {} bytes in {took:?}", batch.rows.len(), batch.bytes);
    }

    async fn save(&mut self, hosts: &[SavedHost], until_ns: i64) {
        self.save_at = Instant::now() + SAVE_INTERVAL;
        let coverage: Coverage =
            self.archived.iter().map(|(name, position)| (name.clone(), (*position, until_ns))).collect();
        if coverage.is_empty() {
            return;
        }
        if let Err(error) = self.hosts.save(hosts, &coverage).await {
            edr_daemon::limited!(log::Level::Warn, Said::ArchiveFails, EDR_SOURCE = "archive"; "{error}; a start would read more of the archive");
        }
        if Instant::now() >= self.clean_at {
            self.clean_at = Instant::now() + CLEAN_INTERVAL;
            if let Err(error) = self.hosts.clean().await {
                edr_daemon::limited!(log::Level::Warn, "{error}; it is tried again in an hour");
            }
        }
    }

    /// Commits the current batch and saves the hosts, within [`STOP_MAX`].
    pub(super) async fn finish(&mut self) {
        let last = async {
            if let Some(commit) = self.commit.take() {
                let done = commit.await;
                self.frames = Some(done.frames);
                match done.result {
                    Ok(()) => self.note_committed(&done.batch, done.took),
                    Err(error) => {
                        log::warn!("{error}; it is read again at the next start");
                        return;
                    }
                }
            }
            let (hosts, until_ns) = self.hosts_to_save();
            let batch = std::mem::take(&mut self.batch);
            if batch.is_empty() {
                // Without a commit, another collector's records could be missing from the hosts: check first.
                if !self.is_current().await {
                    return;
                }
            } else {
                let begin = Instant::now();
                let Some(frames) = self.frames.as_mut() else { return };
                match frames.append(&batch.rows, &batch.positions).await {
                    Ok(_) => self.note_committed(&batch, begin.elapsed()),
                    Err(error) => {
                        log::warn!("{error}; it is read again at the next start");
                        return;
                    }
                }
            }
            self.save(&hosts, until_ns).await;
        };
        if tokio::time::timeout(STOP_MAX, last).await.is_err() {
            log::warn!("the last commit did not end in time; it is read again at the next start");
        }
    }

    /// Returns true when the archive ends where this collector left it.
    async fn is_current(&mut self) -> bool {
        let Some(frames) = self.frames.as_mut() else { return false };
        if frames.reload().await.is_err() {
            return false;
        }
        for (name, position) in &self.archived {
            // A partition without archived records has no position; reading starts at the begin of the log.
            match frames.position(name).await {
                Ok(found) if found.is_none_or(|found| found == *position) => {}
                _ => return false,
            }
        }
        true
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

/// Retries a failed commit if the archive's positions are the same as at the first attempt.
async fn append_again(frames: &mut Frames, batch: &Batch) -> Result<(), ArchiveError> {
    frames.reload().await?;
    let show = |position: Option<i64>| position.map_or_else(|| "none".to_owned(), |offset| offset.to_string());
    for name in batch.positions.keys() {
        let found = frames.position(name).await?;
        let base = batch.base.get(name).copied().flatten();
        if found != base {
            return Err(ArchiveError::Fenced { partition: name.to_string(), expected: show(base), found: show(found) });
        }
    }
    frames.append(&batch.rows, &batch.positions).await.map(|_| ())
}

/// Waits for the commit under way; forever when there is none.
pub(super) async fn finished(commit: &mut Option<Pin<Box<dyn Future<Output = Committed> + Send>>>) -> Committed {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}
