//! Ticks without a frame, by boot.
//!
//! A declaration has times since the boot, and is repeated until the agent knows that Kafka has the declaration. A
//! declaration within the times of another declaration of the same reason, with no more ticks, is the same declaration.
//! An agent with more than 1,024 pending declarations joins the declarations of each reason; only then a missed tick
//! can be counted for an earlier declaration that lies within the joined times.

use std::collections::BTreeMap;

use edr_wire::frame::MissedTicks;
use serde::{Deserialize, Serialize};

/// Missed ticks of the boots of a host, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Boots(Vec<Boot>);

/// Missed ticks of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    pub(super) boot_id: String,
    /// Wall-clock time of the boot, ns since the epoch.
    pub(super) booted_ns: Option<i64>,
    pub(super) missed: Vec<MissedTicks>,
}

impl Boots {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Boot> {
        self.0.iter()
    }

    fn boot(&mut self, boot_id: &str) -> &mut Boot {
        let at = self.0.iter().position(|boot| boot.boot_id == boot_id).unwrap_or_else(|| {
            // An earlier boot without missed ticks has nothing to tell.
            self.0.retain(|boot| !boot.missed.is_empty());
            self.0.push(Boot { boot_id: boot_id.to_owned(), ..Boot::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(super) fn set(&mut self, boot_id: &str, booted_ns: i64) {
        self.boot(boot_id).booted_ns = Some(booted_ns);
    }

    pub(super) fn declare(&mut self, boot_id: &str, missed: &[MissedTicks]) {
        if missed.is_empty() {
            return;
        }
        let known = &mut self.boot(boot_id).missed;
        for new in missed {
            if !known.iter().any(|known| includes(known, new)) {
                known.retain(|known| !includes(new, known));
                known.push(new.clone());
            }
        }
        known.sort_by_key(|ticks| (ticks.from_boottime_ns, ticks.to_boottime_ns));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for theirs in &other.0 {
            self.declare(&theirs.boot_id, &theirs.missed);
            if let Some(booted_ns) = theirs.booted_ns {
                self.set(&theirs.boot_id, booted_ns);
            }
        }
    }

    /// Removes the boots for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|boot| keep(&boot.boot_id));
    }

    pub(super) fn entries(&self) -> usize {
        self.0.iter().map(|boot| boot.missed.len().max(1)).sum()
    }

    /// Joins the declarations of each reason in the oldest boot where the number of entries becomes smaller. The number
    /// of ticks stays. Returns false when there is no such boot.
    pub(super) fn join(&mut self) -> bool {
        self.0.iter_mut().any(|boot| {
            let mut joined: BTreeMap<&str, MissedTicks> = BTreeMap::new();
            for entry in &boot.missed {
                let join = |all: &mut MissedTicks| {
                    all.from_boottime_ns = all.from_boottime_ns.min(entry.from_boottime_ns);
                    all.to_boottime_ns = all.to_boottime_ns.max(entry.to_boottime_ns);
                    all.ticks = all.ticks.saturating_add(entry.ticks);
                };
                joined.entry(&entry.reason).and_modify(join).or_insert_with(|| entry.clone());
            }
            let is_smaller = joined.len() < boot.missed.len();
            if is_smaller {
                boot.missed = joined.into_values().collect();
                boot.missed.sort_by_key(|entry| (entry.from_boottime_ns, entry.to_boottime_ns));
            }
            is_smaller
        })
    }

    /// Drops the oldest boot. Returns false when there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let has_one = !self.0.is_empty();
        if has_one {
            self.0.remove(0);
        }
        has_one
    }
}

fn includes(outer: &MissedTicks, inner: &MissedTicks) -> bool {
    let is_within = outer.from_boottime_ns <= inner.from_boottime_ns && inner.to_boottime_ns <= outer.to_boottime_ns;
    is_within && outer.reason == inner.reason && outer.ticks >= inner.ticks
}
