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

mod health;
mod online;
mod outage;
mod pace;
mod producer;
mod remedy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_daemon::kafka::Cause;
use edr_daemon::secret::Stamp;
use log::Level;

pub use self::health::Health;
pub use self::online::examine;
use self::outage::Outage;
use self::pace::{Backoff, drain_wait};
use self::producer::{Delivery, Producer};
pub use self::remedy::{Failure, in_words};
use crate::config::ProducerConfig;
use crate::event::Event;
use crate::heartbeat::Heartbeat;
use crate::spool::{Spool, StoredFrame};
use crate::stop::Stop;

/// Duration after which an unfinished delivery counts as an outage, in the log and in the status.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval at which an idle shipper handles librdkafka's events.
const IDLE: Duration = Duration::from_secs(5);
/// Interval at which the settings and their files are compared with those of the producer.
const LOOK: Duration = Duration::from_secs(1);

/// Sends the frames of the spool.
pub struct Shipper {
    spool: Arc<Spool>,
    outage: Outage,
    settings: ClientSettings,
    producer: Option<Producer>,
    backoff: Backoff,
}

/// The settings of the present producer.
struct ClientSettings {
    kafka: ProducerConfig,
    /// The stamp of the files with certificates and secrets.
    stamp: Stamp,
}

impl ClientSettings {
    fn new(kafka: ProducerConfig) -> Self {
        Self { stamp: kafka.security.stamp(), kafka }
    }

    /// True while neither the settings nor a file named there has changed.
    fn is_current(&self, now: &ProducerConfig) -> bool {
        *now == self.kafka && self.kafka.security.stamp() == self.stamp
    }
}

/// What a running shipper shares with the other threads.
struct Surroundings<'a> {
    stop: &'a Stop,
    heartbeat: &'a Heartbeat,
    settings: &'a dyn Fn() -> ProducerConfig,
}

impl Shipper {
    /// Returns a shipper from `spool` to `kafka`.
    pub fn new(spool: Arc<Spool>, health: Arc<Health>, kafka: ProducerConfig) -> Self {
        Self {
            outage: Outage::new(Arc::clone(&spool), health),
            settings: ClientSettings::new(kafka),
            producer: None,
            backoff: Backoff::new(),
            spool,
        }
    }

    /// Ships until `stop`. Unsent frames stay in the spool. `settings` is called before each frame.
    pub fn run(&mut self, stop: &Stop, heartbeat: &Heartbeat, settings: impl Fn() -> ProducerConfig) {
        let around = Surroundings { stop, heartbeat, settings: &settings };
        while !stop.is_requested() {
            heartbeat.beat();
            self.renew(settings());
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
                let frame = frame.within(self.settings.kafka.part_bytes_max).unwrap_or(frame);
                let wait = self.ship(&frame, &around);
                self.wait(wait, &around);
            }
        }
    }

    /// Waits before the next frame. A change of the settings or their files ends the wait.
    fn wait(&self, wait: Duration, around: &Surroundings<'_>) {
        let until = Instant::now() + wait;
        while !around.stop.is_requested() && Instant::now() < until && self.settings.is_current(&(around.settings)()) {
            let left = until.saturating_duration_since(Instant::now());
            around.heartbeat.idle(|| around.stop.wait(left.min(LOOK)));
        }
    }

    /// Replaces the producer when settings, certificates or secrets have changed. Invalid files leave the old producer
    /// in place: the administrator may still be writing them.
    fn renew(&mut self, kafka: ProducerConfig) {
        if kafka != self.settings.kafka {
            (self.settings, self.producer) = (ClientSettings::new(kafka), None);
            self.outage.forget_explanation();
        }
        if self.settings.is_current(&self.settings.kafka) {
            return;
        }
        self.settings.stamp = self.settings.kafka.security.stamp();
        match self.settings.kafka.security.read() {
            Ok(_) => {
                edr_daemon::event!(
                    Level::Info,
                    Event::SecretsRenewed,
                    EDR_SOURCE = "ship",
                    "certificates or secrets for Kafka changed; connecting with the new ones"
                );
                self.outage.forget_explanation();
                self.producer = None;
                self.backoff.reset();
            }
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                edr_daemon::limited!(
                    Level::Error,
                    Event::SecretsRefused,
                    EDR_SOURCE = "ship",
                    "certificates or secrets for Kafka changed and are invalid; the old ones stay in use: {}",
                    faults.join("; ")
                );
            }
        }
    }

    /// Sends one frame. Returns the time to wait before the next frame, or before a retry.
    fn ship(&mut self, frame: &StoredFrame, around: &Surroundings<'_>) -> Duration {
        let started = Instant::now();
        match self.deliver(frame, started, around) {
            Ok(Delivery::GivenUp) => Duration::ZERO,
            Ok(Delivery::Acknowledged) => self.acknowledge(frame, started),
            Ok(Delivery::Failed(failure)) => self.fail(&failure, frame, started, around.heartbeat),
            Err(error) => {
                let words = format!("create Kafka producer: {error}");
                self.outage.report(started, Event::KafkaRefuses, words);
                self.backoff.wait(random())
            }
        }
    }

    /// Delivers one frame. Abandons the delivery at a stop, or when the settings have changed.
    ///
    /// # Errors
    /// A text, when there is no producer for these settings.
    fn deliver(
        &mut self,
        frame: &StoredFrame,
        started: Instant,
        around: &Surroundings<'_>,
    ) -> Result<Delivery, String> {
        let Self { producer, outage, settings, .. } = self;
        let producer = match producer {
            Some(producer) => producer,
            none => none.insert(Producer::new(&settings.kafka)?),
        };
        let mut next_look = started + LOOK;
        Ok(producer.deliver(frame, |lasts, error| {
            around.heartbeat.beat();
            if lasts > PATIENCE {
                let reason = error.unwrap_or("no error reported yet");
                let words = around.heartbeat.idle(|| outage.explain(reason, &settings.kafka));
                let words = format!("nothing acknowledged for {} s: {words}", lasts.as_secs());
                let event = if is_refusal(reason) { Event::KafkaRefuses } else { Event::KafkaAway };
                outage.report(started, event, words);
            }
            if around.stop.is_requested() {
                return false;
            }
            if Instant::now() < next_look {
                return true;
            }
            next_look = Instant::now() + LOOK;
            settings.is_current(&(around.settings)())
        }))
    }

    /// Handles the acknowledgement of a frame. Returns the wait that keeps the rate while more frames wait.
    fn acknowledge(&mut self, frame: &StoredFrame, started: Instant) -> Duration {
        self.spool.acknowledge(&frame.header);
        self.backoff.reset();
        let waiting = self.spool.state().unsent_frames;
        self.outage.end(waiting);
        if waiting == 0 {
            return Duration::ZERO;
        }
        drain_wait(frame.byte_len(), self.settings.kafka.drain_bytes_max, started.elapsed())
    }

    /// Handles a failed delivery. Returns the wait before the retry.
    fn fail(&mut self, failure: &Failure, frame: &StoredFrame, started: Instant, heartbeat: &Heartbeat) -> Duration {
        let kafka = &self.settings.kafka;
        // A broker that refuses the client looks like a broker that is away; librdkafka's error text tells the two
        // apart.
        let is_away = failure.is_away();
        let is_refused = !is_away || is_refusal(&failure.text);
        let words = if is_away && is_refused {
            heartbeat.idle(|| self.outage.explain(&failure.text, kafka))
        } else {
            in_words(failure, kafka, frame.records().map(<[u8]>::len).max().unwrap_or(0))
        };
        if failure.fatal {
            // librdkafka accepts nothing after a fatal error; a new producer starts from the spool.
            edr_daemon::limited!(
                Level::Warn,
                Event::KafkaRefuses,
                EDR_SOURCE = "ship",
                "Kafka producer is given up and made anew: {words}"
            );
            self.producer = None;
        }
        let event = if is_refused { Event::KafkaRefuses } else { Event::KafkaAway };
        self.outage.report(started, event, words);
        // After a timeout retry soon; after an immediate refusal back off.
        let has_waited = is_away && started.elapsed() > PATIENCE;
        if has_waited { Duration::from_millis(random() % 1_000) } else { self.backoff.wait(random()) }
    }
}

fn is_refusal(reason: &str) -> bool {
    edr_daemon::kafka::cause(reason).is_some_and(Cause::is_refusal)
}

fn random() -> u64 {
    // The quality of the random numbers does not matter for jitter.
    getrandom::u64().unwrap_or(0)
}
