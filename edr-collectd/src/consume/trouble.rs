//! Explains why Kafka cannot be read, with the remedy.

use std::time::Duration;

use edr_daemon::kafka::{Cause, Security, cause, in_words};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use crate::config::Kafka;
use crate::event::Event;

/// How long an explanation is reused: the broker is not contacted again at every reconnection.
const HOLDS: Duration = Duration::from_secs(60);

/// The last failure: cause, time and explanation.
#[derive(Debug, Default)]
pub(super) struct Explained {
    last: Option<(Cause, Instant)>,
    /// The explanation for people; empty while the broker is being contacted.
    pub(super) words: String,
}

/// The result of judging a reason of librdkafka.
pub(super) enum Judged {
    /// The kind of the failure and its explanation.
    Known(Event, String),
    /// The broker is being contacted already.
    Asked,
    /// The broker must be contacted, on a blocking thread.
    Ask(Ask),
}

/// A request for the explanation of a reason, by contacting the broker if necessary.
pub(super) struct Ask {
    reason: String,
    security: Security,
    brokers: String,
}

impl Ask {
    /// Returns the explanation; blocks for seconds at most.
    pub(super) fn words(self) -> String {
        in_words(&self.reason, &self.security).unwrap_or_else(|| format!("{}: {}", self.brokers, self.reason))
    }
}

impl Explained {
    pub(super) fn judge(&mut self, reason: String, kafka: &Kafka) -> Judged {
        let now = Instant::now();
        let cause = cause(&reason);
        let ask = Ask { reason, security: kafka.security.clone(), brokers: kafka.brokers.join(", ") };
        match (cause, self.last) {
            (Some(cause), Some((last, at))) if cause == last && now < at + HOLDS => match self.words.as_str() {
                "" => Judged::Asked,
                words => Judged::Known(kind(Some(cause)), words.to_owned()),
            },
            (Some(cause @ Cause::Certificate), _) => {
                (self.last, self.words) = (Some((cause, now)), String::new());
                Judged::Ask(ask)
            }
            (cause, _) => {
                self.last = cause.map(|cause| (cause, now));
                self.words = ask.words();
                Judged::Known(kind(cause), self.words.clone())
            }
        }
    }
}

fn kind(cause: Option<Cause>) -> Event {
    if cause.is_some_and(Cause::is_refusal) { Event::KafkaRefuses } else { Event::KafkaAway }
}

/// Returns the remedy for a broker's refusal; empty when none is known.
pub(super) fn remedy(error: &KafkaError, kafka: &Kafka) -> String {
    let user = kafka.security.sasl.as_ref().map_or("ANONYMOUS", |sasl| &sasl.username);
    let may = |right: &str| {
        format!(
            "; allow it: kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{user} {right}",
            kafka.brokers.join(",")
        )
    };
    match error.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed) => {
            may(&format!("--operation Read --operation Describe --topic {}", kafka.topic))
        }
        Some(Code::GroupAuthorizationFailed) => may(&format!("--operation Read --group {}", kafka.group)),
        _ => String::new(),
    }
}
