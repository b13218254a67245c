//! Progress of the stages, for the status line and the page.

use std::time::Duration;

/// Counts since the start of the collector, and current failures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of partitions being read.
    pub partitions: usize,
    /// Records received from Kafka and not archived yet, at most a second old.
    pub waiting: usize,
    /// Records archived.
    pub archived: u64,
    /// Archived records with a fault.
    pub faults: u64,
    /// Archived records that readers see.
    pub published: u64,
    /// Commits made.
    pub commits: u64,
    /// Duration of the last commit.
    pub commit: Duration,
    /// Kafka's batches that could not be read; each is archived as one record with a fault.
    pub unreadable: u64,
    /// The last of these batches, if not long ago; for people.
    pub unreadable_batch: Option<String>,
    /// Why nothing is received, if so.
    pub kafka_trouble: Option<String>,
    /// Why nothing is archived, if so.
    pub archive_trouble: Option<String>,
}

impl Progress {
    /// Returns the current failures, for people.
    pub fn trouble(&self) -> Option<String> {
        let archive = self.archive_trouble.as_ref().map(|reason| match self.waiting {
            0 => reason.clone(),
            waiting => format!("{reason}; {waiting} received records wait for the archive and are not shown yet"),
        });
        let all: Vec<String> =
            [self.kafka_trouble.clone(), archive, self.unreadable_batch.clone()].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_names_all_failures_and_the_records_that_are_not_shown() {
        let mut progress = Progress { waiting: 3, ..Progress::default() };
        assert_eq!(progress.trouble(), None);
        progress.kafka_trouble = Some("no broker".into());
        assert_eq!(progress.trouble().unwrap(), "no broker");
        progress.archive_trouble = Some("no space".into());
        assert_eq!(
            progress.trouble().unwrap(),
            "no broker; no space; 3 received records wait for the archive and are not shown yet"
        );
        (progress.kafka_trouble, progress.archive_trouble) = (None, None);
        progress.unreadable_batch = Some("offsets 1 to 9".into());
        assert_eq!(progress.trouble().unwrap(), "offsets 1 to 9");
    }
}
