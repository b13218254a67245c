//! The Kafka client: settings, and the callbacks that become events.

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::Kafka;

/// Bytes that librdkafka fetches ahead; its own default is 64 MiB.
const FETCH_AHEAD_KBYTES: &str = "32768";

/// What the group decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// These partitions are this collector's now, and wait to be told where to start.
    Assigned(Vec<i32>),
    /// No partition is this collector's any more.
    Revoked,
    /// librdkafka's reason why a broker cannot be used.
    Trouble(String),
    /// The same in words.
    InWords(String),
}

/// Turns callbacks into events and log lines.
pub(super) struct Context {
    events: UnboundedSender<Event>,
}

/// The consumer.
pub(super) type Client = StreamConsumer<Context>;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Broker problems arrive in `error` as well, and every reconnection attempt logs one here.
        let level = match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => log::Level::Warn,
            _ => log::Level::Debug,
        };
        log::log!(target: "librdkafka", level, "{facility}: {message}");
    }

    /// Called from the loop that receives, and a broker may have to be asked for its certificate: the event's receiver
    /// puts it into words.
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!(target: "librdkafka", "{error}: {reason}");
        let code = error.rdkafka_error_code();
        if code != Some(RDKafkaErrorCode::AllBrokersDown) && !code.is_some_and(is_answer) {
            // The receiver is gone when the collector stops.
            let _ = self.events.send(Event::Trouble(reason.to_owned()));
        }
    }
}

/// Whether a broker refuses what was asked. librdkafka reports everything twice, here and where records are received; there
/// the refusals are dealt with, here that a broker cannot be spoken to.
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
    /// Where to start is only known to the archive, which cannot be asked inside a callback. So nothing is assigned
    /// here; the event's receiver does it, and until then nothing is fetched.
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
        // The receiver is gone when the collector stops.
        let _ = self.events.send(event);
    }
}

/// Settings of every client of the collector.
///
/// # Errors
/// Every file with a secret or a certificate that does not do.
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
        .set("client.id", "edr-collectd")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "10000")
        // A topic that is made later is noticed this soon.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false");
    Ok(settings)
}

/// A consumer that has subscribed.
pub(super) fn subscribe(kafka: &Kafka, instance: &str, events: UnboundedSender<Event>) -> anyhow::Result<Client> {
    let context = Context { events };
    let client: Client = settings(kafka)?
        .set("group.id", &kafka.group)
        // A collector that was killed gets its partitions back at once, not when the group has missed it for 30 s.
        .set("group.instance.id", instance)
        // The archive holds the position; the group's is a hint for those who look at lag.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that Kafka no longer has is a loss to be named, not to be skipped.
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "range")
        .set("queued.max.messages.kbytes", FETCH_AHEAD_KBYTES)
        .set("fetch.message.max.bytes", "5242880")
        .set("check.crcs", "true")
        .set("session.timeout.ms", "30000")
        .create_with_context(context)?;
    client.subscribe(&[kafka.topic.as_str()])?;
    Ok(client)
}
