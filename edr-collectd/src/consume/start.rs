//! The start of partitions, as seen by `poll`: ask Kafka, order the stages to find the positions, await the reply.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::RetryDelay;
use super::client::TopicEnds;
use super::message::StartOrder;

/// The start under way, if any.
#[derive(Debug, Default)]
pub(super) struct PendingStart {
    /// Number of the current attempt. Answers with another number are outdated.
    round: u64,
    /// The partitions to start.
    partitions: Vec<i32>,
    step: StartStep,
    delay: RetryDelay,
}

#[derive(Debug, Default)]
enum StartStep {
    /// No partition is to be started.
    #[default]
    Nothing,
    /// Kafka is to be asked at this moment.
    Ask(Instant),
    /// Kafka has been asked.
    Asked,
    /// The order is to be sent to the stages.
    Order(StartOrder),
    /// The stages have the order.
    Ordered,
}

impl PendingStart {
    /// Begins a start of these partitions, instead of the start under way.
    pub(super) fn begin(&mut self, partitions: Vec<i32>) {
        self.partitions = partitions;
        self.step = StartStep::Ask(Instant::now());
        self.round += 1;
    }

    /// Abandons the start under way.
    pub(super) fn cancel(&mut self) {
        self.step = StartStep::Nothing;
        self.round += 1;
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.step, StartStep::Nothing)
    }

    /// Returns when Kafka is to be asked.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        match self.step {
            StartStep::Ask(at) => Some(at),
            _ => None,
        }
    }

    /// Returns the number of the attempt and the partitions to ask Kafka about.
    pub(super) fn ask(&mut self) -> (u64, Vec<i32>) {
        self.step = StartStep::Asked;
        (self.round, self.partitions.clone())
    }

    /// Takes Kafka's answer, unless outdated.
    pub(super) fn answered(&mut self, round: u64, topic: &str, ends: TopicEnds, replaced: &BTreeSet<i32>) {
        if round == self.round {
            let (topic, replaced) = (topic.to_owned(), replaced.clone());
            self.step = StartStep::Order(StartOrder { round, topic, ends, replaced });
        }
    }

    pub(super) fn has_order(&self) -> bool {
        matches!(self.step, StartStep::Order(_))
    }

    /// Returns the order for the stages, once.
    pub(super) fn take_order(&mut self) -> Option<StartOrder> {
        match std::mem::take(&mut self.step) {
            StartStep::Order(order) => {
                self.step = StartStep::Ordered;
                Some(order)
            }
            other => {
                self.step = other;
                None
            }
        }
    }

    /// Returns true when a reply belongs to the current attempt.
    pub(super) fn is_current(&self, round: u64) -> bool {
        round == self.round && self.is_under_way()
    }

    /// Ends the start with success.
    pub(super) fn done(&mut self) {
        (self.step, self.delay) = (StartStep::Nothing, RetryDelay::default());
    }

    /// Schedules the next attempt.
    pub(super) fn failed(&mut self) {
        self.round += 1;
        self.step = StartStep::Ask(Instant::now() + self.delay.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> TopicEnds {
        TopicEnds { cluster: "c".into(), partitions: Vec::new() }
    }

    #[test]
    fn an_answer_to_an_earlier_attempt_changes_nothing() {
        let mut start = PendingStart::default();
        start.begin(vec![0]);
        let (first, _) = start.ask();
        // The group changed its mind meanwhile.
        start.begin(vec![0, 1]);
        start.answered(first, "t", ends(), &BTreeSet::new());
        assert!(!start.has_order() && !start.is_current(first));
        let (second, partitions) = start.ask();
        assert_eq!(partitions, [0, 1]);
        start.answered(second, "t", ends(), &BTreeSet::new());
        assert_eq!(start.take_order().unwrap().round, second);
        assert!(start.take_order().is_none() && start.is_current(second));
        start.cancel();
        assert!(!start.is_current(second) && !start.is_under_way());
    }

    #[test]
    fn a_failed_attempt_is_repeated_later_and_later() {
        let mut start = PendingStart::default();
        start.begin(vec![0]);
        assert!(start.ask_at().unwrap() <= Instant::now());
        for delay_ms in [500, 1_000, 2_000] {
            let begin = Instant::now();
            let (round, _) = start.ask();
            assert_eq!(start.ask_at(), None);
            start.failed();
            assert!(!start.is_current(round));
            let delay = std::time::Duration::from_millis(delay_ms);
            assert!((begin + delay..=Instant::now() + delay).contains(&start.ask_at().unwrap()));
        }
        start.done();
        assert!(!start.is_under_way());
    }
}
