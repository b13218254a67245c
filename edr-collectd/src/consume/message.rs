//! Messages between the stages.

use std::collections::{BTreeMap, BTreeSet};

use edr_archive::PartitionName;

use super::batch::Batch;
use super::client::TopicEnds;
use super::logs::Log;

/// Batches that wait for the next stage.
pub(super) const BATCHES_WAITING: usize = 1;
/// Replies that wait for `poll`.
pub(super) const REPLIES_WAITING: usize = 16;

/// From `poll` to `commit`.
#[derive(Debug)]
pub(super) enum CommitOrder {
    /// Archive these records.
    Archive(Batch),
    /// Find where reading starts.
    Start(StartOrder),
}

/// Partitions to start at the end of the archive.
#[derive(Debug)]
pub(super) struct StartOrder {
    /// Number of the attempt. Answers to earlier attempts are outdated.
    pub(super) round: u64,
    /// Name of the topic.
    pub(super) topic: String,
    /// Kafka's answer about cluster and offsets.
    pub(super) ends: TopicEnds,
    /// Partitions with a log that differs from the archived log.
    pub(super) replaced: BTreeSet<i32>,
}

/// From `commit` to `publish`.
#[derive(Debug)]
pub(super) enum PublishOrder {
    /// These records are archived.
    Batch(Batch),
    /// The archive ends here.
    Start(LogStarts),
}

/// Where reading starts.
#[derive(Debug)]
pub(super) struct LogStarts {
    /// [`StartOrder::round`].
    pub(super) round: u64,
    /// The logs to read.
    pub(super) logs: Vec<Log>,
    /// When the archive's positions were read, ns since the epoch.
    pub(super) at_ns: i64,
}

/// From `commit` and `publish` to `poll`.
#[derive(Debug)]
pub(super) enum Reply {
    /// A batch is archived.
    Archived {
        /// The position after the batch in each log.
        positions: BTreeMap<PartitionName, i64>,
        /// Number of records.
        records: usize,
    },
    /// Another collector archived records of the same logs first: all records in memory are dropped.
    Refused,
    /// The result of a [`StartOrder`]: the logs to read, or the reason of the failure.
    Started {
        /// [`StartOrder::round`].
        round: u64,
        /// The logs to read, or the reason of the failure.
        result: Result<Vec<Log>, String>,
    },
}
