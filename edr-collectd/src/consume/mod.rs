//! Moves records from Kafka into the archive, and from there into the memory of readers.
//!
//! Four stages with bounded channels, each stage a task of its own:
//!
//! ```text
//!          batches         archived batches       newest coverage
//! [`poll`] ───────▶ [`commit`] ───────▶ [`publish`] ───────▶ [`derive`]
//!     ▲                 │                   │
//!     └─────────────────┴───────────────────┘ replies: archived, refused, started
//! ```
//!
//! 1. `poll` owns the Kafka client, takes the records that [`fetch`] reads, decodes them and fills a batch. The loop
//!    waits for channels only, so Kafka is polled at least once a second, whatever the disk does.
//! 2. `commit` writes a batch and the positions after the batch to the archive in one Delta commit, and retries until
//!    success.
//! 3. `publish` gives the records of a committed batch to the readers' memory.
//! 4. `derive` saves the table `hosts`, and does the upkeep of all tables.
//!
//! Promises:
//! - A partition starts at the archive's position, never at the group's offset. The record before the position is
//!   compared with the archived record, because a recreated topic has the same name ([`position`]).
//! - Readers see a frame only after the commit of the frame. A refused commit is never visible.
//! - Memory is bounded: one batch fills, one waits, one is committed, and each partition has one batch of Kafka
//!   ([`fetch`]). When no batch can move on, `poll` takes nothing from the partitions and goes on polling, so that the
//!   group does not expel a collector with a slow disk.
//! - A batch of Kafka that cannot be read is archived as one record with a fault, and reading goes on behind the batch.
//! - When a commit of another collector wins, all later records in memory are dropped and reading restarts at the
//!   archive's position. After a failed commit the archive shows, before each retry, whether the commit was made in
//!   spite of the failure.
//! - A slow save of `hosts` and slow upkeep of a table delay neither a commit nor a reader.
//!
//! No stage opens a snapshot.

mod batch;
mod client;
mod commit;
mod connection;
mod derive;
mod fetch;
mod logs;
mod message;
mod poll;
mod position;
mod progress;
mod publish;
mod record_batch;
mod start;
#[cfg(test)]
mod tests;
mod topic;
mod trouble;
mod vitals;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edr_archive::{Frames, HostsTable, Reader};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::commit::Commit;
use self::connection::Connection;
use self::derive::{Derive, PublishedPositions};
pub use self::derive::{DerivedStore, DerivedTables, Schedule};
use self::message::{BATCHES_WAITING, REPLIES_WAITING};
use self::poll::Poll;
pub use self::progress::Progress;
use self::publish::Publish;
pub use self::topic::{PARTITIONS, Topic, allow_command, command, create, judge_topic, look, may_read};
pub use self::vitals::{Vital, Vitals};
use crate::config::Config;
use crate::newest::Newest;

/// First and longest delay of a retry after a failure of store or broker.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time limit for all stages to finish after a stop: the last commit and the last save.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Access of the stages to the archive.
#[derive(Debug)]
pub struct ArchiveAccess<S = DerivedTables> {
    /// The table of records, to write.
    pub frames: Frames,
    /// The reader, for comparison with archived records and for records of other collectors.
    pub reader: Arc<Reader>,
    /// The table of hosts, to read at each start of partitions.
    pub saved: HostsTable,
    /// The tables, to save hosts and for upkeep.
    pub derived: S,
    /// When to save hosts and to do upkeep.
    pub schedule: Schedule,
}

/// The way from Kafka to the readers: four stages.
#[derive(Debug)]
pub struct Consumer<S = DerivedTables> {
    poll: Poll,
    commit: Commit,
    publish: Publish,
    derive: Derive<S>,
    vitals: Arc<Vitals>,
    progress: watch::Receiver<Progress>,
}

impl<S: DerivedStore> Consumer<S> {
    /// Makes the stages and subscribes to the topic; reading begins with [`run`](Self::run). `instance` is the member's
    /// name in the consumer group and must be the same at every start.
    ///
    /// # Errors
    /// When the Kafka client cannot be made. An unreachable broker is not an error.
    pub fn new(
        config: &Config,
        instance: &str,
        archive: ArchiveAccess<S>,
        newest: Arc<Newest>,
    ) -> anyhow::Result<Self> {
        let connection = Connection::new(config.kafka.clone(), instance)?;
        let (orders, inbox) = mpsc::channel(BATCHES_WAITING);
        let (committed, archived) = mpsc::channel(BATCHES_WAITING);
        let (replies, answers) = mpsc::channel(REPLIES_WAITING);
        let (coverage, published) = watch::channel(PublishedPositions::default());
        let (sender, progress) = watch::channel(Progress::default());
        let vitals = Arc::new(Vitals::default());
        let ArchiveAccess { frames, reader, saved, derived, schedule } = archive;
        Ok(Self {
            poll: Poll::new(connection, &config.archive, orders, answers, sender.clone(), Arc::clone(&vitals)),
            commit: Commit {
                inbox,
                frames,
                reader: Arc::clone(&reader),
                publish: committed,
                replies: replies.clone(),
                is_discarding: false,
                progress: sender.clone(),
                vitals: Arc::clone(&vitals),
            },
            publish: Publish {
                inbox: archived,
                newest: Arc::clone(&newest),
                reader,
                saved,
                coverage,
                replies,
                progress: sender,
                vitals: Arc::clone(&vitals),
            },
            derive: Derive::new(published, newest, derived, schedule, Arc::clone(&vitals)),
            vitals,
            progress,
        })
    }

    /// Follows `settings`: changes of the Kafka settings take effect while the consumer runs, other changes do not.
    #[must_use]
    pub fn follow(mut self, settings: watch::Receiver<Config>) -> Self {
        self.poll.connection.follow(settings);
        self
    }

    /// Returns the signs of life of the stages.
    pub fn vitals(&self) -> Arc<Vitals> {
        Arc::clone(&self.vitals)
    }

    /// Returns the progress, which changes while the consumer runs.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Reads and archives until `stop` is true; then commits the current batch and saves the hosts. A stage that needs
    /// longer than [`STOP_MAX`] after the stop is abandoned: a commit is made whole or not at all, and Kafka still has
    /// the records.
    ///
    /// # Errors
    /// When librdkafka reports a fatal error (this client never reads again), or a stage panics.
    pub async fn run(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let Self { poll, commit, publish, derive, .. } = self;
        // True from the moment at which `poll` takes no more records.
        let (ending, ended) = watch::channel(false);
        // When this future is dropped, the set aborts its tasks.
        let mut stages: JoinSet<anyhow::Result<()>> = JoinSet::new();
        stages.spawn(in_time("commit", ended.clone(), commit.run()));
        stages.spawn(in_time("publish", ended.clone(), publish.run()));
        stages.spawn(in_time("derive", ended.clone(), derive.run(ended)));
        stages.spawn(poll.run(stop, ending));
        let mut result = Ok(());
        while let Some(ended) = stages.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(error),
                // The other stages would wait for this stage in vain.
                Err(error) => return Err(anyhow::Error::new(error).context("a stage failed")),
            }
        }
        result
    }
}

/// Runs a stage to its end, or abandons the stage [`STOP_MAX`] after `ending` has become true.
async fn in_time(
    stage: &'static str,
    mut ending: watch::Receiver<bool>,
    work: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let limit = async {
        // An error means that the sender is gone: `poll` has ended.
        let _ = ending.wait_for(|ending| *ending).await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        biased;
        () = work => {}
        () = limit => log::warn!(
            "stage {stage} did not end in time and is abandoned; records that are not archived are read again at the \
             next start"
        ),
    }
    Ok(())
}

/// Delays of retries: each twice as long as the one before, within [`BACKOFF`].
#[derive(Debug)]
struct RetryDelay(Duration);

impl Default for RetryDelay {
    fn default() -> Self {
        Self(BACKOFF.0)
    }
}

impl RetryDelay {
    /// Returns the delay of the next retry.
    fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(BACKOFF.1);
        delay
    }
}

/// Waits until a moment; forever when there is none.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns the collector's clock, ns since the epoch.
fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
