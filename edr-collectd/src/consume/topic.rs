//! The topic: lookup, creation, and checks of settings and rights.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edr_daemon::kafka::{Cause, RecordBytes, cause, in_words, judge};
use edr_daemon::preflight::Findings;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;

use super::client::settings;
use crate::config::Kafka;

/// Timeout for a broker's answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Number of polls for librdkafka's callbacks after a failed request, each with the timeout `CALLBACK_MAX`.
const CALLBACKS: u32 = 10;
const CALLBACK_MAX: Duration = Duration::from_millis(10);
/// Timeout of one metadata request. librdkafka gives the reason of a failure only between two requests.
const QUESTION_MAX: Duration = Duration::from_secs(2);
/// Partitions of a new topic, and so the number of collectors with a share of the work.
pub const PARTITIONS: i32 = 6;
/// Largest record and key, in bytes: a part of a frame in the default size, and a header with full lists of losses,
/// which has 170 KiB ([`edr_wire::limits::PART_BYTES`]).
const MESSAGE_BYTES: u64 = (edr_wire::limits::PART_BYTES + (180 << 10)) as u64;

/// Settings of a new topic, each with its reason.
const SETTINGS: [(&str, &str); 3] = [
    // Nothing is lost when the collector is down for a week.
    ("retention.ms", "604800000"),
    ("cleanup.policy", "delete"),
    // The body of a frame is compressed already; and with another value a broker unfolds what a client compressed, in
    // its own memory and without a limit.
    ("compression.type", "producer"),
];

/// The state of the topic in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Id of the cluster.
    pub cluster: String,
    /// Brokers of the cluster.
    pub brokers: usize,
    /// Partitions; `None` when the topic does not exist or is denied.
    pub partitions: Option<usize>,
    /// Lowest number of copies of any partition.
    pub copies: usize,
    /// True when the brokers deny this client access to the topic, existing or not.
    pub is_denied: bool,
}

/// Asks the brokers for the topic.
///
/// # Errors
/// When no broker answers, or the brokers refuse this client. The error explains the cause.
pub fn look(kafka: &Kafka) -> Result<Topic> {
    let client: BaseConsumer<Heard> =
        settings(kafka)?.create_with_context(Heard::default()).context("make a Kafka client")?;
    let started = Instant::now();
    let all = loop {
        let error = match client.fetch_metadata(None, QUESTION_MAX) {
            Ok(all) => break all,
            Err(error) => error,
        };
        // Runs the callbacks, one per call; a callback receives the reason.
        for _ in 0..CALLBACKS {
            let _ = client.poll(CALLBACK_MAX);
        }
        let reason = client.context().reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_refusal = reason.as_deref().and_then(cause).is_some_and(Cause::is_refusal);
        if is_refusal || started.elapsed() > ANSWER_MAX {
            let reason = reason.unwrap_or_else(|| error.to_string());
            let words = in_words(&reason, &kafka.security).unwrap_or_else(|| {
                format!(
                    "no broker of {} answers ({reason}): is it running, and is the address right?",
                    kafka.brokers.join(", ")
                )
            });
            bail!(words);
        }
    };
    let topic = all.topics().iter().find(|topic| topic.name() == kafka.topic && topic.error().is_none());
    let cluster = client.client().fetch_cluster_id(ANSWER_MAX).context("Kafka does not tell the id of its cluster")?;
    let copies = topic.and_then(|topic| topic.partitions().iter().map(|partition| partition.replicas().len()).min());
    // The list of all topics omits denied topics; only a request by name returns the denial.
    let is_denied = topic.is_none()
        && client.fetch_metadata(Some(&kafka.topic), ANSWER_MAX).is_ok_and(|named| {
            let denied = |topic: &MetadataTopic| {
                topic.error().map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
            };
            named.topics().iter().any(denied)
        });
    Ok(Topic {
        is_denied,
        cluster,
        brokers: all.brokers().len(),
        partitions: topic.map(|topic| topic.partitions().len()),
        copies: copies.unwrap_or(0),
    })
}

/// Client context with librdkafka's last reason for a failure; the errors of requests lack the reason.
#[derive(Default)]
struct Heard {
    reason: Mutex<Option<String>>,
}

impl ClientContext for Heard {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Heard {}

/// Returns the shell command that creates the topic with Kafka's own tools.
pub fn command(kafka: &Kafka, replication: i32) -> String {
    let mut command = format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {} --partitions {PARTITIONS} --replication-factor \
        {replication}",
        kafka.brokers.join(","),
        kafka.topic
    );
    for (name, value) in SETTINGS {
        command.push_str(&format!(" --config {name}={value}"));
    }
    command
}

/// Creates the topic; an existing topic is not an error.
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
                "make topic {name}: {replication} copies need {replication} brokers; give --replication the number \
                there are"
            ),
            Err((name, code)) => bail!("make topic {name}: {code}"),
        }
    }
    Ok(())
}

/// Checks the settings of the topic and adds the results to `findings`.
///
/// # Errors
/// When the settings cannot be read.
pub async fn judge_topic(kafka: &Kafka, findings: &mut Findings) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = settings(kafka)?.create().context("make a Kafka client")?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let topic = ResourceSpecifier::Topic(&kafka.topic);
    let resources = admin.describe_configs([&topic], &options).await.context("ask Kafka for the topic's settings")?;
    let record = RecordBytes { least: MESSAGE_BYTES, most: MESSAGE_BYTES };
    for resource in resources {
        let resource =
            resource.map_err(|code| anyhow::anyhow!("read the settings of topic {}: {code}", kafka.topic))?;
        if resource.entries.is_empty() {
            bail!("Kafka does not tell this client the settings of topic {}", kafka.topic);
        }
        judge(findings, &kafka.topic, &kafka.brokers, record, |name| {
            resource.get(name).and_then(|entry| entry.value.clone())
        });
    }
    Ok(())
}

/// Returns the shell command that allows this collector to read the topic.
pub fn allow_command(kafka: &Kafka) -> String {
    let denied = KafkaError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed);
    super::trouble::remedy(&denied, kafka).trim_start_matches("; allow it: ").to_owned()
}

/// Checks the right to read the group's offsets of all partitions, and the log's offsets of partition 0.
///
/// # Errors
/// The refusal, and the command that grants the right; the command is empty when none is known.
pub fn may_read(kafka: &Kafka, partitions: usize) -> Result<(), (String, String)> {
    let failed = |error: anyhow::Error| (format!("{error:#}"), String::new());
    let client: BaseConsumer = settings(kafka)
        .and_then(|mut settings| Ok(settings.set("group.id", &kafka.group).set("log_level", "0").create()?))
        .map_err(failed)?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(&kafka.topic, 0, i32::try_from(partitions.saturating_sub(1)).unwrap_or(i32::MAX));
    let refused = |error: KafkaError| {
        let remedy = super::trouble::remedy(&error, kafka);
        (error.to_string(), remedy.trim_start_matches("; allow it: ").to_owned())
    };
    client.committed_offsets(asked, ANSWER_MAX).map_err(refused)?;
    client.fetch_watermarks(&kafka.topic, 0, ANSWER_MAX).map_err(refused)?;
    Ok(())
}
