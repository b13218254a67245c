//! Locations of records: partitions of Kafka topics, and the place of a row in the archive.

use serde::{Deserialize, Serialize};

/// A partition of a Kafka topic, in the archive's terms.
///
/// The topic's own id would distinguish a recreated topic from its predecessor, but rdkafka 0.39 does not expose topic
/// ids (librdkafka does, by `rd_kafka_DescribeTopics`, which has no safe binding). So cluster id and topic name
/// identify the log, and `generation` counts how often a new log was seen under that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionName {
    /// Id of the Kafka cluster.
    pub cluster: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// 0 for the first log under this name; one more for each new log.
    pub generation: i32,
}

impl PartitionName {
    /// Returns the `appId` of the `txn` actions with the partition's position.
    pub(crate) fn app_id(&self) -> String {
        let Self { cluster, topic, partition, generation } = self;
        format!("edr-collectd/{cluster}/{topic}/{partition}/{generation}")
    }
}

impl std::fmt::Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} partition {}", self.topic, self.partition)?;
        if self.generation > 0 { write!(f, " (log {})", self.generation + 1) } else { Ok(()) }
    }
}

/// Location of a record: the values that find its row without a search of the table. The time of receipt determines the
/// day folder and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordPosition {
    /// When the collector received the record, ns since the epoch.
    pub received_ns: i64,
    /// Kafka partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// Returns the days since 1970-01-01 UTC.
pub fn day_of(ns: i64) -> i32 {
    // 2^63 ns are 106,752 days, so the conversion never fails.
    i32::try_from(ns.div_euclid(86_400_000_000_000)).unwrap_or(0)
}
