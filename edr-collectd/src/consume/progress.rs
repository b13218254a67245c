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
        match (&self.kafka_trouble, archive) {
            (Some(kafka), Some(archive)) => Some(format!("{kafka}; {archive}")),
            (kafka, archive) => archive.or_else(|| kafka.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_names_both_failures_and_the_records_that_are_not_shown() {
        let mut progress = Progress { waiting: 3, ..Progress::default() };
        assert_eq!(progress.trouble(), None);
        progress.kafka_trouble = Some("no broker".into());
        assert_eq!(progress.trouble().unwrap(), "no broker");
        progress.archive_trouble = Some("no space".into());
        assert_eq!(
            progress.trouble().unwrap(),
            "no broker; no space; 3 received records wait for the archive and are not shown yet"
        );
    }
}
