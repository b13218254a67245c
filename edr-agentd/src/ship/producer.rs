//! The Kafka producer, one frame at a time. librdkafka's queue never holds more than the frame being sent: the order is
//! kept in spite of failures, and the spool stays the only store.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use edr_daemon::kafka::Cause;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::remedy::Failure;
use crate::config::ProducerConfig;
use crate::spool::StoredFrame;

/// Size of librdkafka's queue: one frame of ordinary size. A larger frame passes through the queue part by part.
/// librdkafka's default is 1 GiB.
const QUEUE_KIB_MAX: usize = 8 << 10;
/// librdkafka's default of `message.max.bytes`.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;
/// Space for key and protocol around a record.
const MESSAGE_OVERHEAD_BYTES: usize = 8 << 10;
/// Longest wait in librdkafka's queue between two checks of the stop signal.
const POLL_MAX: Duration = Duration::from_millis(100);
/// Additional time for a report: reports are due when `message.timeout.ms` is over, and a producer without a report for
/// this time longer is broken.
const OVERDUE: Duration = Duration::from_secs(30);

/// The result of delivering a frame.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Kafka has acknowledged all records of the frame.
    Acknowledged,
    /// At least one record may be missing in Kafka.
    Failed(Failure),
    /// The delivery was abandoned: the agent stops, or the settings have changed.
    GivenUp,
}

/// A producer for one configuration.
pub(super) struct Producer {
    producer: BaseProducer<ProducerCallbacks>,
    reports: Receiver<DeliveryReport>,
    last_error: Arc<Mutex<Option<String>>>,
    topic: String,
    overdue: Duration,
    /// Number of the present delivery, to recognize stale reports of an abandoned delivery.
    delivery: usize,
}

/// librdkafka's report about one record.
struct DeliveryReport {
    delivery: usize,
    result: Result<(), Failure>,
}

/// librdkafka's callbacks: delivery reports and errors.
struct ProducerCallbacks {
    reports: Mutex<Sender<DeliveryReport>>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl ClientContext for ProducerCallbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let level = match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => log::Level::Error,
            // librdkafka logs much about a broker that is away; the shipper reports the outage itself, once a minute.
            _ => log::Level::Debug,
        };
        edr_daemon::limited!(level, "librdkafka {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka: {error}: {reason}");
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            return;
        }
        let mut last = self.last_error.lock();
        let is_refusal = |reason: &str| edr_daemon::kafka::cause(reason).is_some_and(Cause::is_refusal);
        // A refusal by one broker is more important than another broker that is away.
        if is_refusal(reason) || !last.as_deref().is_some_and(is_refusal) {
            *last = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for ProducerCallbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(failure(error)),
        };
        // The receiver lives as long as the producer; a report without a receiver is not needed.
        let _ = self.reports.lock().send(DeliveryReport { delivery, result });
    }
}

/// Returns the settings shared by all Kafka clients of the agent.
///
/// # Errors
/// All unusable files with secrets or certificates.
pub(super) fn connection(kafka: &ProducerConfig, client: &str) -> Result<ClientConfig, String> {
    let settings = kafka.security.read().map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        faults.join("; ")
    })?;
    let mut config = ClientConfig::new();
    config
        .set("client.id", client)
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false");
    settings.each(|name, value| {
        config.set(name, value);
    });
    Ok(config)
}

impl Producer {
    /// Makes a producer, which connects in the background; the brokers may be away.
    ///
    /// # Errors
    /// A text, when a file with a secret or a certificate is unusable, or when librdkafka refuses the configuration.
    pub(super) fn new(kafka: &ProducerConfig) -> Result<Self, String> {
        let (sender, reports) = channel();
        let last_error = Arc::new(Mutex::new(None));
        let context = ProducerCallbacks { reports: Mutex::new(sender), last_error: Arc::clone(&last_error) };
        let record_bytes_max = kafka.part_bytes_max + crate::config::RECORD_HEADER_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;
        let message_bytes_max = record_bytes_max.max(MESSAGE_BYTES_DEFAULT);
        let timeout_ms = kafka.message_timeout.as_millis();
        // Shorter than the message timeout, so that a missing topic is reported as missing and not as a timeout.
        let propagation_ms = (timeout_ms / 2).min(10_000);
        let producer = connection(kafka, "edr-agentd")?
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "none")
            .set("message.timeout.ms", timeout_ms.to_string())
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string())
            .set("reconnect.backoff.ms", "250")
            .set("reconnect.backoff.max.ms", "5000")
            .set("topic.metadata.propagation.max.ms", propagation_ms.to_string())
            .set("socket.keepalive.enable", "true")
            .set_log_level(RDKafkaLogLevel::Info)
            .create_with_context(context)
            .map_err(|error| error.to_string())?;
        let overdue = kafka.message_timeout + OVERDUE;
        Ok(Self { producer, reports, last_error, topic: kafka.topic.clone(), overdue, delivery: 0 })
    }

    /// Handles librdkafka's events while no frame is being sent.
    pub(super) fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Sends all records of a frame, in order, and waits for the report of each record. Meanwhile `goes_on` is called
    /// about ten times a second with the elapsed time and the last error text; when it returns false, the delivery is
    /// abandoned.
    pub(super) fn deliver(
        &mut self,
        frame: &StoredFrame,
        mut goes_on: impl FnMut(Duration, Option<&str>) -> bool,
    ) -> Delivery {
        self.delivery = self.delivery.wrapping_add(1);
        let key = frame.header.host_id.to_string();
        let mut unsent = frame.records().peekable();
        let mut outstanding = 0_usize;
        let mut failed: Option<Failure> = None;
        let started = Instant::now();
        let mut slice = Duration::from_millis(1);
        loop {
            while let Some(record) = unsent.peek().filter(|_| failed.is_none()) {
                let message = BaseRecord::with_opaque_to(&self.topic, self.delivery).key(&key).payload(*record);
                match self.producer.send(message) {
                    Ok(()) => {
                        unsent.next();
                        outstanding += 1;
                    }
                    Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) && outstanding > 0 => break,
                    Err((error, _)) => failed = Some(failure(&error)),
                }
            }
            if outstanding == 0 {
                return match failed {
                    None => Delivery::Acknowledged,
                    Some(failure) => Delivery::Failed(self.with_cause(failure)),
                };
            }
            self.producer.poll(slice);
            // BaseProducer::poll returns at the end of its time and not at an event, so the first waits are short.
            slice = (slice * 2).min(POLL_MAX);
            for report in self.reports.try_iter().filter(|report| report.delivery == self.delivery) {
                outstanding -= 1;
                slice = Duration::from_millis(1);
                if let Err(failure) = report.result {
                    failed.get_or_insert(failure);
                }
            }
            if let Some((code, text)) = self.producer.client().fatal_error() {
                return Delivery::Failed(Failure { code, text, fatal: true });
            }
            if started.elapsed() > self.overdue {
                let text = format!("no report within {} s", self.overdue.as_secs());
                return Delivery::Failed(Failure { code: Code::MessageTimedOut, text, fatal: true });
            }
            let last_error = self.last_error.lock().clone();
            if !goes_on(started.elapsed(), last_error.as_deref()) {
                return Delivery::GivenUp;
            }
        }
    }

    /// Adds the error text of the meantime, because "Message timed out" and "fatal error" name no cause.
    fn with_cause(&self, failure: Failure) -> Failure {
        if failure.fatal
            && let Some((code, text)) = self.producer.client().fatal_error()
        {
            return Failure { code, text, fatal: true };
        }
        let cause = self.last_error.lock().take();
        match cause {
            Some(cause) if failure.is_away() => Failure { text: format!("{}: {cause}", failure.text), ..failure },
            _ => failure,
        }
    }
}

fn failure(error: &KafkaError) -> Failure {
    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
    Failure { code, text: code.to_string(), fatal: code == Code::Fatal }
}
