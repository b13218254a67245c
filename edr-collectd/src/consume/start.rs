//! Starts partitions where the archive ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::batch::Batch;
use super::{ANSWER_MAX, BACKOFF, Consumer, Reading, position};
use crate::archive::PartitionName;
use crate::event::Event as Said;
use crate::newest::catch_up;

impl Consumer {
    /// Starts reading the waiting partitions, or schedules a retry after a failure.
    pub(super) async fn start(&mut self) {
        let Some((partitions, _)) = self.waiting.take() else { return };
        match self.try_start(&partitions).await {
            Ok(()) => {
                self.backoff = BACKOFF.0;
                self.trouble(None);
            }
            Err(reason) => {
                edr_daemon::limited!(log::Level::Warn, Said::KafkaAway, EDR_SOURCE = "consume"; "start reading: {reason}; trying again");
                self.trouble(Some(reason));
                self.waiting = Some((partitions, Instant::now() + self.next_backoff()));
            }
        }
    }

    async fn try_start(&mut self, partitions: &[i32]) -> Result<(), String> {
        let topic = self.config.kafka.topic.clone();
        let client = Arc::clone(&self.client);
        let (asked, wanted) = (topic.clone(), partitions.to_vec());
        let ask = move || {
            let cluster =
                client.client().fetch_cluster_id(ANSWER_MAX).ok_or("Kafka does not tell the id of its cluster")?;
            let mut marks = Vec::new();
            for partition in wanted {
                let (low, high) = client
                    .fetch_watermarks(&asked, partition, ANSWER_MAX)
                    .map_err(|error| format!("ask Kafka what partition {partition} holds: {error}"))?;
                marks.push((partition, low, high));
            }
            Ok::<_, String>((cluster, marks))
        };
        let (cluster, marks) = tokio::task::spawn_blocking(ask).await.map_err(|error| error.to_string())??;
        let frames = self.frames.as_mut().ok_or("a commit is under way")?;
        let mut assignment = TopicPartitionList::new();
        let mut reading = BTreeMap::new();
        // The dropped records are read again from the end of the archive.
        self.batch = Batch::default();
        frames.reload().await.map_err(|error| error.to_string())?;
        // Records archived meanwhile by another collector are loaded from the archive, not from Kafka.
        let beats = Arc::clone(&self.beats);
        let alive = || _ = beats.fetch_add(1, Ordering::Relaxed);
        catch_up(&self.newest, &self.reader, Some(&mut self.hosts), &alive).await.map_err(|error| error.to_string())?;
        for (partition, low, high) in marks {
            let name = PartitionName { cluster: cluster.clone(), topic: topic.clone(), partition, generation: 0 };
            let archived = frames.newest(&name).await.map_err(|error| error.to_string())?;
            let is_replaced = self.replaced.contains(&partition);
            let start = position::start(archived, low, high, is_replaced);
            if let Some(note) = &start.note {
                edr_daemon::event!(log::Level::Warn, Said::RecordsGone, EDR_SOURCE = "consume"; "{note}");
            }
            let proof = if start.has_proof {
                self.reader.record_at(&start.partition, start.offset - 1).await.map_err(|error| error.to_string())?
            } else {
                None
            };
            let from = start.offset - i64::from(proof.is_some());
            assignment
                .add_partition_offset(&topic, partition, Offset::Offset(from))
                .map_err(|error| error.to_string())?;
            self.archived.insert(start.partition.clone(), start.offset);
            reading.insert(partition, Reading { name: start.partition, next: start.offset, proof });
        }
        self.client.assign(&assignment).map_err(|error| format!("start at the archive's positions: {error}"))?;
        self.paused = false;
        self.replaced.clear();
        let starts: Vec<String> =
            reading.values().map(|reading| format!("{}@{}", reading.name.partition, reading.next)).collect();
        edr_daemon::event!(
            log::Level::Info, Said::KafkaReading, EDR_SOURCE = "consume";
            "reading {topic} of cluster {cluster}: partitions {}", starts.join(" ")
        );
        self.reading = reading;
        self.report();
        Ok(())
    }

    /// Restarts all partitions at the archive's positions.
    pub(super) fn restart(&mut self) {
        let partitions: Vec<i32> = self.reading.keys().copied().collect();
        self.batch = Batch::default();
        if !partitions.is_empty() && self.waiting.is_none() {
            self.waiting = Some((partitions, Instant::now()));
        }
    }
}
