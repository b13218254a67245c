//! Explanations of Kafka's refusals, with a remedy.

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::config::ProducerConfig;

/// The reason why a frame was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Error code of librdkafka or of the broker.
    pub code: Code,
    /// Error text of librdkafka.
    pub text: String,
    /// True when the producer must be replaced.
    pub fatal: bool,
}

impl Failure {
    /// True when no broker could be reached, so that only waiting helps.
    pub fn is_away(&self) -> bool {
        matches!(
            self.code,
            Code::MessageTimedOut
                | Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NetworkException
        )
    }
}

/// Explains a failure in one sentence, with a remedy. `record_bytes` is the size of the frame's largest record.
pub fn in_words(failure: &Failure, kafka: &ProducerConfig, record_bytes: usize) -> String {
    let topic = &kafka.topic;
    let text = &failure.text;
    let remedy = match failure.code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            let part = edr_daemon::config::show_bytes(kafka.part_bytes_max as u64);
            return format!(
                "topic {topic} refuses a record of {record_bytes} bytes ({text}): raise max.message.bytes of the topic \
                 (or message.max.bytes of the brokers), or lower kafka.part-bytes-max, which is {part}"
            );
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
            return format!(
                "topic {topic} does not exist ({text}): make it with `edr-collectd check --online --create-topic`, or \
                 name another with kafka.topic"
            );
        }
        Code::TopicAuthorizationFailed => {
            let user = user(kafka);
            return format!(
                "{user} may not write topic {topic} ({text}): kafka-acls.sh --bootstrap-server {} --add \
                 --allow-principal {user} --operation Write --operation Describe --topic {topic}",
                kafka.brokers.join(",")
            );
        }
        Code::ClusterAuthorizationFailed => {
            let user = user(kafka);
            return format!(
                "{user} may not write idempotently ({text}): kafka-acls.sh --bootstrap-server {} --add \
                 --allow-principal {user} --operation IdempotentWrite --cluster",
                kafka.brokers.join(",")
            );
        }
        Code::SaslAuthenticationFailed | Code::Authentication | Code::UnsupportedSASLMechanism => {
            "mend user name, password or mechanism on the brokers or here"
        }
        Code::SSL => "compare certificates, their dates and names, and whether the port speaks TLS",
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "bring the missing replicas back, or lower min.insync.replicas of the topic"
        }
        Code::KafkaStorageError => "look at the disks of the brokers",
        Code::PolicyViolation | Code::InvalidConfig => "look at the policies of the brokers",
        Code::InvalidTimestamp => "look at the clock of this host and at message.timestamp.*.max.ms of the topic",
        _ if failure.is_away() => {
            return format!("no broker of {} takes frames ({text})", kafka.brokers.join(", "));
        }
        _ => "look at the log of the brokers",
    };
    format!("topic {topic}: {text}: {remedy}")
}

/// The principal under which Kafka knows this client, as far as it can be derived here.
fn user(kafka: &ProducerConfig) -> String {
    let certificate = kafka.security.tls.as_ref().and_then(|tls| tls.identity.as_ref());
    match (&kafka.security.sasl, certificate) {
        (Some(sasl), _) => format!("User:{}", sasl.username),
        (None, Some(_)) => "User:SUBJECT-OF-THE-CERTIFICATE".to_owned(),
        (None, None) => "User:ANONYMOUS".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting_that_mends_it() {
        let kafka = crate::config::Config::default().kafka;
        let words = |code| in_words(&Failure { code, text: "why".to_owned(), fatal: false }, &kafka, 786_600);
        let too_large = words(Code::MessageSizeTooLarge);
        for part in ["edr.snapshots", "786600 bytes", "max.message.bytes", "kafka.part-bytes-max, which is 768KiB"] {
            assert!(too_large.contains(part), "{too_large}");
        }
        assert!(words(Code::UnknownTopicOrPartition).contains("edr-collectd check --online --create-topic"));
        assert!(words(Code::TopicAuthorizationFailed).contains("--allow-principal User:ANONYMOUS --operation Write"));
        assert!(words(Code::MessageTimedOut).contains("no broker of"));
    }
}
