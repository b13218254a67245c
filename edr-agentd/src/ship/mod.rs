//! Sends frames from the spool to Kafka: oldest frame first, one at a time.
//!
//! Promises:
//! - A frame leaves the spool only when Kafka has acknowledged every record of the frame. After any other report the
//!   frame is sent again with the same bytes, so that readers recognize the repetition.
//! - Frames are sent in the order in which they were made, also after an outage. After an outage the rate stays within
//!   `kafka.drain-bytes-max`.
//! - A broker that is away, refuses, or answers nonsense costs one log line per minute and a status text. It never
//!   costs a frame, and never stops the agent.
//!
//! This module knows the spool, but no other part of the agent's pipeline.

mod online;
mod pace;
mod producer;
mod remedy;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_daemon::kafka::Cause;
use edr_daemon::secret::Stamp;
use log::Level;

pub use self::online::examine;
use self::pace::{Backoff, drain_wait};
use self::producer::{Outcome, Producer};
pub use self::remedy::{Failure, in_words};
use crate::config::Kafka;
use crate::event::Event;
use crate::heartbeat::Heartbeat;
use crate::spool::{Spool, Stored};
use crate::status::KafkaStatus;
use crate::stop::Stop;

/// Duration after which an unfinished delivery counts as an outage, in the log and in the status.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval at which an idle shipper handles librdkafka's events.
const IDLE: Duration = Duration::from_secs(5);
/// Interval at which the settings and their files are compared with those of the producer.
const LOOK: Duration = Duration::from_secs(1);
/// Interval at which an explanation is renewed: for a certificate error the broker is contacted.
const WORDS: Duration = Duration::from_secs(60);

/// The state of shipping, for the status line.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone)]
struct Inner {
    acknowledged: Option<Instant>,
    trouble: Option<(Instant, String)>,
    /// The last fault, over or not.
    last_trouble: Option<(Instant, String)>,
}

impl Health {
    fn acknowledged(&self, now: Instant) {
        let mut inner = self.lock();
        (inner.acknowledged, inner.trouble) = (Some(now), None);
    }

    fn trouble(&self, now: Instant, words: String) {
        let mut inner = self.lock();
        let since = inner.trouble.as_ref().map_or(now, |(since, _)| *since);
        inner.last_trouble = Some((now, words.clone()));
        inner.trouble = Some((since, words));
    }

    /// True while frames cannot be delivered.
    pub fn is_in_trouble(&self) -> bool {
        self.lock().trouble.is_some()
    }

    /// The state as text: `Kafka acknowledged 3 s ago`, `Kafka for 300 s: no broker of …`.
    pub fn in_words(&self, now: Instant) -> String {
        let inner = self.lock().clone();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        match (inner.trouble, inner.acknowledged) {
            (Some((since, words)), _) => format!("Kafka for {} s: {words}", seconds(since)),
            (None, Some(at)) => format!("Kafka acknowledged {} s ago", seconds(at)),
            (None, None) => "Kafka not asked yet".to_owned(),
        }
    }

    /// The state for [`crate::status`].
    pub fn status(&self, now: Instant) -> KafkaStatus {
        let inner = self.lock().clone();
        let age_ms =
            |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        KafkaStatus {
            last_ack_age_ms: inner.acknowledged.map(age_ms),
            trouble_for_ms: inner.trouble.as_ref().map(|(since, _)| age_ms(*since)),
            last_error: inner.last_trouble.as_ref().map(|(_, words)| words.clone()),
            last_error_age_ms: inner.last_trouble.map(|(at, _)| age_ms(at)),
            ..KafkaStatus::default()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the frames of the spool.
pub struct Shipper {
    spool: Arc<Spool>,
    health: Arc<Health>,
    kafka: Kafka,
    /// The stamp of the files used by the producer.
    stamp: Stamp,
    producer: Option<Producer>,
    backoff: Backoff,
    told: Option<Told>,
    /// Start of the present outage, for the log line at its end.
    outage: Option<Instant>,
}

impl Shipper {
    /// Returns a shipper from `spool` to `kafka`.
    pub fn new(spool: Arc<Spool>, health: Arc<Health>, kafka: Kafka) -> Self {
        let stamp = kafka.security.stamp();
        Self { spool, health, kafka, stamp, producer: None, backoff: Backoff::new(), told: None, outage: None }
    }

    /// Ships until `stop`. Unsent frames stay in the spool. `settings` is called before each frame.
    pub fn run(&mut self, stop: &Stop, heartbeat: &Heartbeat, settings: impl Fn() -> Kafka) {
        while !stop.is_requested() {
            heartbeat.beat();
            self.renew(&settings);
            let Some(id) = self.spool.oldest_unsent(Instant::now()) else {
                if let Some(producer) = &self.producer {
                    producer.poll();
                }
                heartbeat.idle(|| self.spool.wait(IDLE));
                continue;
            };
            if let Some(frame) = self.spool.load(id, Instant::now()) {
                // Parts made under an earlier configuration may be too large for the present one. A frame that cannot
                // be cut smaller is sent unchanged.
                let frame = frame.within(self.kafka.part_bytes_max).unwrap_or(frame);
                let wait = self.ship(&frame, stop, heartbeat, &settings);
                let until = Instant::now() + wait;
                // A change of the settings or their files ends the wait.
                while !stop.is_requested() && Instant::now() < until && !self.is_outdated(&settings) {
                    let left = until.saturating_duration_since(Instant::now());
                    heartbeat.idle(|| stop.wait(left.min(LOOK)));
                }
            }
        }
    }

    /// True when the settings, or a file named in the settings, differ from those used by the producer.
    fn is_outdated(&self, settings: impl Fn() -> Kafka) -> bool {
        settings() != self.kafka || self.kafka.security.stamp() != self.stamp
    }

    /// Replaces the producer when settings, certificates or secrets have changed. Invalid files leave the old producer
    /// in place: the administrator may still be writing them.
    fn renew(&mut self, settings: impl Fn() -> Kafka) {
        let kafka = settings();
        if kafka != self.kafka {
            self.stamp = kafka.security.stamp();
            (self.kafka, self.producer, self.told) = (kafka, None, None);
        }
        let stamp = self.kafka.security.stamp();
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match self.kafka.security.read() {
            Ok(_) => {
                self.told = None;
                edr_daemon::event!(
                    Level::Info, Event::SecretsRenewed, EDR_SOURCE = "ship";
                    "certificates or secrets for Kafka changed; connecting with the new ones"
                );
                self.producer = None;
                self.backoff.reset();
            }
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                edr_daemon::limited!(
                    Level::Error, Event::SecretsRefused, EDR_SOURCE = "ship";
                    "certificates or secrets for Kafka changed and do not do; the old \
                    ones stay until they do: {}",
                    faults.join("; ")
                );
            }
        }
    }

    /// Sends one frame. Returns the time to wait before the next frame, or before a retry.
    fn ship(&mut self, frame: &Stored, stop: &Stop, heartbeat: &Heartbeat, settings: impl Fn() -> Kafka) -> Duration {
        let started = Instant::now();
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => match Producer::new(&self.kafka) {
                Ok(producer) => none.insert(producer),
                Err(error) => {
                    edr_daemon::limited!(Level::Error, Event::KafkaRefuses, EDR_SOURCE = "ship"; "create Kafka producer: {error}");
                    self.health.trouble(started, format!("producer: {error}"));
                    return self.backoff.wait(random());
                }
            },
        };
        let (kafka, stamp, told) = (&self.kafka, &self.stamp, &mut self.told);
        let mut look = started + LOOK;
        let outcome = producer.deliver(frame, |lasts, error| {
            heartbeat.beat();
            if lasts > PATIENCE {
                let words = heartbeat.idle(|| Told::words(told, error.unwrap_or("no error reported yet"), kafka));
                let words = format!("nothing acknowledged for {} s: {words}", lasts.as_secs());
                let event = if error.is_some_and(is_refusal) { Event::KafkaRefuses } else { Event::KafkaAway };
                note_outage(&self.health, &self.spool, &mut self.outage, started, (event, words));
            }
            if stop.is_requested() {
                return false;
            }
            if Instant::now() < look {
                return true;
            }
            look = Instant::now() + LOOK;
            settings() == *kafka && kafka.security.stamp() == *stamp
        });
        match outcome {
            Outcome::GivenUp => Duration::ZERO,
            Outcome::Acknowledged => {
                self.spool.acknowledge(&frame.header);
                self.health.acknowledged(Instant::now());
                self.backoff.reset();
                let waiting = self.spool.state().unsent_frames;
                if let Some(since) = self.outage.take() {
                    edr_daemon::event!(
                        Level::Info, Event::KafkaBack, EDR_SOURCE = "ship";
                        "Kafka takes frames again after {} s; {waiting} wait", since.elapsed().as_secs()
                    );
                }
                if waiting == 0 {
                    return Duration::ZERO;
                }
                drain_wait(frame.byte_len(), self.kafka.drain_bytes_max, started.elapsed())
            }
            Outcome::Failed(failure) => {
                let record_bytes = frame.records().map(<[u8]>::len).max().unwrap_or(0);
                // A broker that refuses the client looks like a broker that is away; librdkafka's error text tells the
                // two apart.
                let refused = failure.is_away() && is_refusal(&failure.text);
                let words = if refused {
                    heartbeat.idle(|| Told::words(&mut self.told, &failure.text, &self.kafka))
                } else {
                    in_words(&failure, &self.kafka, record_bytes)
                };
                if failure.fatal {
                    // librdkafka accepts nothing after a fatal error; a new producer starts from the spool.
                    edr_daemon::limited!(Level::Warn, Event::KafkaRefuses, EDR_SOURCE = "ship"; "Kafka producer is given up and made anew: {words}");
                    self.producer = None;
                }
                let away = failure.is_away();
                let event = if away && !refused { Event::KafkaAway } else { Event::KafkaRefuses };
                note_outage(&self.health, &self.spool, &mut self.outage, started, (event, words));
                // After a timeout retry soon; after an immediate refusal back off.
                let waited = away && started.elapsed() > PATIENCE;
                if waited { Duration::from_millis(random() % 1_000) } else { self.backoff.wait(random()) }
            }
        }
    }
}

/// A cached explanation of librdkafka's error, so that a broker is not asked for its certificate ten times a second.
#[derive(Debug)]
struct Told {
    cause: Option<Cause>,
    at: Instant,
    words: String,
}

impl Told {
    fn words(told: &mut Option<Self>, reason: &str, kafka: &Kafka) -> String {
        let cause = edr_daemon::kafka::cause(reason);
        match told {
            Some(told) if cause.is_some() && told.cause == cause && told.at.elapsed() < WORDS => told.words.clone(),
            _ => {
                let words = edr_daemon::kafka::in_words(reason, &kafka.security)
                    .unwrap_or_else(|| format!("{}: {reason}", kafka.brokers.join(", ")));
                *told = Some(Self { cause, at: Instant::now(), words: words.clone() });
                words
            }
        }
    }
}

fn note_outage(
    health: &Health,
    spool: &Spool,
    outage: &mut Option<Instant>,
    since: Instant,
    (event, words): (Event, String),
) {
    outage.get_or_insert(since);
    let waiting = spool.state().unsent_frames;
    edr_daemon::limited!(Level::Warn, event, EDR_SOURCE = "ship"; "{words}; {waiting} frames wait in the spool");
    health.trouble(since, words);
}

fn is_refusal(reason: &str) -> bool {
    edr_daemon::kafka::cause(reason).is_some_and(Cause::is_refusal)
}

fn random() -> u64 {
    // The quality of the random numbers does not matter for jitter.
    getrandom::u64().unwrap_or(0)
}
