//! The rows of one tick, bounded: the sockets of one owner displace no rows of other owners.
//!
//! The room is divided by [`Owner`], max-min fair. Within an owner whose share is too small, sockets that receive stay
//! first; of the rest one half of the share is for the oldest sockets and one half for the newest (the kernel numbers
//! inodes in order), so that neither a crowd before nor a crowd after a socket hides the socket.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use edr_wire::snapshot::{Family, GapReason};

use super::entry::{SocketAddress, SocketEntry};
use super::gap_count;
use crate::common::GapCollector;
use crate::common::owner::{HomeNames, Owner};
use crate::common::shares::divide_by_owner;

/// Maximum number of listed rows, to fit beside the processes in one snapshot: a row has some 200 bytes.
pub(super) const ROWS_MAX: usize = 50_000;
/// Maximum number of rows held during a tick, of rows with an inode and of rows without.
const HELD_MAX: usize = ROWS_MAX + ROWS_MAX / 2;
/// Owners named in gaps; further owners are counted together.
const NAMED_MAX: usize = 16;

/// Collected rows. Rows beyond the limits are counted by owner.
#[derive(Debug, Default)]
pub(super) struct SocketRows {
    /// Rows with an inode; after [`Self::finish`] all rows.
    pub(super) rows: Vec<SocketEntry>,
    /// Rows without an inode: time-wait, not yet accepted. Any process can make any number of connections, so these
    /// rows only get the room that is left.
    ownerless: Vec<SocketEntry>,
    pub(super) beyond: BTreeMap<Owner, u64>,
}

impl SocketRows {
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.ownerless.clear();
        self.beyond.clear();
    }

    pub(super) fn push(&mut self, found: SocketEntry) {
        let rows = if found.inode == 0 { &mut self.ownerless } else { &mut self.rows };
        rows.push(found);
        if rows.len() >= HELD_MAX {
            keep_shares(rows, ROWS_MAX as u64, |_| 1, &mut self.beyond);
        }
    }

    /// Moves all rows of `other` here.
    pub(super) fn append(&mut self, other: &mut Self) {
        other.rows.drain(..).chain(other.ownerless.drain(..)).for_each(|found| self.push(found));
        for (owner, rows) in std::mem::take(&mut other.beyond) {
            *self.beyond.entry(owner).or_default() += rows;
        }
    }

    /// Number of rows.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.ownerless.len()
    }

    /// All rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SocketEntry> {
        self.rows.iter().chain(&self.ownerless)
    }

    /// All rows, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut SocketEntry> {
        self.rows.iter_mut().chain(&mut self.ownerless)
    }

    /// Sorts the rows into [`Self::rows`] and reduces them to [`ROWS_MAX`] and to `bytes_max`.
    pub(super) fn finish(&mut self, bytes_max: u64) {
        self.rows.sort_unstable();
        // A table that changes during the read may list a socket twice. Two equal rows without an inode are two
        // sockets.
        self.rows.dedup();
        self.reduce(ROWS_MAX as u64, |_| 1);
        self.reduce(bytes_max, row_bytes);
        self.ownerless.sort_unstable();
        self.ownerless.append(&mut self.rows);
        std::mem::swap(&mut self.rows, &mut self.ownerless);
    }

    fn reduce(&mut self, capacity: u64, cost: fn(&SocketEntry) -> u64) {
        keep_shares(&mut self.rows, capacity, cost, &mut self.beyond);
        let left = capacity.saturating_sub(self.rows.iter().map(cost).sum());
        keep_shares(&mut self.ownerless, left, cost, &mut self.beyond);
    }

    /// Records the rows that are not listed, by owner.
    pub(super) fn report(&self, names: &HomeNames, gaps: &mut GapCollector) {
        if self.beyond.is_empty() {
            return;
        }
        let all: u64 = self.beyond.values().sum();
        let mut listed: BTreeMap<Owner, u64> = BTreeMap::new();
        self.iter().for_each(|found| *listed.entry(found.owner).or_default() += 1);
        let mut beyond: Vec<(Owner, u64)> = self.beyond.iter().map(|(owner, rows)| (*owner, *rows)).collect();
        beyond.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        for (at, (owner, rows)) in beyond.into_iter().enumerate() {
            let name = match owner.uid {
                u32::MAX => "sockets without a user".to_owned(),
                _ if at >= NAMED_MAX => "further owners".to_owned(),
                _ => names.name(owner),
            };
            let listed = listed.get(&owner).copied().unwrap_or(0);
            // A usual host has some thousand sockets.
            let alarm = if listed + rows > ROWS_MAX as u64 / 2 { "alarm: " } else { "" };
            let detail = format!(
                "{alarm}{name}: {rows} sockets are not listed, and {listed} are; {all} of all owners are not listed"
            );
            gap_count(gaps, &format!("rows: {name}"), GapReason::TooLong, &detail, rows);
        }
    }
}

/// The owner of a socket of the agent's own network namespace. Where the kernel reports no user (netlink, vsock), the
/// sockets of each protocol share as one owner.
pub(super) fn owner_of(found: &SocketEntry) -> Owner {
    match found.uid {
        Some(uid) => Owner { home: None, uid },
        None => {
            let mut hasher = DefaultHasher::new();
            (found.family, found.protocol).hash(&mut hasher);
            Owner { home: Some(hasher.finish()), uid: u32::MAX }
        }
    }
}

/// True for a socket that receives from anybody: listening, a UDP server, a sniffer, a member of netlink groups.
fn receives(found: &SocketEntry) -> bool {
    found.state == "listen"
        || !found.groups.is_empty()
        || found.promiscuous
        || matches!(found.family, Family::Packet | Family::Xdp)
        || (matches!(found.family, Family::Inet | Family::Inet6)
            && found.state == "unconnected"
            && found.local_port != 0
            && found.remote_port == 0)
}

/// Bytes of a row at most: names of fields 150, numbers, protocol and state 100, addresses, names, groups.
fn row_bytes(found: &SocketEntry) -> u64 {
    let addresses = match found.local {
        SocketAddress::V6(_) => 92,
        SocketAddress::V4(_) => 32,
        SocketAddress::None | SocketAddress::ContextId(_) => 24,
    };
    (250 + addresses + found.path.len() + 5 * found.groups.len()) as u64
}

/// Reduces `rows` to a sum of costs of `capacity`, and counts the removed rows.
fn keep_shares(
    rows: &mut Vec<SocketEntry>,
    capacity: u64,
    cost: impl Fn(&SocketEntry) -> u64,
    beyond: &mut BTreeMap<Owner, u64>,
) {
    let mut demands: BTreeMap<Owner, u64> = BTreeMap::new();
    for found in rows.iter() {
        *demands.entry(found.owner).or_default() += cost(found);
    }
    if demands.values().sum::<u64>() <= capacity {
        return;
    }
    let shares = divide_by_owner(&demands, capacity);
    // Of each owner who is cut: does not receive, inode, place.
    let mut cut: BTreeMap<Owner, Vec<(bool, u64, usize)>> = BTreeMap::new();
    for (at, found) in rows.iter().enumerate() {
        if shares.get(&found.owner) < demands.get(&found.owner) {
            cut.entry(found.owner).or_default().push((!receives(found), found.inode, at));
        }
    }
    let mut stays = vec![true; rows.len()];
    for (owner, mut places) in cut {
        places.sort_unstable();
        let first = places.partition_point(|(others, ..)| !others);
        let (receiving, others) = places.split_at(first);
        let mut left = shares.get(&owner).copied().unwrap_or(0);
        for group in [receiving, others] {
            let (kept_first, kept_last) = both_ends(group, &mut left, |(.., at)| cost(&rows[at]));
            let removed = &group[kept_first..group.len() - kept_last];
            removed.iter().for_each(|(.., at)| stays[*at] = false);
            *beyond.entry(owner).or_default() += removed.len() as u64;
        }
    }
    let mut stays = stays.into_iter();
    rows.retain(|_| stays.next().unwrap_or(true));
}

/// Numbers of the first and of the last items that fit `left` together, taken in turn.
fn both_ends<T: Copy>(items: &[T], left: &mut u64, cost: impl Fn(T) -> u64) -> (usize, usize) {
    let (mut first, mut last) = (0, 0);
    while first + last < items.len() {
        let takes_first = first <= last;
        let item = if takes_first { items[first] } else { items[items.len() - 1 - last] };
        let Some(rest) = left.checked_sub(cost(item)) else {
            *left = 0;
            break;
        };
        *left = rest;
        if takes_first { first += 1 } else { last += 1 }
    }
    (first, last)
}

/// The owner of a socket in the namespace of `owner`.
pub(super) fn owner_in(found: &SocketEntry, owner: Owner) -> Owner {
    Owner { home: owner.home, uid: found.uid.unwrap_or(owner.uid) }
}

#[cfg(test)]
mod tests {
    use super::super::entry::SocketProtocol;
    use super::*;
    use proptest::prelude::*;

    fn socket(uid: u32, inode: u64) -> SocketEntry {
        let owner = Owner { home: None, uid };
        SocketEntry {
            inode,
            owner,
            uid: Some(uid),
            ..SocketEntry::new(Family::Unix, SocketProtocol::Named("stream"), "unconnected")
        }
    }

    fn inodes_of(rows: &SocketRows, uid: u32) -> Vec<u64> {
        rows.rows.iter().filter(|found| found.owner.uid == uid).map(|found| found.inode).collect()
    }

    fn beyond(rows: &SocketRows) -> u64 {
        rows.beyond.values().sum()
    }

    #[test]
    fn a_flood_without_inodes_takes_no_row_from_sockets_with_an_owner() {
        let mut rows = SocketRows::default();
        (0..300_000).for_each(|_| rows.push(socket(1, 0)));
        (1..=1_000).for_each(|inode| rows.push(socket(1, inode)));
        assert!(rows.len() <= HELD_MAX + 1_000);
        rows.finish(u64::MAX);
        assert_eq!((rows.rows.len(), beyond(&rows)), (ROWS_MAX, 251_000));
        assert_eq!(rows.rows[ROWS_MAX - 1_000].inode, 1);
    }

    #[test]
    fn a_crowd_takes_no_row_from_other_users_and_hides_neither_old_nor_new_nor_listening_sockets_of_its_own() {
        let mut rows = SocketRows::default();
        let all = 400_000;
        (1..=all).for_each(|inode| rows.push(socket(1_000, inode)));
        (all + 1..=all + 200).for_each(|inode| rows.push(socket(0, inode)));
        rows.push(SocketEntry { state: "listen", ..socket(1_000, all / 2) });
        assert!(rows.len() <= HELD_MAX);
        rows.finish(u64::MAX);
        assert!(rows.rows.is_sorted() && rows.rows.len() == ROWS_MAX);
        assert_eq!(beyond(&rows), all + 201 - ROWS_MAX as u64);
        assert_eq!(inodes_of(&rows, 0), (all + 1..=all + 200).collect::<Vec<_>>());
        let own = inodes_of(&rows, 1_000);
        assert!((1..24_000).all(|inode| own.contains(&inode)) || own[..24_000].iter().copied().eq(1..=24_000));
        assert!(own[own.len() - 24_000..].iter().copied().eq(all - 23_999..=all));
        assert!(rows.rows.iter().any(|found| found.state == "listen"));
        let mut gaps = GapCollector::default();
        rows.report(&HomeNames::default(), &mut gaps);
        let gaps = gaps.take();
        assert!(gaps.len() == 1 && gaps[0].detail.starts_with("alarm: uid 1000: 350201 sockets"), "{gaps:?}");
    }

    #[test]
    fn many_receivers_of_one_user_and_long_names_take_no_room_of_others() {
        let mut rows = SocketRows::default();
        for inode in 1..=30_000 {
            rows.push(SocketEntry { state: "listen", path: vec![b'n'; 108].into(), ..socket(1_000, inode) });
            let groups = vec![7; 256].into();
            rows.push(SocketEntry { groups, family: Family::Netlink, uid: None, ..socket(1_001, 40_000 + inode) });
        }
        (100_001..=100_500).for_each(|inode| rows.push(socket(0, inode)));
        rows.finish(6 << 20);
        assert_eq!(inodes_of(&rows, 0).len(), 500);
        assert!(rows.rows.iter().map(row_bytes).sum::<u64>() <= 6 << 20);
        assert!(inodes_of(&rows, 1_000).len() > 5_000 && inodes_of(&rows, 1_001).len() > 1_000);
    }

    #[test]
    fn sockets_without_a_user_share_by_protocol() {
        let netlink = |protocol, inode| {
            let found = SocketEntry { inode, ..SocketEntry::new(Family::Netlink, protocol, "unconnected") };
            SocketEntry { owner: owner_of(&found), ..found }
        };
        let mut rows = SocketRows::default();
        (1..=60_000).for_each(|inode| rows.push(netlink(SocketProtocol::Named("route"), inode)));
        (60_001..=60_010).for_each(|inode| rows.push(netlink(SocketProtocol::Named("audit"), inode)));
        rows.finish(u64::MAX);
        assert!((60_001..=60_010).all(|inode| rows.rows.iter().any(|found| found.inode == inode)));
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_fill_the_room(
            sizes in proptest::collection::vec(0..40_usize, 1..8),
            max in 0..120_u64,
        ) {
            let of = |(uid, size): (usize, &usize)| (1..=*size as u64).map(move |inode| socket(uid as u32, inode));
            let mut rows: Vec<SocketEntry> = sizes.iter().enumerate().flat_map(of).collect();
            let mut beyond = BTreeMap::new();
            keep_shares(&mut rows, max, |_| 1, &mut beyond);
            let kept = |uid: usize| rows.iter().filter(|row| row.owner.uid == uid as u32).count();
            let kept: Vec<usize> = (0..sizes.len()).map(kept).collect();
            let all = sizes.iter().sum::<usize>();
            prop_assert_eq!(rows.len(), all.min(max as usize));
            prop_assert_eq!(beyond.values().sum::<u64>() as usize, all - rows.len());
            let most = kept.iter().max().unwrap();
            for (size, kept) in sizes.iter().zip(&kept) {
                prop_assert!(kept == size || kept + 1 >= *most, "{:?} of {:?}", kept, sizes);
            }
        }
    }
}
