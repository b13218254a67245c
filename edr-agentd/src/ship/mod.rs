//! From the spool to Kafka: oldest frame first, one at a time.
//!
//! Promises:
//! - A frame leaves the spool only when Kafka has acknowledged every one of its records. Whatever else a report says,
//!   the frame is sent again: the same bytes, so that readers can tell that it is the same.
//! - Frames are sent in the order of their making, also after an outage; the drain keeps to `kafka.drain-bytes-max`.
//! - A broker that is away, refuses, or answers nonsense costs one log line a minute and a status in words, never a
//!   frame, and never the agent.
//!
//! It knows the spool and nothing behind it.

mod online;
mod pace;
mod producer;
mod remedy;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

pub use self::online::examine;
use self::pace::{Backoff, drain_wait};
use self::producer::{Outcome, Producer};
pub use self::remedy::{Failure, in_words};
use crate::config::Kafka;
use crate::heartbeat::Heartbeat;
use crate::spool::{FrameId, Spool, Stored};
use crate::stop::Stop;

/// How long a delivery lasts before it counts as an outage in the log and in the status.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often an idle shipper looks at what librdkafka has to say.
const IDLE: Duration = Duration::from_secs(5);

/// How shipping goes, for the status line.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone)]
struct Inner {
    acknowledged: Option<Instant>,
    trouble: Option<(Instant, String)>,
}

impl Health {
    fn acknowledged(&self, now: Instant) {
        *self.lock() = Inner { acknowledged: Some(now), trouble: None };
    }

    fn trouble(&self, now: Instant, words: String) {
        let mut inner = self.lock();
        let since = inner.trouble.as_ref().map_or(now, |(since, _)| *since);
        inner.trouble = Some((since, words));
    }

    /// Whether frames cannot be delivered now.
    pub fn is_in_trouble(&self) -> bool {
        self.lock().trouble.is_some()
    }

    /// In words: `Kafka acknowledged 3 s ago`, `Kafka: no broker of … for 300 s`.
    pub fn in_words(&self, now: Instant) -> String {
        let inner = self.lock().clone();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        match (inner.trouble, inner.acknowledged) {
            (Some((since, words)), _) => format!("Kafka for {} s: {words}", seconds(since)),
            (None, Some(at)) => format!("Kafka acknowledged {} s ago", seconds(at)),
            (None, None) => "Kafka not asked yet".to_owned(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes frames out of the spool.
pub struct Shipper {
    spool: Arc<Spool>,
    health: Arc<Health>,
    kafka: Kafka,
    producer: Option<Producer>,
    backoff: Backoff,
    /// Since when frames cannot be delivered, for the one line that says it is over.
    outage: Option<Instant>,
}

impl Shipper {
    /// Ships what is in `spool` to `kafka`.
    pub fn new(spool: Arc<Spool>, health: Arc<Health>, kafka: Kafka) -> Self {
        Self { spool, health, kafka, producer: None, backoff: Backoff::new(), outage: None }
    }

    /// Ships until `stop`. What is in the spool then stays there. `settings` is asked before each frame.
    pub fn run(&mut self, stop: &Stop, heartbeat: &Heartbeat, settings: impl Fn() -> Kafka) {
        while !stop.is_requested() {
            heartbeat.beat();
            let kafka = settings();
            if kafka != self.kafka {
                (self.kafka, self.producer) = (kafka, None);
            }
            let Some(id) = self.spool.oldest_unsent() else {
                if let Some(producer) = &self.producer {
                    producer.poll();
                }
                heartbeat.idle(|| self.spool.wait(IDLE));
                continue;
            };
            if let Some(frame) = self.spool.load(id) {
                // Parts of an earlier configuration may be too large for this one. A frame that cannot be cut smaller
                // goes as it is.
                let frame = frame.within(self.kafka.part_bytes_max).unwrap_or(frame);
                let wait = self.ship(id, &frame, stop, heartbeat);
                heartbeat.idle(|| stop.wait(wait));
            }
        }
    }

    /// Sends one frame; gives the time to wait before the next one, or before this one again.
    fn ship(&mut self, id: FrameId, frame: &Stored, stop: &Stop, heartbeat: &Heartbeat) -> Duration {
        let started = Instant::now();
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => match Producer::new(&self.kafka) {
                Ok(producer) => none.insert(producer),
                Err(error) => {
                    edr_daemon::limited!(Level::Error, "create Kafka producer: {error}");
                    self.health.trouble(started, format!("producer: {error}"));
                    return self.backoff.wait(random());
                }
            },
        };
        let brokers = self.kafka.brokers.join(", ");
        let outcome = producer.deliver(frame, stop, |lasts, error| {
            heartbeat.beat();
            if lasts > PATIENCE {
                let error = error.unwrap_or("no error reported yet");
                let words = format!("{brokers}: nothing acknowledged for {} s: {error}", lasts.as_secs());
                note_outage(&self.health, &self.spool, &mut self.outage, started, words);
            }
        });
        match outcome {
            Outcome::Stopped => Duration::ZERO,
            Outcome::Acknowledged => {
                self.spool.acknowledge(id);
                self.health.acknowledged(Instant::now());
                self.backoff.reset();
                let waiting = self.spool.state().unsent_frames;
                if let Some(since) = self.outage.take() {
                    log::info!("Kafka takes frames again after {} s; {waiting} wait", since.elapsed().as_secs());
                }
                if waiting == 0 {
                    return Duration::ZERO;
                }
                drain_wait(frame.byte_len(), self.kafka.drain_bytes_max, started.elapsed())
            }
            Outcome::Failed(failure) => {
                let record_bytes = frame.records().map(<[u8]>::len).max().unwrap_or(0);
                let words = in_words(&failure, &self.kafka, record_bytes);
                if failure.fatal {
                    // librdkafka takes nothing more after a fatal error; a new producer starts from the spool.
                    edr_daemon::limited!(Level::Warn, "Kafka producer is given up and made anew: {words}");
                    self.producer = None;
                }
                let away = failure.is_away();
                note_outage(&self.health, &self.spool, &mut self.outage, started, words);
                // Who was waited for already needs no long wait; a refusal that comes at once does.
                let waited = away && started.elapsed() > PATIENCE;
                if waited { Duration::from_millis(random() % 1_000) } else { self.backoff.wait(random()) }
            }
        }
    }
}

fn note_outage(health: &Health, spool: &Spool, outage: &mut Option<Instant>, since: Instant, words: String) {
    outage.get_or_insert(since);
    let waiting = spool.state().unsent_frames;
    edr_daemon::limited!(Level::Warn, "{words}; {waiting} frames wait in the spool");
    health.trouble(since, words);
}

fn random() -> u64 {
    // Jitter needs no good numbers.
    getrandom::u64().unwrap_or(0)
}
