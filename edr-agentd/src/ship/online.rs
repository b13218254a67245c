//! Asking Kafka before anything is sent: whether brokers answer, the topic exists, and its limits fit.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::producer::connection;
use super::remedy::{Failure, in_words};
use crate::config::{Kafka, RECORD_HEADER_BYTES_MAX};

/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What Kafka answers, one line a fact.
///
/// # Errors
/// What is wrong and what mends it, in words.
pub fn examine(kafka: &Kafka) -> Result<Vec<String>, String> {
    let refused = |code: Code| {
        let failure = Failure { code, text: code.to_string(), fatal: false };
        in_words(&failure, kafka, kafka.part_bytes_max + RECORD_HEADER_BYTES_MAX)
    };
    let unknown = |error: rdkafka::error::KafkaError| match error.rdkafka_error_code() {
        Some(code) => refused(code),
        None => error.to_string(),
    };
    let admin: AdminClient<DefaultClientContext> = connection(kafka, "edr-agentd-check")?
        // What goes wrong is in the answers.
        .set_log_level(RDKafkaLogLevel::Emerg)
        .create()
        .map_err(unknown)?;
    let metadata = admin.inner().fetch_metadata(Some(&kafka.topic), ANSWER_MAX).map_err(unknown)?;
    let brokers: Vec<String> =
        metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
    let mut facts = vec![format!("brokers: {}", brokers.join(", "))];
    let topic = metadata.topics().iter().find(|topic| topic.name() == kafka.topic);
    let partitions = topic.map_or(0, |topic| topic.partitions().len());
    if let Some(error) = topic.and_then(MetadataTopic::error) {
        return Err(refused(error.into()));
    }
    if partitions == 0 {
        return Err(refused(Code::UnknownTopicOrPartition));
    }
    facts.push(format!("topic {}: {partitions} partitions", kafka.topic));
    match limit(&admin, &kafka.topic) {
        Ok(limit) if limit < (kafka.part_bytes_max + RECORD_HEADER_BYTES_MAX) as u64 => {
            // A header is seldom large: what certainly does not fit is an error, what may not fit is said.
            if limit < kafka.part_bytes_max as u64 {
                return Err(format!(
                    "topic {} takes messages of {limit} bytes: raise its max.message.bytes, or lower \
                     kafka.part-bytes-max, which is {} bytes",
                    kafka.topic, kafka.part_bytes_max
                ));
            }
            facts.push(format!(
                "max.message.bytes: {limit}; enough for kafka.part-bytes-max and {} bytes of header",
                limit - kafka.part_bytes_max as u64
            ));
        }
        Ok(limit) => facts.push(format!("max.message.bytes: {limit}")),
        // Not everybody may read it.
        Err(why) => facts.push(format!("max.message.bytes: not known: {why}")),
    }
    Ok(facts)
}

fn limit(admin: &AdminClient<DefaultClientContext>, topic: &str) -> Result<u64, String> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let answer = futures::executor::block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
    let configs = answer.map_err(|error| error.to_string())?;
    let config = configs.into_iter().next().ok_or("no answer")?.map_err(|code| code.to_string())?;
    let value = config.get("max.message.bytes").and_then(|entry| entry.value.clone());
    value.ok_or("not told")?.parse().map_err(|_| "not a number".to_owned())
}
