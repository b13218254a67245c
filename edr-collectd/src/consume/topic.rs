//! The topic: whether it is there, how to make it, and making it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;

use super::client::settings;
use crate::config::Kafka;

/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Partitions of a new topic: so many collectors can share the work.
pub const PARTITIONS: i32 = 6;
/// What a record and its key may have in bytes: the largest part of a frame as delivered, with its header.
const MESSAGE_BYTES: u64 = (edr_wire::limits::PART_BYTES + (64 << 10)) as u64;

/// Settings of a new topic, each with its reason.
const SETTINGS: [(&str, &str); 3] = [
    // A week without a collector loses nothing.
    ("retention.ms", "604800000"),
    ("cleanup.policy", "delete"),
    // Bodies are compressed already.
    ("compression.type", "producer"),
];

/// A topic as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Id of the cluster.
    pub cluster: String,
    /// Brokers of the cluster.
    pub brokers: usize,
    /// Partitions; `None` when there is no such topic.
    pub partitions: Option<usize>,
}

/// Asks the brokers.
///
/// # Errors
/// When none of them answers.
pub fn look(kafka: &Kafka) -> Result<Topic> {
    let client: BaseConsumer = settings(kafka)?.set("log_level", "0").create().context("make a Kafka client")?;
    let brokers = kafka.brokers.join(", ");
    let all = client
        .fetch_metadata(None, ANSWER_MAX)
        .with_context(|| format!("ask Kafka at {brokers}; is it running, and is the address right?"))?;
    let topic = all.topics().iter().find(|topic| topic.name() == kafka.topic && topic.error().is_none());
    let cluster = client.client().fetch_cluster_id(ANSWER_MAX).context("Kafka does not tell the id of its cluster")?;
    Ok(Topic { cluster, brokers: all.brokers().len(), partitions: topic.map(|topic| topic.partitions().len()) })
}

/// The command that makes the topic, for a person with Kafka's tools.
pub fn command(kafka: &Kafka, replication: i32) -> String {
    let mut command = format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {} --partitions {PARTITIONS} --replication-factor {replication}",
        kafka.brokers.join(","),
        kafka.topic
    );
    for (name, value) in SETTINGS {
        command.push_str(&format!(" --config {name}={value}"));
    }
    command
}

/// Makes the topic.
///
/// # Errors
/// When the cluster refuses.
pub async fn create(kafka: &Kafka, partitions: i32, replication: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = settings(kafka)?.create().context("make a Kafka client")?;
    let mut topic = NewTopic::new(&kafka.topic, partitions, TopicReplication::Fixed(replication));
    for (name, value) in SETTINGS {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
    let results = admin.create_topics(&[topic], &options).await.context("ask Kafka to make the topic")?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, RDKafkaErrorCode::InvalidReplicationFactor)) => bail!(
                "make topic {name}: {replication} copies need {replication} brokers; give --replication the number there are"
            ),
            Err((name, code)) => bail!("make topic {name}: {code}"),
        }
    }
    Ok(())
}

/// What of the topic's settings does not fit, in words that say what mends it.
///
/// # Errors
/// When the settings cannot be read.
pub async fn misfits(kafka: &Kafka) -> Result<Vec<String>> {
    let admin: AdminClient<DefaultClientContext> = settings(kafka)?.create().context("make a Kafka client")?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let topic = ResourceSpecifier::Topic(&kafka.topic);
    let resources = admin.describe_configs([&topic], &options).await.context("ask Kafka for the topic's settings")?;
    let mut misfits = Vec::new();
    for resource in resources {
        let resource =
            resource.map_err(|code| anyhow::anyhow!("read the settings of topic {}: {code}", kafka.topic))?;
        let value = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
        if let Some(bytes) = value("max.message.bytes").and_then(|text| text.parse::<u64>().ok())
            && bytes < MESSAGE_BYTES
        {
            misfits.push(format!(
                "max.message.bytes is {bytes}, agents send records of up to {MESSAGE_BYTES} as delivered: raise it, or \
                 lower kafka.part-bytes-max of the agents"
            ));
        }
        if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            misfits.push(
                "cleanup.policy compacts: of every host only the last record would stay; set it to delete".into(),
            );
        }
    }
    Ok(misfits)
}
