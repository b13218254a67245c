//! The report of an outage, in the log and in the status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_daemon::kafka::Cause;
use log::Level;

use super::Health;
use crate::config::ProducerConfig;
use crate::event::Event;
use crate::spool::Spool;

/// Interval at which an explanation is renewed: for a certificate error the broker is contacted.
const EXPLAINED: Duration = Duration::from_secs(60);

/// The present outage.
pub(super) struct Outage {
    spool: Arc<Spool>,
    health: Arc<Health>,
    /// The start, for the log line at the end.
    since: Option<Instant>,
    explanation: Option<Explanation>,
}

/// A kept explanation of librdkafka's error, so that a broker is not asked for its certificate ten times a second.
struct Explanation {
    cause: Option<Cause>,
    at: Instant,
    words: String,
}

impl Outage {
    pub(super) fn new(spool: Arc<Spool>, health: Arc<Health>) -> Self {
        Self { spool, health, since: None, explanation: None }
    }

    /// Reports that frames are not taken since `since`.
    pub(super) fn report(&mut self, since: Instant, event: Event, words: String) {
        self.since.get_or_insert(since);
        let waiting = self.spool.state().unsent_frames;
        edr_daemon::limited!(Level::Warn, event, EDR_SOURCE = "ship", "{words}; {waiting} frames wait in the spool");
        self.health.trouble(since, words);
    }

    /// Ends the outage, if there is one, after an acknowledgement. `waiting` frames are left.
    pub(super) fn end(&mut self, waiting: u64) {
        self.health.acknowledged(Instant::now());
        if let Some(since) = self.since.take() {
            edr_daemon::limited!(
                Level::Info,
                Event::KafkaBack,
                EDR_SOURCE = "ship",
                "Kafka takes frames again after {} s; {waiting} wait",
                since.elapsed().as_secs()
            );
        }
    }

    /// Explains librdkafka's error text. May contact a broker.
    pub(super) fn explain(&mut self, error: &str, kafka: &ProducerConfig) -> String {
        let cause = edr_daemon::kafka::cause(error);
        if let Some(kept) = &self.explanation
            && cause.is_some()
            && kept.cause == cause
            && kept.at.elapsed() < EXPLAINED
        {
            return kept.words.clone();
        }
        let words = edr_daemon::kafka::in_words(error, &kafka.security)
            .unwrap_or_else(|| format!("{}: {error}", kafka.brokers.join(", ")));
        self.explanation = Some(Explanation { cause, at: Instant::now(), words: words.clone() });
        words
    }

    /// Forgets the explanation, after a change of the settings.
    pub(super) fn forget_explanation(&mut self) {
        self.explanation = None;
    }
}
