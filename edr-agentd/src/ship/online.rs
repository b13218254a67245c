//! Asking Kafka before anything is sent: whether brokers let this client in, the topic exists, and its settings fit.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_daemon::kafka::{Cause, RecordBytes, cause, judge, judge_security};
use edr_daemon::preflight::Findings;
use jiff::Timestamp;
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
use crate::config::{Kafka, RECORD_HEADER_BYTES_MAX};

/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Callbacks that are served after a question, and how long each is waited for.
const CALLBACKS: u32 = 10;
const CALLBACK_MAX: Duration = Duration::from_millis(10);
/// How long one question lasts: between two, librdkafka says why there is no answer.
const QUESTION_MAX: Duration = Duration::from_secs(2);

/// Keeps librdkafka's reason, which its answers do not have.
#[derive(Default)]
struct Context {
    reason: Mutex<Option<String>>,
}

impl ConsumerContext for Context {}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

/// What the files with certificates and secrets, the brokers and the topic are like.
pub fn examine(kafka: &Kafka, findings: &mut Findings) {
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
        let client: BaseConsumer<Context> = config.create_with_context(Context::default()).map_err(words)?;
        Ok((client, config.create::<AdminClient<DefaultClientContext>>().map_err(words)?))
    });
    let (client, admin) = match made {
        Ok(made) => made,
        // Said above, for each file.
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
        let remedy = "kafka-reassign-partitions.sh, or make it anew with: edr-collectd check --online --create-topic --replication 3";
        findings.warn("topic", format!("{text}: what Kafka acknowledged goes with one disk"), remedy);
    } else {
        findings.ok("topic", text);
    }
    let record = RecordBytes { least: kafka.part_bytes_max as u64, most: record_bytes as u64 };
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let resource = ResourceSpecifier::Topic(&kafka.topic);
    let asked = admin.describe_configs([&resource], &options);
    let answer = futures::executor::block_on(asked).map_err(|error| error.to_string());
    match answer.map(|resources| resources.into_iter().next()) {
        // A client that may not read them is given none.
        Ok(Some(Ok(resource))) if resource.entries.is_empty() => {
            findings.ok("topic size", "settings are not told to this client: edr-collectd check --online judges them");
        }
        Ok(Some(Ok(resource))) => judge(findings, &kafka.topic, &kafka.brokers, record, |name| {
            resource.get(name).and_then(|entry| entry.value.clone())
        }),
        // Not everybody may read them, and nobody has to.
        Ok(Some(Err(code))) => findings.ok("topic size", format!("settings are not told to this client: {code}")),
        Ok(None) => findings.ok("topic size", "settings are not told to this client"),
        Err(error) => findings.warn("topic size", format!("settings are not told: {error}"), ""),
    }
}

/// The topic's metadata, or why there is none and what mends it: as soon as a broker refuses, and else when it is time.
fn ask(client: &BaseConsumer<Context>, kafka: &Kafka) -> Result<Metadata, (String, String)> {
    let started = Instant::now();
    loop {
        let error = match client.fetch_metadata(Some(&kafka.topic), QUESTION_MAX) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Serves the callbacks, one a call, which have the reason.
        for _ in 0..CALLBACKS {
            let _ = client.poll(CALLBACK_MAX);
        }
        let reason = client.context().reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
