//! Room in a snapshot for the rows of processes, divided fairly between their owners.
//!
//! A row has a **core** (identity, rights, numbers, names of up to 256 bytes) and **lists** (arguments, open files,
//! mapped files, groups, the rest of long names). Cores come first: no list takes the room of a core. The lists of an
//! owner whose share is too small are shortened to a limit per row, a power of two, so that the rows stay the same from
//! tick to tick. Where even the cores of an owner do not fit the owner's share, new processes have a row, and of the
//! others a sample that nobody outside can foresee.
//!
//! Rewritten command lines and names have a share of their own, because neither a delta nor compression makes them
//! smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::mem;
use std::time::Duration;

use edr_wire::snapshot::GapReason;

use crate::common::GapCollector;
use crate::common::owner::{HomeNames, Owner};
use crate::common::shares::{OwnerUse, Shares};

/// Bytes of a core before any was measured.
const CORE_BYTES: u64 = 1 << 10;
/// Bytes of the smallest core.
const CORE_BYTES_MIN: u64 = 256;
/// Bytes by which a core may grow from one pass to the next.
const CORE_GROWTH: u64 = 64;
/// Bytes per tick for command lines and names that change at each read: a frame of an idle host has 5 KiB.
const REWRITTEN_BYTES_MAX: u64 = 64 << 10;
/// Changes in a row after which a command line or name counts as rewritten.
pub(super) const REWRITES: u8 = 3;
/// Owners named in gaps; further owners are counted together.
const NAMED_MAX: usize = 16;
/// Number of row sizes told apart: powers of two up to 16 MiB.
const SIZES: usize = 25;

/// The bytes that a process may add to the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowGrant {
    /// False where the row is counted only.
    pub(super) is_listed: bool,
    /// Bytes of the lists.
    pub(super) lists: u64,
    /// Bytes of a rewritten command line or name.
    pub(super) rewritten: u64,
}

/// The bytes that a process wanted and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowSize {
    pub(super) owner: Owner,
    pub(super) is_listed: bool,
    pub(super) core: u64,
    pub(super) lists_wanted: u64,
    pub(super) lists: u64,
    /// The limit on the lists.
    pub(super) lists_max: u64,
    pub(super) rewritten_wanted: u64,
    pub(super) rewritten: u64,
}

impl RowSize {
    /// The size of a row of which nothing is known yet.
    pub(super) fn unknown(owner: Owner) -> Self {
        Self {
            owner,
            is_listed: true,
            core: 0,
            lists_wanted: 0,
            lists: 0,
            lists_max: u64::MAX,
            rewritten_wanted: 0,
            rewritten: 0,
        }
    }

    /// True for shortened lists.
    pub(super) fn is_cut(&self) -> bool {
        self.lists < self.lists_wanted
    }
}

/// The room of one pass, and the demands that decide about the next.
#[derive(Debug, Default)]
pub(super) struct Room {
    capacity: u64,
    cores: Shares,
    lists: RowShares,
    rewritten: RowShares,
    /// Time of the reads, µs.
    time: Shares,
    time_us: u64,
    /// Owners whose cores do not fit, with the part of their processes that has a row, of 2^64.
    samples: BTreeMap<Owner, u64>,
    /// Number of processes in this pass.
    rows: u64,
    /// Rows with shortened lists, and with a shortened command line, of each owner.
    shortened: BTreeMap<Owner, (u64, u64)>,
    names: HomeNames,
    hasher: RandomState,
}

impl Room {
    /// Begins a pass over so many processes. `capacity` is in bytes of rows, `time` the time of the pass.
    pub(super) fn start(&mut self, capacity: u64, processes: u64, time: Duration) {
        self.time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.time.start(self.time_us - self.time_us / 8, 0, self.time_us / 8);
        self.capacity = capacity;
        let rows = mem::take(&mut self.rows);
        let core = if rows == 0 { CORE_BYTES } else { self.cores.wanted().div_ceil(rows) };
        // A part stays free for what grows and for what is new.
        let known_max = capacity - capacity / 8;
        let cores = self.cores.wanted().max(processes.saturating_mul(core)).min(known_max);
        let lists = self.lists.shares.wanted().min(known_max - cores);
        let rest = capacity - cores - lists;
        let before: Vec<(Owner, u64)> = self.cores.uses().iter().map(|(owner, used)| (*owner, used.wanted)).collect();
        self.cores.start(cores, rest / 8, rest / 8);
        self.lists.start(lists, rest / 2, rest / 4);
        self.rewritten.start(REWRITTEN_BYTES_MAX / 8 * 7, 0, REWRITTEN_BYTES_MAX / 8);
        self.samples.clear();
        for (owner, wanted) in before {
            let share = self.cores.uses().get(&owner).map_or(0, |used| used.share);
            if share < wanted {
                // A quarter of the share is for new processes.
                let part = (share - share / 4) as f64 / wanted as f64;
                self.samples.insert(owner, (part * u64::MAX as f64) as u64);
            }
        }
        self.shortened.clear();
        let homes: BTreeSet<u64> = self.cores.uses().keys().filter_map(|owner| owner.home).collect();
        self.names.retain(|home| homes.contains(&home));
    }

    /// The bytes that a process may add to the snapshot. `is_new` for a process without a row in the last pass.
    pub(super) fn grant(&self, owner: Owner, key: (u32, u64), is_new: bool) -> RowGrant {
        RowGrant {
            is_listed: self.cores.left(owner) >= CORE_BYTES_MIN && (is_new || self.is_in_sample(owner, key)),
            lists: self.lists.left(owner),
            rewritten: self.rewritten.left(owner),
        }
    }

    fn is_in_sample(&self, owner: Owner, key: (u32, u64)) -> bool {
        self.samples.get(&owner).is_none_or(|part| self.hasher.hash_one(key) <= *part)
    }

    /// True when a row of the last pass would have the same size now.
    pub(super) fn keeps(&self, size: &RowSize, key: (u32, u64)) -> bool {
        let now = self.grant(size.owner, key, false);
        if !size.is_listed || !now.is_listed {
            return size.is_listed == now.is_listed;
        }
        if size.is_cut() { size.lists_max == now.lists } else { size.lists <= now.lists }
    }

    /// Remembers the name of an owner.
    pub(super) fn learn(&mut self, owner: Owner, cgroup_path: &[u8]) {
        self.names.learn(owner, cgroup_path);
    }

    /// True for an owner who used up the share of the time of the pass.
    pub(super) fn has_used_time(&self, owner: Owner) -> bool {
        self.time.left(owner) == 0
    }

    /// Counts the time of a read, and the time that a whole read would have taken; µs.
    pub(super) fn take_time(&mut self, owner: Owner, wanted_us: u64, taken_us: u64) {
        self.time.take(owner, wanted_us.max(taken_us), taken_us);
    }

    /// Names of the owners.
    pub(super) fn names(&self) -> &HomeNames {
        &self.names
    }

    /// Counts a row, or a process without a row.
    pub(super) fn take(&mut self, size: &RowSize) {
        let owner = self.cores.counted(size.owner);
        let core = CORE_GROWTH + if size.core == 0 { CORE_BYTES } else { size.core };
        self.rows += 1;
        self.cores.take(owner, core, if size.is_listed { core } else { 0 });
        if !size.is_listed {
            return;
        }
        self.lists.take(size.owner, size.lists_wanted, size.lists);
        if size.rewritten_wanted > 0 {
            self.rewritten.take(size.owner, size.rewritten_wanted, size.rewritten);
        }
        if size.is_cut() || size.rewritten < size.rewritten_wanted {
            let (lists, rewritten) = self.shortened.entry(owner).or_default();
            *lists += u64::from(size.is_cut());
            *rewritten += u64::from(size.rewritten < size.rewritten_wanted);
        }
    }

    /// True when lists were shortened of an owner without a limit: the owner's demand was not known before.
    pub(super) fn has_grown(&self) -> bool {
        let is_new = |owner: &Owner| !self.lists.limits.contains_key(&self.lists.shares.counted(*owner));
        self.shortened.iter().any(|(owner, (lists, _))| *lists > 0 && is_new(owner))
    }

    /// Records who used the room, by owner, where something was cut.
    pub(super) fn report(&self, gaps: &mut GapCollector) {
        let rows = |owner: Owner| self.shortened.get(&owner).copied().unwrap_or_default();
        for (uses, capacity, what) in [
            (self.cores.uses(), self.capacity, RoomPart::Rows),
            (self.lists.shares.uses(), self.capacity, RoomPart::Lists),
            (self.rewritten.shares.uses(), REWRITTEN_BYTES_MAX, RoomPart::Rewritten),
            (self.time.uses(), self.time_us, RoomPart::Time),
        ] {
            let all: u64 = uses.values().map(|used| used.taken).sum();
            let mut homes: BTreeMap<Option<u64>, u64> = BTreeMap::new();
            for (owner, used) in uses {
                let wanted = homes.entry(owner.home).or_default();
                *wanted = wanted.saturating_add(used.wanted);
            }
            let mut cut: Vec<(Owner, &OwnerUse)> =
                uses.iter().filter(|(_, used)| used.is_cut()).map(|(owner, used)| (*owner, used)).collect();
            cut.sort_by_key(|(_, used)| std::cmp::Reverse(used.wanted));
            for (at, (owner, used)) in cut.into_iter().enumerate() {
                let count = match what {
                    RoomPart::Rows => (used.wanted - used.taken).div_ceil(CORE_BYTES),
                    RoomPart::Lists => rows(owner).0,
                    RoomPart::Rewritten => rows(owner).1,
                    RoomPart::Time => 1,
                };
                let name = if at < NAMED_MAX { self.names.name(owner) } else { "further owners".to_owned() };
                // On a usual host all owners together want a third of the room.
                let of_home = homes.get(&owner.home).copied().unwrap_or(0);
                let alarm = if of_home > capacity / 2 { "alarm: " } else { "" };
                let detail = format!(
                    "{alarm}{name} wants {} {} and has {}; other owners have {} of {capacity}",
                    used.wanted,
                    what.words(),
                    used.taken,
                    all - used.taken,
                );
                let field = format!("{}: {name}", what.field());
                gaps.add_count("processes", field.as_bytes(), GapReason::TooLong, &detail, count.max(1));
            }
        }
    }
}

/// What of the rows is divided.
#[derive(Debug, Clone, Copy)]
enum RoomPart {
    Rows,
    Lists,
    Rewritten,
    Time,
}

impl RoomPart {
    fn field(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Lists => "lists",
            Self::Rewritten => "rewritten",
            Self::Time => "time",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Rows => "bytes for rows of processes",
            Self::Lists => "bytes for arguments, files and names",
            Self::Rewritten => "bytes for command lines and names that change at each read",
            Self::Time => "µs for the reading of processes",
        }
    }
}

/// Shares of which each row takes a part: every owner has a limit per row.
#[derive(Debug, Default)]
struct RowShares {
    shares: Shares,
    sizes: BTreeMap<Owner, RowSizes>,
    limits: BTreeMap<Owner, u64>,
}

impl RowShares {
    fn start(&mut self, shared: u64, free: u64, reserve: u64) {
        self.shares.start(shared, free, reserve);
        let before = mem::take(&mut self.limits);
        for (owner, sizes) in mem::take(&mut self.sizes) {
            let share = self.shares.uses().get(&owner).map_or(0, |used| used.share);
            if sizes.total() > share {
                self.limits.insert(owner, sizes.limit(share, before.get(&owner).copied()));
            }
        }
    }

    /// Maximum bytes that a row of the owner may take now.
    fn left(&self, owner: Owner) -> u64 {
        let limit = self.limits.get(&self.shares.counted(owner)).copied().unwrap_or(u64::MAX);
        limit.min(self.shares.left(owner))
    }

    fn take(&mut self, owner: Owner, wanted: u64, taken: u64) {
        self.sizes.entry(self.shares.counted(owner)).or_default().add(wanted);
        self.shares.take(owner, wanted, taken);
    }
}

/// Number and bytes of the rows of each size: place N has the sizes up to 2^N.
#[derive(Debug, Clone, Copy, Default)]
struct RowSizes([(u64, u64); SIZES]);

impl RowSizes {
    fn add(&mut self, bytes: u64) {
        let place = (bytes.max(1).next_power_of_two().trailing_zeros() as usize).min(SIZES - 1);
        let (rows, sum) = &mut self.0[place];
        *rows += 1;
        *sum = sum.saturating_add(bytes);
    }

    fn total(&self) -> u64 {
        self.0.iter().fold(0, |all, (_, sum)| all.saturating_add(*sum))
    }

    /// The largest power of two to which each row can be limited so that all fit `share`; 0 when there is none. A
    /// limit grows only where some room stays, so that small changes of the demand do not change the limit.
    fn limit(&self, share: u64, before: Option<u64>) -> u64 {
        let bytes_at = |place: usize| {
            let (within, beyond) = self.0.split_at(place + 1);
            let beyond: u64 = beyond.iter().map(|(rows, _)| rows).sum();
            within.iter().fold(beyond.saturating_mul(1 << place), |all, (_, sum)| all.saturating_add(*sum))
        };
        let fits = |place: &usize| {
            let grows = before.is_some_and(|before| (1 << *place) > before);
            bytes_at(*place) <= if grows { share - share / 8 } else { share }
        };
        (0..SIZES).rev().find(fits).map_or(0, |place| 1 << place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn owner(home: u64, uid: u32) -> Owner {
        Owner { home: Some(home), uid }
    }

    /// One pass: each process is an owner, a pid, and the bytes of its lists. Returns the sizes by process.
    fn pass(room: &mut Room, capacity: u64, processes: &[(Owner, u32, u64)], is_first: bool) -> Vec<RowSize> {
        room.start(capacity, processes.len() as u64, Duration::from_secs(20));
        let sizes = processes.iter().map(|&(owner, pid, wanted)| {
            let grant = room.grant(owner, (pid, 1), is_first);
            let mut size = RowSize { core: 700, ..RowSize::unknown(owner) };
            size.is_listed = grant.is_listed;
            (size.lists_wanted, size.lists, size.lists_max) = (wanted, wanted.min(grant.lists), grant.lists);
            room.take(&size);
            size
        });
        sizes.collect()
    }

    fn bytes(sizes: &[RowSize]) -> u64 {
        sizes.iter().filter(|size| size.is_listed).map(|size| size.core + size.lists).sum()
    }

    #[test]
    fn the_lists_of_one_owner_shorten_nobody_elses_lists() {
        let (mut room, flood, victim) = (Room::default(), owner(1, 1_000), owner(2, 0));
        let mut all: Vec<_> = (0..345).map(|pid| (flood, pid, 65_500)).collect();
        all.extend((345..400).map(|pid| (victim, pid, 30_000)));
        for tick in 0..6 {
            let sizes = pass(&mut room, 18 * MIB, &all, tick == 0);
            assert!(bytes(&sizes) <= 18 * MIB && sizes.iter().all(|size| size.is_listed), "tick {tick}");
            if tick > 0 {
                assert!(sizes[345..].iter().all(|size| !size.is_cut()), "tick {tick}");
                assert!(sizes[..345].iter().all(|size| size.lists == 32 << 10), "the same for each row, tick {tick}");
            }
        }
        let mut gaps = GapCollector::default();
        room.report(&mut gaps);
        let gaps = gaps.take();
        assert_eq!((gaps.len(), gaps[0].count), (1, 345), "{gaps:?}");
        assert!(gaps[0].detail.starts_with("alarm: uid 1000"), "{gaps:?}");
        let sizes = pass(&mut room, 18 * MIB, &all, false);
        room.start(18 * MIB, 400, Duration::from_secs(20));
        assert!(room.keeps(&sizes[0], (0, 1)) && room.keeps(&sizes[399], (399, 1)));
    }

    #[test]
    fn a_crowd_of_one_owner_costs_only_rows_of_the_crowd_and_new_processes_have_a_row() {
        let (mut room, flood, victim) = (Room::default(), owner(1, 1_000), owner(2, 0));
        let mut all: Vec<_> = (0..50_000).map(|pid| (flood, pid, 0)).collect();
        all.extend((50_000..50_100).map(|pid| (victim, pid, 5_000)));
        pass(&mut room, 18 * MIB, &all, true);
        for _ in 0..3 {
            let sizes = pass(&mut room, 18 * MIB, &all, false);
            assert!(bytes(&sizes) <= 18 * MIB);
            assert!(sizes[50_000..].iter().all(|size| size.is_listed), "none of the victim's rows is missing");
            let listed = sizes[..50_000].iter().filter(|size| size.is_listed).count();
            assert!((10_000..22_000).contains(&listed), "{listed}");
            assert!(room.grant(flood, (70_000, 1), true).is_listed && room.grant(owner(3, 7), (9, 1), true).is_listed);
        }
        let mut gaps = GapCollector::default();
        room.report(&mut gaps);
        assert!(gaps.take().iter().any(|gap| gap.field.as_ref().starts_with(b"rows: uid 1000") && gap.count > 20_000));
    }

    #[test]
    fn what_fits_is_not_cut() {
        let mut room = Room::default();
        let all: Vec<_> = (0..500).map(|pid| (owner(u64::from(pid % 40), 0), pid, 10_000)).collect();
        for tick in 0..4 {
            assert!(pass(&mut room, 18 * MIB, &all, tick == 0).iter().all(|size| size.is_listed && !size.is_cut()));
        }
        let mut gaps = GapCollector::default();
        room.report(&mut gaps);
        assert_eq!(gaps.take(), []);
    }

    proptest! {
        #[test]
        fn a_limit_fits_the_share_and_the_next_does_not(
            sizes in proptest::collection::vec(0..5_000_u64, 1..40),
            share in 0..100_000_u64,
        ) {
            let mut all = RowSizes::default();
            sizes.iter().for_each(|bytes| all.add(*bytes));
            let at = |limit: u64| sizes.iter().map(|bytes| (*bytes).min(limit)).sum::<u64>();
            let limit = all.limit(share, None);
            prop_assert!(at(limit) <= share);
            prop_assert!(limit >= 8_192 || at(limit.max(1) * 2) > share || limit == 0);
        }

        #[test]
        fn any_pass_stays_within_its_capacity(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0..4_u64, 0..3_u32, 0..3_000_u64), 0..60), 1..5),
        ) {
            let mut room = Room::default();
            for round in rounds {
                let all: Vec<_> =
                    round.iter().zip(0..).map(|((home, uid, bytes), pid)| (owner(*home, *uid), pid, *bytes)).collect();
                let sizes = pass(&mut room, 40_000, &all, false);
                prop_assert!(bytes(&sizes) <= 40_000);
            }
        }
    }
}
