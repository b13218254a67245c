//! Facts missed in a tick, merged and bounded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use edr_wire::Bytes;
use edr_wire::snapshot::{Gap, GapReason};

/// Maximum number of distinct gaps per tick; further gaps are counted in one last gap.
const GAPS_MAX: usize = 1_000;

/// Collects gaps. Equal gaps (source, field, reason) are merged into one gap with a count, so that a host cannot fill a
/// snapshot with gaps.
#[derive(Debug, Default)]
pub struct GapCollector {
    merged: BTreeMap<(&'static str, Bytes, GapReason), Gap>,
    beyond: u64,
}

impl GapCollector {
    /// Records a missed `field` of `source`. A merged gap keeps the first `detail`, and keeps `pid` while all merged
    /// gaps have the same pid.
    pub fn add(&mut self, source: &'static str, pid: Option<u32>, field: &[u8], reason: GapReason, detail: &str) {
        self.add_count_of(source, pid, field, reason, detail, 1);
    }

    /// Records `count` equal gaps without a process.
    pub fn add_count(&mut self, source: &'static str, field: &[u8], reason: GapReason, detail: &str, count: u64) {
        self.add_count_of(source, None, field, reason, detail, count);
    }

    fn add_count_of(
        &mut self,
        source: &'static str,
        pid: Option<u32>,
        field: &[u8],
        reason: GapReason,
        detail: &str,
        count: u64,
    ) {
        let room = self.merged.len() < GAPS_MAX;
        match self.merged.entry((source, Bytes::from(field), reason)) {
            Entry::Occupied(mut known) => {
                let gap = known.get_mut();
                gap.count += count;
                if gap.pid != pid {
                    gap.pid = None;
                }
            }
            Entry::Vacant(free) if room => {
                free.insert(Gap {
                    source: source.to_owned(),
                    pid,
                    field: Bytes::from(field),
                    reason,
                    count,
                    detail: detail.to_owned(),
                });
            }
            Entry::Vacant(_) => self.beyond += count,
        }
    }

    /// Moves all gaps of `other` here: for a part of a reading that may turn out void.
    pub fn append(&mut self, other: &mut Self) {
        self.beyond += std::mem::take(&mut other.beyond);
        for (key, gap) in std::mem::take(&mut other.merged) {
            let room = self.merged.len() < GAPS_MAX;
            match self.merged.entry(key) {
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.count += gap.count;
                    if known.pid != gap.pid {
                        known.pid = None;
                    }
                }
                Entry::Vacant(free) if room => {
                    free.insert(gap);
                }
                Entry::Vacant(_) => self.beyond += gap.count,
            }
        }
    }

    /// The gaps so far, in a stable order.
    pub fn list(&self) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = self.merged.values().cloned().collect();
        if self.beyond > 0 {
            gaps.push(Gap {
                source: "gaps".to_owned(),
                reason: GapReason::TooLong,
                count: self.beyond,
                detail: format!("more than {GAPS_MAX} distinct gaps"),
                ..Gap::default()
            });
        }
        gaps
    }

    /// Removes all gaps.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the gaps so far and removes them.
    pub fn take(&mut self) -> Vec<Gap> {
        let gaps = self.list();
        self.clear();
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_gaps_are_merged_and_their_number_is_bounded() {
        let mut gaps = GapCollector::default();
        gaps.add("files", Some(1), b"fd", GapReason::Denied, "EACCES");
        gaps.add("files", Some(2), b"fd", GapReason::Denied, "EACCES");
        for n in 0..2 * GAPS_MAX {
            gaps.add("processes", None, n.to_string().as_bytes(), GapReason::Gone, "");
        }
        let taken = gaps.take();
        assert_eq!(taken.len(), GAPS_MAX + 1);
        assert_eq!((taken[0].count, taken[0].pid), (2, None));
        assert_eq!(taken.iter().map(|gap| gap.count).sum::<u64>(), 2 + 2 * GAPS_MAX as u64);
        assert!(gaps.take().is_empty());
    }

    #[test]
    fn gaps_taken_over_are_merged_like_others() {
        let (mut gaps, mut part) = (GapCollector::default(), GapCollector::default());
        gaps.add("sockets", Some(1), b"tcp", GapReason::Denied, "first");
        part.add("sockets", Some(2), b"tcp", GapReason::Denied, "second");
        part.add("sockets", Some(3), b"udp", GapReason::Io, "");
        gaps.append(&mut part);
        assert!(part.take().is_empty());
        let taken = gaps.take();
        assert_eq!((taken[0].count, taken[0].pid, taken[0].detail.as_str()), (2, None, "first"));
        assert_eq!((taken[1].count, taken[1].pid), (1, Some(3)));
    }
}
