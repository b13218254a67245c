//! Checks before a start: if the brokers accept this client, if the topic exists, and if its settings fit.

use std::time::{Duration, Instant};

use edr_daemon::kafka::{Cause, RecordBytes, cause, judge, judge_security};
use edr_daemon::preflight::Findings;
use jiff::Timestamp;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::producer::connection;
use super::remedy::{Failure, in_words};
use crate::config::{ProducerConfig, RECORD_HEADER_BYTES_MAX};

/// Time limit for the answer of the brokers.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Number of callbacks handled after a request, and the time limit for each.
const CALLBACKS: u32 = 10;
const CALLBACK_MAX: Duration = Duration::from_millis(10);
/// Time limit of one request. Between two requests librdkafka reports why there is no answer.
const QUESTION_MAX: Duration = Duration::from_secs(2);

/// Keeps librdkafka's error text, which the results of its functions lack.
#[derive(Default)]
struct CheckCallbacks {
    reason: Mutex<Option<String>>,
}

impl ConsumerContext for CheckCallbacks {}

impl ClientContext for CheckCallbacks {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *self.reason.lock() = Some(reason.to_owned());
        }
    }
}

/// Checks the files with certificates and secrets, the brokers, and the topic.
pub fn examine(kafka: &ProducerConfig, findings: &mut Findings) {
    judge_security(findings, &kafka.security, &kafka.brokers, Timestamp::now());
    let record_bytes = kafka.part_bytes_max + RECORD_HEADER_BYTES_MAX;
    let refused = |code: Code| {
        let failure = Failure { code, text: code.to_string(), fatal: false };
        let words = in_words(&failure, kafka, record_bytes);
        let (text, remedy) = words.rsplit_once(": ").map_or((words.as_str(), ""), |(text, remedy)| (text, remedy));
        (text.to_owned(), remedy.to_owned())
    };
    let made = connection(kafka, "edr-agentd-check").and_then(|mut config| {
        let words = |error: KafkaError| error.to_string();
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let client: BaseConsumer<CheckCallbacks> =
            config.create_with_context(CheckCallbacks::default()).map_err(words)?;
        Ok((client, config.create::<AdminClient<DefaultClientContext>>().map_err(words)?))
    });
    let (client, admin) = match made {
        Ok(made) => made,
        // Each faulty file was already reported above.
        Err(error) => return findings.fail("broker", error, "edr-agentd check"),
    };
    let metadata = match ask(&client, kafka) {
        Ok(metadata) => metadata,
        Err((text, remedy)) => return findings.fail("broker", text, remedy),
    };
    let brokers: Vec<String> =
        metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
    findings.ok("broker", format!("{} answer: {}", brokers.len(), brokers.join(", ")));
    let topic = metadata.topics().iter().find(|topic| topic.name() == kafka.topic);
    let partitions = topic.map_or(&[][..], MetadataTopic::partitions);
    if let Some(error) = topic.and_then(MetadataTopic::error) {
        let (text, remedy) = refused(error.into());
        return findings.fail("topic", text, remedy);
    }
    if partitions.is_empty() {
        let (text, remedy) = refused(Code::UnknownTopicOrPartition);
        return findings.fail("topic", text, remedy);
    }
    let copies = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
    let text = format!("{}: {} partitions, {copies} copies", kafka.topic, partitions.len());
    if copies < 2 {
        let remedy = "kafka-reassign-partitions.sh, or make it anew with: edr-collectd check --online --create-topic \
        --replication 3";
        findings.warn("topic", format!("{text}: the loss of one disk loses acknowledged records"), remedy);
    } else {
        findings.ok("topic", text);
    }
    let record = RecordBytes { least: kafka.part_bytes_max as u64, most: record_bytes as u64 };
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let resource = ResourceSpecifier::Topic(&kafka.topic);
    let asked = admin.describe_configs([&resource], &options);
    let answer = futures::executor::block_on(asked).map_err(|error| error.to_string());
    match answer.map(|resources| resources.into_iter().next()) {
        // A client without the right to read the settings gets an empty list.
        Ok(Some(Ok(resource))) if resource.entries.is_empty() => {
            findings.ok("topic size", "this client may not read the settings: edr-collectd check --online checks them");
        }
        Ok(Some(Ok(resource))) => judge(findings, &kafka.topic, &kafka.brokers, record, |name| {
            resource.get(name).and_then(|entry| entry.value.clone())
        }),
        // Reading the settings needs a right that the agent does not need.
        Ok(Some(Err(code))) => findings.ok("topic size", format!("this client may not read the settings: {code}")),
        Ok(None) => findings.ok("topic size", "this client may not read the settings"),
        Err(error) => findings.warn("topic size", format!("settings are not told: {error}"), ""),
    }
}

/// Returns the topic's metadata, or a text and a remedy: at once when a broker refuses, otherwise at the end of the
/// time limit.
fn ask(client: &BaseConsumer<CheckCallbacks>, kafka: &ProducerConfig) -> Result<Metadata, (String, String)> {
    let started = Instant::now();
    loop {
        let error = match client.fetch_metadata(Some(&kafka.topic), QUESTION_MAX) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Each call handles one callback; the callbacks have the error text.
        for _ in 0..CALLBACKS {
            let _ = client.poll(CALLBACK_MAX);
        }
        let reason = client.context().reason.lock().clone();
        let is_refusal = reason.as_deref().and_then(cause).is_some_and(Cause::is_refusal);
        if is_refusal || started.elapsed() > ANSWER_MAX {
            let reason = reason.unwrap_or_else(|| error.to_string());
            if let Some(words) = edr_daemon::kafka::in_words(&reason, &kafka.security) {
                let (text, remedy) = words.split_once(": ").unwrap_or((&words, ""));
                return Err((text.to_owned(), remedy.to_owned()));
            }
            let text = format!("no broker of {} answers: {reason}", kafka.brokers.join(", "));
            return Err((text, "look whether they run and can be reached: nc -vz HOST PORT".to_owned()));
        }
    }
}
