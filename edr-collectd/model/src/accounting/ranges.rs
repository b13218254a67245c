//! Sets of numbers as sorted, disjoint ranges.

use serde::{Deserialize, Serialize};

/// A range of numbers, both ends included.
pub(super) type Range = (u64, u64);

/// Returns the number of numbers in a range.
pub(super) fn width((first, last): Range) -> u64 {
    (last - first).saturating_add(1)
}

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    pub(super) fn as_slice(&self) -> &[Range] {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn last(&self) -> u64 {
        self.0.last().map_or(0, |range| range.1)
    }

    /// Adds a range, and joins the ranges that touch or overlap.
    pub(super) fn add(&mut self, (mut first, mut last): Range) {
        let from = self.0.partition_point(|range| range.1.saturating_add(1) < first);
        let to = from + self.0[from..].partition_point(|range| range.0 <= last.saturating_add(1));
        if let (Some(lowest), Some(highest)) = (self.0[from..to].first(), self.0[from..to].last()) {
            (first, last) = (first.min(lowest.0), last.max(highest.1));
        }
        self.0.splice(from..to, [(first, last)]);
    }

    /// Removes the numbers up to `floor`.
    pub(super) fn clip(&mut self, floor: u64) {
        self.0.retain(|range| range.1 > floor);
        if let Some(lowest) = self.0.first_mut().filter(|range| range.0 <= floor) {
            lowest.0 = floor + 1;
        }
    }

    /// Removes the numbers of sorted, disjoint ranges.
    pub(super) fn remove(&mut self, set: &[Range]) {
        if !self.0.is_empty() {
            take(&mut self.0, set);
        }
    }

    /// Returns the first range.
    pub(super) fn lowest(&self) -> Option<Range> {
        self.0.first().copied()
    }
}

/// Removes the numbers of `set` from `holes`, and returns the removed ranges. Both are sorted and disjoint.
pub(super) fn take(holes: &mut Vec<Range>, set: &[Range]) -> Vec<Range> {
    let (mut taken, mut left) = (Vec::new(), Vec::with_capacity(holes.len()));
    for &(mut first, last) in holes.iter() {
        let begin = set.partition_point(|range| range.1 < first);
        let mut is_used_up = false;
        for &(from, to) in set[begin..].iter().take_while(|range| range.0 <= last) {
            if from > first {
                left.push((first, from - 1));
            }
            taken.push((from.max(first), to.min(last)));
            if to >= last {
                is_used_up = true;
                break;
            }
            first = to + 1;
        }
        if !is_used_up {
            left.push((first, last));
        }
    }
    *holes = left;
    taken
}

/// Consecutive numbers that were archived on the same day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, i32, i64, i64)", into = "(u64, u64, i32, i64, i64)")]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Day of receipt, since 1970-01-01.
    pub(super) day: i32,
    /// Time of the first number, ns since the epoch.
    pub(super) first_ns: i64,
    /// Time of the last number, ns since the epoch.
    pub(super) last_ns: i64,
}

impl From<(u64, u64, i32, i64, i64)> for Run {
    fn from((first, last, day, first_ns, last_ns): (u64, u64, i32, i64, i64)) -> Self {
        Self { first, last, day, first_ns, last_ns }
    }
}

impl From<Run> for (u64, u64, i32, i64, i64) {
    fn from(Run { first, last, day, first_ns, last_ns }: Run) -> Self {
        (first, last, day, first_ns, last_ns)
    }
}

/// Archived numbers with the day and the times, as sorted, disjoint runs. A number added twice keeps the first day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// Adds a number. `day` is the day of receipt, `at_ns` the time of the number.
    pub(super) fn add(&mut self, number: u64, day: i32, at_ns: i64) {
        let at = self.0.partition_point(|run| run.first <= number);
        let extends = |run: &Run, touches: bool| touches && run.day == day;
        let after = self.0.get(at).copied().filter(|run| extends(run, run.first.checked_sub(1) == Some(number)));
        if let Some(before) = at.checked_sub(1).and_then(|at| self.0.get_mut(at)) {
            if number <= before.last {
                return;
            }
            if extends(before, before.last.checked_add(1) == Some(number)) {
                (before.last, before.last_ns) = (number, at_ns);
                if let Some(after) = after {
                    (before.last, before.last_ns) = (after.last, after.last_ns);
                    self.0.remove(at);
                }
                return;
            }
        }
        match self.0.get_mut(at) {
            Some(run) if after.is_some() => (run.first, run.first_ns) = (number, at_ns),
            _ => self.0.insert(at, Run { first: number, last: number, day, first_ns: at_ns, last_ns: at_ns }),
        }
    }

    /// Adds the numbers of other runs.
    pub(super) fn merge(&mut self, other: &Self) {
        for run in &other.0 {
            let mut new = vec![(run.first, run.last)];
            take(&mut new, &self.ranges());
            for (first, last) in new {
                let at = self.0.partition_point(|known| known.first <= first);
                self.0.insert(at, Run { first, last, ..*run });
                self.join(at + 1);
                self.join(at);
            }
        }
    }

    /// Joins the run at an index with the run before, when both are of one day and touch.
    fn join(&mut self, at: usize) {
        let Some(&after) = self.0.get(at) else { return };
        let Some(before) = at.checked_sub(1).and_then(|at| self.0.get_mut(at)) else { return };
        if before.day == after.day && before.last.checked_add(1) == Some(after.first) {
            (before.last, before.last_ns) = (after.last, after.last_ns);
            self.0.remove(at);
        }
    }

    /// Returns true when the number is archived.
    pub(super) fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|run| run.last < number);
        self.0.get(at).is_some_and(|run| run.first <= number)
    }

    /// Returns the number of runs.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true when there is no number.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many numbers were archived on each day.
    pub(super) fn by_day(&self) -> std::collections::BTreeMap<i32, u64> {
        let mut days = std::collections::BTreeMap::new();
        for run in &self.0 {
            let count: &mut u64 = days.entry(run.day).or_default();
            *count = count.saturating_add(width((run.first, run.last)));
        }
        days
    }

    /// Removes the numbers of a day, and returns the highest removed number.
    pub(super) fn remove_day(&mut self, day: i32) -> Option<u64> {
        let highest = self.0.iter().filter(|run| run.day == day).map(|run| run.last).max();
        self.0.retain(|run| run.day != day);
        highest
    }

    /// Removes the run with the lowest numbers, and returns the day of the run.
    pub(super) fn remove_lowest(&mut self) -> Option<i32> {
        (!self.0.is_empty()).then(|| self.0.remove(0).day)
    }

    pub(super) fn as_slice(&self) -> &[Run] {
        &self.0
    }

    pub(super) fn ranges(&self) -> Vec<Range> {
        self.0.iter().map(|run| (run.first, run.last)).collect()
    }

    pub(super) fn last(&self) -> u64 {
        self.0.last().map_or(0, |run| run.last)
    }

    /// Removes the numbers up to `floor`.
    pub(super) fn clip(&mut self, floor: u64) {
        self.0.retain(|run| run.last > floor);
        if let Some(lowest) = self.0.first_mut().filter(|run| run.first <= floor) {
            lowest.first = floor + 1;
        }
    }

    /// Returns the time of the nearest archived number before and after a range.
    pub(super) fn around(&self, (first, last): Range) -> (Option<i64>, Option<i64>) {
        let before = self.0.partition_point(|run| run.last < first).checked_sub(1).and_then(|at| self.0.get(at));
        let after = self.0.get(self.0.partition_point(|run| run.first <= last));
        (before.map(|run| run.last_ns), after.map(|run| run.first_ns))
    }
}
