//! Fair shares of a limited resource: bytes of a snapshot, rows of a table, bytes to hash, time of a pass.
//!
//! The division is **max-min fair**: small demands are met in full, and all larger demands get the same share. So an
//! owner who wants everything can use up only the part that nobody else needs. Homes (services, slices, containers)
//! are served first, then the users inside each home, so that a user with many ids has one share.
//!
//! [`divide`] and [`divide_by_owner`] are pure. [`Shares`] applies them to takers that come one after the other: the
//! shares of a tick come from the demands of the previous tick.

use std::collections::BTreeMap;

use super::owner::Owner;

/// Owners counted separately per tick; further owners are counted together.
const OWNERS_MAX: usize = 4_096;
/// Part of the reserve for an owner.
const NEWCOMERS: u64 = 16;
/// Part of the reserve for all users of a home.
const HOMES: u64 = 4;

/// Divides `capacity` between demands, max-min fair. The sum of the shares is the smaller of `capacity` and the sum of
/// the demands.
pub(crate) fn divide(demands: &[u64], capacity: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&at| demands[at]);
    let (mut shares, mut left) = (vec![0; demands.len()], capacity);
    for (served, at) in order.into_iter().enumerate() {
        let waiting = (demands.len() - served) as u64;
        shares[at] = demands[at].min(left / waiting);
        left -= shares[at];
    }
    shares
}

/// Divides `capacity` between homes, and the share of each home between its users; both max-min fair.
pub(crate) fn divide_by_owner(demands: &BTreeMap<Owner, u64>, capacity: u64) -> BTreeMap<Owner, u64> {
    let mut homes: BTreeMap<Option<u64>, Vec<(Owner, u64)>> = BTreeMap::new();
    for (owner, demand) in demands {
        homes.entry(owner.home).or_default().push((*owner, *demand));
    }
    let sum = |users: &[(Owner, u64)]| users.iter().fold(0_u64, |sum, (_, demand)| sum.saturating_add(*demand));
    let sums: Vec<u64> = homes.values().map(|users| sum(users)).collect();
    let mut shares = BTreeMap::new();
    for (users, share) in homes.values().zip(divide(&sums, capacity)) {
        let demands: Vec<u64> = users.iter().map(|(_, demand)| *demand).collect();
        shares.extend(users.iter().map(|(owner, _)| *owner).zip(divide(&demands, share)));
    }
    shares
}

/// Use of a resource by an owner in a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OwnerUse {
    pub(crate) wanted: u64,
    pub(crate) taken: u64,
    /// The owner can take this much, whatever other owners take.
    pub(crate) share: u64,
    /// Taken from the reserve, and from the free part.
    reserve: u64,
    free: u64,
}

impl OwnerUse {
    /// True for an owner who got less than wanted.
    pub(crate) fn is_cut(&self) -> bool {
        self.taken < self.wanted
    }
}

/// Divides a resource among owners that take one after the other.
///
/// The share of an owner comes from the owner's demand in the previous tick. Beyond the shares there is a free part for
/// demands that grow, and a reserve of which each owner may take a small part: a new owner, or a new process of an
/// owner whose share is used up. While all demands together fit, nobody is cut, except in a tick in which the demands
/// grow beyond the free part.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    uses: BTreeMap<Owner, OwnerUse>,
    /// Neither taken, nor part of a share or of the reserve.
    free: u64,
    /// Maximum part of the free part for an owner: the growth of a single owner leaves a rest.
    free_max: u64,
    reserve: u64,
    /// Maximum part of the reserve for an owner, and for a home.
    newcomer: u64,
    home: u64,
    /// Taken from the reserve, by home.
    homes: BTreeMap<Option<u64>, u64>,
}

impl Shares {
    /// Begins a tick. `shared` is divided by the demands of the previous tick; the rest of `shared` is free, too.
    pub(crate) fn start(&mut self, shared: u64, free: u64, reserve: u64) {
        let demands = self.uses.iter().map(|(owner, used)| (*owner, used.wanted)).filter(|(_, wanted)| *wanted > 0);
        let shares = divide_by_owner(&demands.collect(), shared);
        self.free = free + shared - shares.values().sum::<u64>();
        self.free_max = self.free - self.free / 4;
        let as_use = |(owner, share)| (owner, OwnerUse { share, ..OwnerUse::default() });
        self.uses = shares.into_iter().map(as_use).collect();
        (self.reserve, self.newcomer, self.home) = (reserve, reserve / NEWCOMERS, reserve / HOMES);
        self.homes.clear();
    }

    /// Maximum that the owner can take now.
    pub(crate) fn left(&self, owner: Owner) -> u64 {
        let used = self.uses.get(&self.counted(owner)).copied().unwrap_or_default();
        used.share.saturating_sub(used.taken) + self.of_reserve(owner, used) + self.of_free(used)
    }

    /// What an owner can still take from the free part.
    fn of_free(&self, used: OwnerUse) -> u64 {
        self.free_max.saturating_sub(used.free).min(self.free)
    }

    /// What an owner can still take from the reserve.
    fn of_reserve(&self, owner: Owner, used: OwnerUse) -> u64 {
        let of_home = self.homes.get(&owner.home).copied().unwrap_or(0);
        self.newcomer.saturating_sub(used.reserve).min(self.home.saturating_sub(of_home)).min(self.reserve)
    }

    /// Records that an owner wanted some of the resource and took at most [`Self::left`].
    pub(crate) fn take(&mut self, owner: Owner, wanted: u64, taken: u64) {
        let owner = self.counted(owner);
        let mut used = self.uses.get(&owner).copied().unwrap_or_default();
        let beyond = taken - taken.min(used.share.saturating_sub(used.taken));
        let of_free = beyond.min(self.of_free(used));
        used.free += of_free;
        let of_reserve = (beyond - of_free).min(self.of_reserve(owner, used));
        self.free -= of_free;
        if of_reserve > 0 {
            self.reserve -= of_reserve;
            *self.homes.entry(owner.home).or_default() += of_reserve;
        }
        used.reserve += of_reserve;
        used.wanted = used.wanted.saturating_add(wanted);
        used.taken = used.taken.saturating_add(taken);
        self.uses.insert(owner, used);
    }

    /// The use of each owner in this tick.
    pub(crate) fn uses(&self) -> &BTreeMap<Owner, OwnerUse> {
        &self.uses
    }

    /// Demands of all owners in this tick.
    pub(crate) fn wanted(&self) -> u64 {
        self.uses.values().fold(0, |sum, used| sum.saturating_add(used.wanted))
    }

    /// The owner under which a use is counted.
    pub(crate) fn counted(&self, owner: Owner) -> Owner {
        if self.uses.len() < OWNERS_MAX || self.uses.contains_key(&owner) { owner } else { Owner::OTHERS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(home: u64, uid: u32) -> Owner {
        Owner { home: Some(home), uid }
    }

    #[test]
    fn small_demands_are_met_and_large_demands_share_the_rest() {
        assert_eq!(divide(&[5, 100, 20, 300], 125), [5, 50, 20, 50]);
        assert_eq!(divide(&[5, 100], 1_000), [5, 100]);
        assert_eq!(divide(&[], 7), [0_u64; 0]);
        assert_eq!(divide(&[9, 9, 9], 0), [0, 0, 0]);
    }

    #[test]
    fn many_ids_of_one_home_have_the_share_of_one_home() {
        let mut demands: BTreeMap<Owner, u64> = (0..1_000).map(|uid| (owner(1, 100_000 + uid), 1_000)).collect();
        demands.insert(owner(2, 0), 40_000);
        demands.insert(owner(3, 0), 90);
        let shares = divide_by_owner(&demands, 80_000);
        assert_eq!((shares[&owner(2, 0)], shares[&owner(3, 0)]), (39_955, 90));
        let of_home = shares.iter().filter(|(owner, _)| owner.home == Some(1)).map(|(_, share)| share);
        assert_eq!(of_home.sum::<u64>(), 39_955);
    }

    #[test]
    fn who_was_here_keeps_a_share_against_a_growing_and_a_new_owner() {
        let mut shares = Shares::default();
        shares.start(700, 100, 160);
        assert_eq!(shares.left(owner(1, 0)), 610, "nobody is known: most is free, and a part of the reserve");
        shares.take(owner(1, 0), 300, 300);
        shares.take(owner(2, 0), 100, 100);
        shares.start(700, 100, 160);
        // The second owner wants everything: the share of the first and most of the reserve stay.
        assert_eq!(shares.left(owner(2, 0)), 410);
        shares.take(owner(2, 0), 5_000, 410);
        assert_eq!((shares.left(owner(2, 0)), shares.left(owner(1, 0)), shares.left(owner(3, 0))), (0, 410, 110));
        shares.take(owner(1, 0), 310, 310);
        shares.take(owner(3, 0), 100, 100);
        assert!(shares.uses()[&owner(2, 0)].is_cut() && !shares.uses()[&owner(1, 0)].is_cut());
        assert_eq!((shares.left(owner(1, 0)), shares.left(owner(3, 0))), (10, 0));
        shares.start(700, 100, 160);
        let share = |of| shares.uses()[&owner(of, 0)].share;
        assert_eq!((share(1), share(2), share(3)), (300, 300, 100));
        assert_eq!(shares.left(owner(4, 0)), 85);
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let mut shares = Shares::default();
        shares.start(0, 1 << 30, 0);
        (0..2 * OWNERS_MAX as u32).for_each(|uid| shares.take(owner(1, uid), 1, 1));
        assert_eq!(shares.uses().len(), OWNERS_MAX + 1);
        assert_eq!(shares.wanted(), 2 * OWNERS_MAX as u64);
    }

    proptest! {
        #[test]
        fn a_division_fills_the_capacity_and_cuts_only_the_largest(
            demands in proptest::collection::vec(0..1_000_u64, 0..20),
            capacity in 0..12_000_u64,
        ) {
            let shares = divide(&demands, capacity);
            prop_assert_eq!(shares.iter().sum::<u64>(), demands.iter().sum::<u64>().min(capacity));
            let most = shares.iter().max().copied().unwrap_or(0);
            for (demand, share) in demands.iter().zip(&shares) {
                prop_assert!(share == demand || (share < demand && share + 1 >= most), "{:?} {:?}", demands, shares);
            }
        }

        #[test]
        fn takers_in_any_order_never_take_more_than_there_is_and_small_owners_are_never_cut(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0..6_u64, 0..3_u32, 0..400_u64), 0..40), 1..6),
        ) {
            let mut shares = Shares::default();
            for takers in rounds {
                shares.start(1_500, 250, 250);
                let sure: BTreeMap<Owner, u64> =
                    shares.uses().iter().map(|(owner, used)| (*owner, used.share)).collect();
                for (home, uid, wanted) in takers {
                    let of = owner(home, uid);
                    let taken = wanted.min(shares.left(of));
                    shares.take(of, wanted, taken);
                }
                prop_assert!(shares.uses().values().map(|used| used.taken).sum::<u64>() <= 2_000);
                for (of, used) in shares.uses() {
                    let share = sure.get(of).copied().unwrap_or(0);
                    prop_assert!(used.taken >= used.wanted.min(share), "{:?} {:?}", of, used);
                }
            }
        }
    }
}
