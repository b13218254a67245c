//! The connection to Kafka: the current client, its replacement, and explanations of its failures.

use std::sync::Arc;
use std::time::Duration;

use edr_archive::PartitionName;
use edr_daemon::secret::Stamp;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::client::{self, Client, Event, TopicEnds};
use super::fetch::{self, Fetched};
use super::logs::Log;
use super::trouble::{self, Explained, Judged};
use crate::config::{Config, Kafka};
use crate::event::Event as Said;

/// Time limit for closing the client.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The connection to Kafka as a member of the consumer group.
pub(super) struct Connection {
    /// The settings in use.
    kafka: Kafka,
    /// The current configuration, if changes are followed.
    followed: Option<watch::Receiver<Config>>,
    /// Name of this member in the group.
    instance: String,
    client: Arc<Client>,
    /// Events of the client. The channel has no bound, because callbacks of librdkafka cannot wait; events are rare.
    pub(super) events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    /// Records of the partitions being read; closed while no partition is read.
    pub(super) fetched: mpsc::Receiver<Fetched>,
    /// Stamp of the client's files with secrets and certificates.
    stamp: Stamp,
    explained: Explained,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// The explanation of a failure.
pub(super) struct KafkaFailure {
    pub(super) event: Said,
    pub(super) words: String,
}

impl Connection {
    /// Makes a client and subscribes to the topic.
    ///
    /// # Errors
    /// When the client cannot be made. An unreachable broker is not an error.
    pub(super) fn new(kafka: Kafka, instance: &str) -> anyhow::Result<Self> {
        let (sender, events) = unbounded_channel();
        let stamp = kafka.security.stamp();
        let client = Arc::new(client::subscribe(&kafka, instance, sender.clone())?);
        Ok(Self {
            kafka,
            followed: None,
            instance: instance.to_owned(),
            client,
            events,
            sender,
            fetched: closed(),
            stamp,
            explained: Explained::default(),
        })
    }

    pub(super) fn follow(&mut self, settings: watch::Receiver<Config>) {
        self.followed = Some(settings);
    }

    /// Returns the current client, for receiving records.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    pub(super) fn topic(&self) -> &str {
        &self.kafka.topic
    }

    /// Fails when librdkafka has reported a fatal error: the client receives nothing more.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.client.client().fatal_error() {
            None => Ok(()),
            Some((RDKafkaErrorCode::FencedInstanceId, _)) => anyhow::bail!(
                "another collector joined group {} under the name of this one, {}: it has the same instance-id in its \
                 state-dir; remove that file from the one that is a copy",
                self.kafka.group,
                self.instance
            ),
            Some((_, reason)) => anyhow::bail!("the Kafka client gave up for good: {reason}"),
        }
    }

    /// Returns true when the Kafka settings, or a file with a secret or a certificate, have changed since the client
    /// was made.
    pub(super) fn is_outdated(&self) -> bool {
        self.followed.as_ref().is_some_and(|settings| settings.borrow().kafka != self.kafka)
            || self.kafka.security.stamp() != self.stamp
    }

    /// Replaces the client after a change of settings, certificates or secrets. Returns false when the new settings are
    /// invalid: the old client stays, because the administrator may still be writing the files.
    pub(super) fn renew(&mut self) -> bool {
        if let Some(settings) = &self.followed {
            self.kafka = settings.borrow().kafka.clone();
        }
        self.stamp = self.kafka.security.stamp();
        if let Err(error) = client::settings(&self.kafka) {
            edr_daemon::limited!(
                log::Level::Error,
                Said::SecretsRefused,
                EDR_SOURCE = "consume",
                "settings for Kafka changed and do not do; the old ones stay: {error}"
            );
            return false;
        }
        edr_daemon::event!(
            log::Level::Info,
            Said::SecretsRenewed,
            EDR_SOURCE = "consume",
            "settings, certificates or secrets for Kafka changed; connecting with the new ones"
        );
        let (sender, events) = unbounded_channel();
        match client::subscribe(&self.kafka, &self.instance, sender.clone()) {
            Ok(made) => {
                // Closing waits for a broker, so the old client is closed on a thread that may block.
                let old = std::mem::replace(&mut self.client, Arc::new(made));
                tokio::task::spawn_blocking(move || drop(old));
                (self.events, self.sender, self.explained) = (events, sender, Explained::default());
                self.fetched = closed();
                true
            }
            Err(error) => {
                edr_daemon::limited!(
                    log::Level::Error,
                    Said::SecretsRefused,
                    EDR_SOURCE = "consume",
                    "make a Kafka client: {error}; the old one stays"
                );
                false
            }
        }
    }

    /// Asks Kafka for the cluster and for the offsets of partitions, on a thread that may block. The answer is an
    /// event.
    pub(super) fn ask(&self, round: u64, partitions: Vec<i32>) {
        let (client, topic, sender) = (self.client(), self.kafka.topic.clone(), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            let answer = TopicEnds::ask(&client, &topic, partitions);
            // Sending fails when the collector stops or has replaced the client; ignored.
            let _ = sender.send(Event::Ends { round, answer });
        });
    }

    /// Explains librdkafka's reason why a broker is unusable. `None` when a broker must be contacted for the
    /// explanation; the explanation is an event then.
    pub(super) fn explain(&mut self, reason: String) -> Option<KafkaFailure> {
        match self.explained.judge(reason, &self.kafka) {
            Judged::Known(event, words) => return Some(KafkaFailure { event, words }),
            Judged::Asked => {}
            Judged::Ask(ask) => {
                let sender = self.sender.clone();
                tokio::task::spawn_blocking(move || {
                    // Sending fails when the collector stops or has replaced the client; ignored.
                    let _ = sender.send(Event::InWords(ask.words()));
                });
            }
        }
        None
    }

    /// Keeps an explanation for the next failure with the same reason.
    pub(super) fn explained(&mut self, words: String) -> KafkaFailure {
        self.explained.words.clone_from(&words);
        KafkaFailure { event: Said::KafkaRefuses, words }
    }

    /// Returns a broker's refusal with its remedy; `None` for an unusable broker, which is reported by an event.
    pub(super) fn refusal(&self, error: &KafkaError) -> Option<String> {
        let code = error.rdkafka_error_code();
        if !code.is_none_or(client::is_answer) {
            return None;
        }
        let remedy = match code {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                "; make it with `edr-collectd check --online --create-topic`".to_owned()
            }
            _ => trouble::remedy(error, &self.kafka),
        };
        Some(format!("{error}{remedy}"))
    }

    /// Reads these logs from now on, and no others. The member of the group has their partitions, but is paused: the
    /// logs are read by [`fetch`].
    pub(super) fn assign(&mut self, logs: &[Log]) -> anyhow::Result<()> {
        self.fetched = closed();
        let mut assignment = TopicPartitionList::new();
        for log in logs {
            // The client has to find the end first, so that the pause comes before its first fetch.
            assignment.add_partition_offset(&self.kafka.topic, log.partition.partition, Offset::End)?;
        }
        self.client.assign(&assignment)?;
        self.client.pause(&assignment)?;
        self.fetched = fetch::start(&self.client, &self.kafka, logs)?;
        Ok(())
    }

    /// Reads nothing more. The member stays in the group and keeps its partitions.
    pub(super) fn stop_reading(&mut self) {
        self.fetched = closed();
    }

    /// Stores positions as the group's offsets, for tools that show the lag. Failures are ignored: the true positions
    /// are in the archive.
    pub(super) fn hint<'a>(&self, positions: impl Iterator<Item = (&'a PartitionName, &'a i64)>) {
        let mut hint = TopicPartitionList::new();
        for (name, &position) in positions {
            let _ = hint.add_partition_offset(&name.topic, name.partition, Offset::Offset(position));
        }
        if hint.count() > 0 {
            let _ = self.client.commit(&hint, CommitMode::Async);
        }
    }

    /// Returns the refusal of a leader with its remedy.
    pub(super) fn denial(&self, error: &KafkaError) -> String {
        self.refusal(error).unwrap_or_else(|| error.to_string())
    }

    /// Closes the client, or abandons the client after [`CLOSE_MAX`]: closing waits for a broker, perhaps in vain.
    pub(super) async fn close(self) {
        let close = tokio::task::spawn_blocking(move || drop(self.client));
        if tokio::time::timeout(CLOSE_MAX, close).await.is_err() {
            log::debug!("the Kafka client did not close in time");
        }
    }
}

/// Returns the receiver of a closed channel.
fn closed() -> mpsc::Receiver<Fetched> {
    mpsc::channel(1).1
}
