//! The Kafka client: settings, and callbacks that send events to the consumer.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::Kafka;

/// Timeout for a broker's answer about cluster and offsets.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Name of the collector in requests.
pub(super) const CLIENT_ID: &str = "edr-collectd";

/// A change reported by a callback.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The group assigned these partitions to this collector.
    Assigned(Vec<i32>),
    /// The group took all partitions away.
    Revoked,
    /// librdkafka's reason why a broker is unusable.
    Trouble(String),
    /// The explanation of a reason, for people.
    InWords(String),
    /// The answer to a question about partitions.
    Ends {
        /// Number of the question.
        round: u64,
        /// The answer, or the reason of the failure.
        answer: Result<TopicEnds, String>,
    },
}

/// The cluster, and the ends of the logs of some partitions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopicEnds {
    /// Id of the cluster.
    pub(super) cluster: String,
    pub(super) partitions: Vec<PartitionEnds>,
}

/// The ends of a partition's log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionEnds {
    pub(super) partition: i32,
    /// The first offset.
    pub(super) low: i64,
    /// The offset after the last.
    pub(super) high: i64,
}

impl TopicEnds {
    /// Asks the brokers; blocks for [`ANSWER_MAX`] at most, for each question.
    pub(super) fn ask(client: &Client, topic: &str, partitions: Vec<i32>) -> Result<Self, String> {
        let cluster =
            client.client().fetch_cluster_id(ANSWER_MAX).ok_or("Kafka does not tell the id of its cluster")?;
        let ends = |partition| match client.fetch_watermarks(topic, partition, ANSWER_MAX) {
            Ok((low, high)) => Ok(PartitionEnds { partition, low, high }),
            Err(error) => Err(format!("ask Kafka what partition {partition} holds: {error}")),
        };
        Ok(Self { cluster, partitions: partitions.into_iter().map(ends).collect::<Result<_, String>>()? })
    }
}

/// Turns callbacks into events and log lines.
pub(super) struct Context {
    events: UnboundedSender<Event>,
}

/// The consumer of librdkafka.
pub(super) type Client = StreamConsumer<Context>;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Broker problems also arrive in `error`, and librdkafka logs a line here at every reconnection attempt.
        let level = match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => log::Level::Warn,
            _ => log::Level::Debug,
        };
        log::log!(target: "librdkafka", level, "{facility}: {message}");
    }

    /// The receiver of the event explains the reason. The explanation may need a connection to the broker, and this
    /// callback must not block the reception of records.
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!(target: "librdkafka", "{error}: {reason}");
        let code = error.rdkafka_error_code();
        if code != Some(RDKafkaErrorCode::AllBrokersDown) && !code.is_some_and(is_answer) {
            // Sending fails when the collector stops; ignored.
            let _ = self.events.send(Event::Trouble(reason.to_owned()));
        }
    }
}

/// Returns true when the error is a broker's refusal of a request, false when a broker is unreachable or unusable.
/// librdkafka reports every error twice, to `Context::error` and to the receiver of records. The receiver handles
/// refusals, the callback handles unusable brokers.
pub(super) fn is_answer(code: RDKafkaErrorCode) -> bool {
    !matches!(
        code,
        RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::AllBrokersDown
    )
}

impl ConsumerContext for Context {
    /// Assigns nothing: start positions are in the archive, which cannot be read inside a callback. The receiver of the
    /// event assigns the partitions; until then nothing is fetched.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let event = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                Event::Assigned(partitions.elements().iter().map(TopicPartitionListElem::partition).collect())
            }
            _ => {
                if let Err(error) = consumer.unassign() {
                    log::warn!("give partitions back to Kafka: {error}");
                }
                Event::Revoked
            }
        };
        // Sending fails when the collector stops; ignored.
        let _ = self.events.send(event);
    }
}

/// Returns the common settings of all clients of the collector.
///
/// # Errors
/// When a file with a secret or a certificate is invalid; the error names every such file.
pub(super) fn settings(kafka: &Kafka) -> anyhow::Result<ClientConfig> {
    let security = kafka.security.read().map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", faults.join("; "))
    })?;
    let mut settings = ClientConfig::new();
    security.each(|name, value| {
        settings.set(name, value);
    });
    settings
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("client.id", CLIENT_ID)
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "10000")
        // Longest delay until a new topic is noticed.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false");
    Ok(settings)
}

/// Makes a consumer and subscribes to the topic. The consumer never fetches: its partitions are paused, and `fetch`
/// reads them.
pub(super) fn subscribe(kafka: &Kafka, instance: &str, events: UnboundedSender<Event>) -> anyhow::Result<Client> {
    let context = Context { events };
    let client: Client = settings(kafka)?
        .set("group.id", &kafka.group)
        // Static membership: a killed collector gets its partitions back at once, not after the session timeout of 30
        // s.
        .set("group.instance.id", instance)
        // The position is in the archive; the group's offset is a hint for tools that show the lag.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "30000")
        .create_with_context(context)?;
    client.subscribe(&[kafka.topic.as_str()])?;
    Ok(client)
}
