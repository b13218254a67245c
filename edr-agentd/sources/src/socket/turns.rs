//! The order in which network namespaces are read: owners take turns, so that the namespaces of one owner delay nobody
//! else's.

use std::collections::BTreeMap;

use crate::common::owner::Owner;

/// The place in each turn from one tick to the next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The first namespace to be read of each owner.
    next: BTreeMap<Owner, u64>,
    /// The owner who was the last to be read.
    last: Option<Owner>,
}

impl Turns {
    /// The order of reading: one namespace of each home in turn, and in each home one of each user in turn.
    pub(super) fn order(&self, namespaces: &BTreeMap<u64, Owner>) -> Vec<u64> {
        let mut by_owner: BTreeMap<Owner, Vec<u64>> = BTreeMap::new();
        for (netns, owner) in namespaces {
            by_owner.entry(*owner).or_default().push(*netns);
        }
        let mut by_home: BTreeMap<Option<u64>, Vec<Vec<u64>>> = BTreeMap::new();
        let (after, up_to): (Vec<_>, Vec<_>) = by_owner.into_iter().partition(|(owner, _)| Some(*owner) > self.last);
        let mut homes = Vec::new();
        for (owner, mut turn) in after.into_iter().chain(up_to) {
            let next = self.next.get(&owner).copied().unwrap_or(0);
            let first = turn.partition_point(|netns| *netns < next);
            turn.rotate_left(first);
            if !by_home.contains_key(&owner.home) {
                homes.push(owner.home);
            }
            by_home.entry(owner.home).or_default().push(turn);
        }
        interleaved(homes.iter().filter_map(|home| by_home.remove(home)).map(interleaved).collect())
    }

    /// Remembers what an order that was read up to `unread` leaves for the next tick.
    pub(super) fn remember(&mut self, order: &[u64], unread: usize, namespaces: &BTreeMap<u64, Owner>) {
        let owner = |netns: &u64| namespaces.get(netns).copied();
        self.next.clear();
        for netns in order.get(unread..).unwrap_or_default() {
            if let Some(owner) = owner(netns) {
                self.next.entry(owner).or_insert(*netns);
            }
        }
        if unread < order.len() {
            self.last = unread.checked_sub(1).and_then(|last| order.get(last)).and_then(owner);
        }
    }
}

/// One item of each list in turn.
fn interleaved(lists: Vec<Vec<u64>>) -> Vec<u64> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|at| lists.iter().filter_map(move |list| list.get(at)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(home: u64, uid: u32) -> Owner {
        Owner { home: Some(home), uid }
    }

    #[test]
    fn the_namespaces_of_one_owner_are_read_in_turn_with_the_others() {
        // A thousand namespaces of a user with two ids, a namespace of a container, and a namespace of a second user.
        let mut namespaces: BTreeMap<u64, Owner> = (0..1_000).map(|n| (n, of(1, 1_000 + (n % 2) as u32))).collect();
        namespaces.insert(5_000, of(2, 0));
        namespaces.insert(6_000, of(3, 7));
        let mut turns = Turns::default();
        let mut seen = BTreeMap::new();
        for _ in 0..600 {
            let order = turns.order(&namespaces);
            assert_eq!(order.len(), namespaces.len());
            order[..4].iter().for_each(|netns| *seen.entry(*netns).or_insert(0) += 1);
            turns.remember(&order, 4, &namespaces);
        }
        assert_eq!(seen.len(), namespaces.len(), "each has its turn");
        assert!(seen[&5_000] >= 590 && seen[&6_000] >= 590, "{} {}", seen[&5_000], seen[&6_000]);
    }

    #[test]
    fn more_owners_than_fit_a_tick_take_turns() {
        let namespaces: BTreeMap<u64, Owner> = (0..50).map(|n| (n, of(n, 0))).collect();
        let mut turns = Turns::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            let order = turns.order(&namespaces);
            seen.extend_from_slice(&order[..10]);
            turns.remember(&order, 10, &namespaces);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }
}
