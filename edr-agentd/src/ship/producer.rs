//! The Kafka producer, one frame at a time: librdkafka's queue never holds more than the frame that is on its way, so
//! order is kept whatever fails, and the spool stays the only store.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_daemon::kafka::Cause;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::remedy::Failure;
use crate::config::Kafka;
use crate::spool::Stored;

/// librdkafka's queue: one frame of ordinary size; a larger one passes through it part by part. Its default is 1 GiB.
const QUEUE_KIB_MAX: usize = 8 << 10;
/// librdkafka's default for `message.max.bytes`.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;
/// Room for key and protocol around a record.
const MESSAGE_OVERHEAD_BYTES: usize = 8 << 10;
/// The longest sleep in librdkafka's queue before the stop signal is looked at.
const POLL_MAX: Duration = Duration::from_millis(100);
/// Reports come at the latest when `message.timeout.ms` is over; a producer that stays silent so much longer is broken.
const OVERDUE: Duration = Duration::from_secs(30);

/// How delivering a frame ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Kafka has all its records.
    Acknowledged,
    /// At least one record may not be there.
    Failed(Failure),
    /// Nobody wants to go on: the agent stops, or this producer is not the one that the settings mean.
    GivenUp,
}

/// A producer for one configuration.
pub(super) struct Producer {
    producer: BaseProducer<Context>,
    reports: Receiver<Report>,
    last_error: Arc<Mutex<Option<String>>>,
    topic: String,
    overdue: Duration,
    /// Tells the reports of this delivery from those of one given up before.
    delivery: usize,
}

/// librdkafka's word on one record.
struct Report {
    delivery: usize,
    result: Result<(), Failure>,
}

struct Context {
    reports: Mutex<Sender<Report>>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let level = match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => log::Level::Error,
            // A broker that is away fills librdkafka's log; the shipper says it in its own words, once a minute.
            _ => log::Level::Debug,
        };
        edr_daemon::limited!(level, "librdkafka {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka: {error}: {reason}");
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            return;
        }
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refusal = |reason: &str| edr_daemon::kafka::cause(reason).is_some_and(Cause::is_refusal);
        // One broker that refuses says more than another one that is away.
        if is_refusal(reason) || !last.as_deref().is_some_and(is_refusal) {
            *last = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(failure(error)),
        };
        // The receiver lives as long as the producer; a report without one is not missed.
        let _ = self.reports.lock().unwrap_or_else(PoisonError::into_inner).send(Report { delivery, result });
    }
}

/// What every client of the agent is told.
///
/// # Errors
/// Every file with a secret or a certificate that does not do.
pub(super) fn connection(kafka: &Kafka, client: &str) -> Result<ClientConfig, String> {
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
    /// Connects in the background; brokers need not be there.
    ///
    /// # Errors
    /// When a file with a secret or a certificate does not do, or librdkafka refuses the configuration. In words.
    pub(super) fn new(kafka: &Kafka) -> Result<Self, String> {
        let (sender, reports) = channel();
        let last_error = Arc::new(Mutex::new(None));
        let context = Context { reports: Mutex::new(sender), last_error: Arc::clone(&last_error) };
        let record_bytes_max = kafka.part_bytes_max + crate::config::RECORD_HEADER_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;
        let message_bytes_max = record_bytes_max.max(MESSAGE_BYTES_DEFAULT);
        let timeout_ms = kafka.message_timeout.as_millis();
        // Shorter than the timeout, so that a missing topic is called missing and not a broker that does not answer.
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

    /// Handles what librdkafka has to say while nothing is on its way.
    pub(super) fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Sends all records of a frame, in order, and waits for the report of each. `goes_on` is called about ten times
    /// a second meanwhile, with the time it lasts and the last thing that went wrong; false gives the delivery up.
    pub(super) fn deliver(
        &mut self,
        frame: &Stored,
        mut goes_on: impl FnMut(Duration, Option<&str>) -> bool,
    ) -> Outcome {
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
                    None => Outcome::Acknowledged,
                    Some(failure) => Outcome::Failed(self.with_cause(failure)),
                };
            }
            self.producer.poll(slice);
            // BaseProducer::poll returns when its time is over, not when there is something: short sleeps at first.
            slice = (slice * 2).min(POLL_MAX);
            for report in self.reports.try_iter().filter(|report| report.delivery == self.delivery) {
                outstanding -= 1;
                slice = Duration::from_millis(1);
                if let Err(failure) = report.result {
                    failed.get_or_insert(failure);
                }
            }
            if let Some((code, text)) = self.producer.client().fatal_error() {
                return Outcome::Failed(Failure { code, text, fatal: true });
            }
            if started.elapsed() > self.overdue {
                let text = format!("no report within {} s", self.overdue.as_secs());
                return Outcome::Failed(Failure { code: Code::MessageTimedOut, text, fatal: true });
            }
            let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !goes_on(started.elapsed(), last_error.as_deref()) {
                return Outcome::GivenUp;
            }
        }
    }

    /// "Message timed out" and "fatal error" say nothing; what happened meanwhile does.
    fn with_cause(&self, failure: Failure) -> Failure {
        if failure.fatal
            && let Some((code, text)) = self.producer.client().fatal_error()
        {
            return Failure { code, text, fatal: true };
        }
        let cause = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
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
