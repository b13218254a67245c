//! The content of a Kafka topic, for tests that count records.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::Broker;

/// The broker runs on this machine: without an answer within this time the broker is gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A record of a topic.
#[derive(Debug, Clone)]
pub struct KafkaRecord {
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// The range of offsets in each partition.
type OffsetRanges = Vec<(i32, Range<i64>)>;

/// Returns the ranges of offsets of the topic, with the client used for the query.
fn offsets(broker: &Broker, topic: &str) -> Result<(BaseConsumer, OffsetRanges)> {
    let consumer: BaseConsumer = broker
        .client_config()
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "8388608")
        .create()
        .context("make a Kafka consumer")?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_LIMIT).context("ask for the topic's partitions")?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id);
    let offsets = partitions.map(|partition| {
        let (low, high) =
            consumer.fetch_watermarks(topic, partition, ANSWER_LIMIT).context("ask for the topic's offsets")?;
        Ok((partition, low..high))
    });
    let offsets = offsets.collect::<Result<_>>()?;
    Ok((consumer, offsets))
}

/// The number of records in the topic.
///
/// # Errors
/// When the broker does not answer.
pub fn count(broker: &Broker, topic: &str) -> Result<usize> {
    let (_, offsets) = offsets(broker, topic)?;
    offsets.iter().map(|(_, held)| usize::try_from(held.end - held.start).context("offsets grow")).sum()
}

/// All records of the topic, by partition and offset.
///
/// # Errors
/// When the broker does not answer.
pub fn records(broker: &Broker, topic: &str) -> Result<Vec<KafkaRecord>> {
    let (consumer, offsets) = offsets(broker, topic)?;
    let mut found = Vec::new();
    for (partition, held) in offsets {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(held.start)).context("choose a partition")?;
        consumer.assign(&assignment).context("take a partition")?;
        let mut next = held.start;
        while next < held.end {
            let message = consumer.poll(ANSWER_LIMIT).context("no record came")?.context("read a record")?;
            next = message.offset() + 1;
            found.push(KafkaRecord {
                partition,
                offset: message.offset(),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().unwrap_or_default().to_vec(),
            });
        }
    }
    Ok(found)
}

/// Sends one record to a topic.
///
/// # Errors
/// When the broker does not accept the record.
pub fn produce(broker: &Broker, topic: &str, partition: i32, key: &[u8], value: &[u8]) -> Result<()> {
    let producer: ThreadedProducer<_> = broker
        .client_config()
        .set("acks", "all")
        .create_with_context(rdkafka::producer::DefaultProducerContext)
        .context("make a Kafka producer")?;
    let record = BaseRecord::to(topic).partition(partition).key(key).payload(value);
    producer.send(record).map_err(|(error, _)| error).context("send a record")?;
    producer.flush(ANSWER_LIMIT).context("wait until the record is stored")
}
