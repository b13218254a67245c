//! The rows of one tick, bounded: many sockets in one table or namespace displace no rows of other tables.

use std::collections::BTreeMap;

use edr_wire::snapshot::Family;

use super::entry::{SocketEntry, SocketProtocol};

/// Maximum number of listed rows, to fit beside the processes in one snapshot: a row has some 200 bytes.
pub(super) const ROWS_MAX: usize = 50_000;
/// Maximum number of rows with an inode held during a tick. Rows without an inode (time-wait, not yet accepted) have a
/// separate limit, [`ROWS_MAX`]: any process can make any number of connections.
const OWNED_MAX: usize = 2 * ROWS_MAX;

/// Collected rows. Rows beyond the limits are counted.
#[derive(Debug, Default)]
pub(super) struct SocketRows {
    pub(super) rows: Vec<SocketEntry>,
    pub(super) beyond: u64,
    /// How many of the rows have no inode.
    ownerless: usize,
}

/// A moment to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsMark {
    rows: usize,
    beyond: u64,
    ownerless: usize,
}

/// Rows of a protocol in a namespace, which share the room with all other groups.
type ProtocolGroup = (u64, Family, SocketProtocol);

impl SocketRows {
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        (self.beyond, self.ownerless) = (0, 0);
    }

    pub(super) fn push(&mut self, found: SocketEntry) {
        if found.inode == 0 {
            if self.ownerless == ROWS_MAX {
                self.beyond += 1;
                return;
            }
            self.ownerless += 1;
        } else if self.rows.len() - self.ownerless >= OWNED_MAX {
            self.make_room();
        }
        self.rows.push(found);
    }

    /// Reduces the rows with an inode to [`ROWS_MAX`], so that the same number can be pushed before the next reduction.
    pub(super) fn make_room(&mut self) {
        let before = self.rows.len();
        if before - self.ownerless <= ROWS_MAX {
            return;
        }
        keep_shares(&mut self.rows, ROWS_MAX, |found| found.inode != 0);
        self.beyond += (before - self.rows.len()) as u64;
    }

    pub(super) fn mark(&self) -> RowsMark {
        RowsMark { rows: self.rows.len(), beyond: self.beyond, ownerless: self.ownerless }
    }

    /// Removes the rows pushed since `mark`. No room was made in between.
    pub(super) fn go_back(&mut self, mark: RowsMark) {
        self.rows.truncate(mark.rows);
        (self.beyond, self.ownerless) = (mark.beyond, mark.ownerless);
    }

    /// Sorts the rows and reduces them to [`ROWS_MAX`]. Rows without an inode have no owner any more, and are removed
    /// first. Returns the number of rows not listed.
    pub(super) fn finish(&mut self) -> u64 {
        self.rows.sort_unstable();
        // A table that changes during the read may list a socket twice. Two equal rows without an inode are two
        // sockets.
        self.rows.dedup_by(|later, first| first.inode != 0 && later == first);
        let before = self.rows.len();
        if before <= ROWS_MAX {
            return self.beyond;
        }
        keep_shares(&mut self.rows, ROWS_MAX, |found| found.inode != 0);
        let ownerless = self.rows.partition_point(|found| found.inode == 0);
        let room = ROWS_MAX - (self.rows.len() - ownerless);
        keep_shares(&mut self.rows, room, |found| found.inode == 0);
        self.beyond + (before - self.rows.len()) as u64
    }
}

/// Reduces the rows that match `such` to `max`, and keeps the first rows of each group. Small groups keep all rows; the
/// large groups share the remaining room equally.
fn keep_shares(rows: &mut Vec<SocketEntry>, max: usize, such: impl Fn(&SocketEntry) -> bool) {
    let group = |found: &SocketEntry| -> ProtocolGroup { (found.netns, found.family, found.protocol) };
    let mut shares: BTreeMap<ProtocolGroup, usize> = BTreeMap::new();
    for found in rows.iter().filter(|found| such(found)) {
        *shares.entry(group(found)).or_default() += 1;
    }
    if shares.values().sum::<usize>() <= max {
        return;
    }
    let mut by_rows: Vec<&mut usize> = shares.values_mut().collect();
    by_rows.sort_by_key(|rows| **rows);
    let (mut room, groups) = (max, by_rows.len());
    for (at, rows) in by_rows.into_iter().enumerate() {
        *rows = (*rows).min(room / (groups - at));
        room -= *rows;
    }
    rows.retain(|found| {
        if !such(found) {
            return true;
        }
        let left = shares.entry(group(found)).or_default();
        let stays = *left > 0;
        *left = left.saturating_sub(1);
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn socket(netns: u64, inode: u64) -> SocketEntry {
        SocketEntry { inode, netns, ..SocketEntry::new(Family::Unix, SocketProtocol::Named("stream"), "unconnected") }
    }

    fn inodes_of(rows: &SocketRows, netns: u64) -> Vec<u64> {
        rows.rows.iter().filter(|found| found.netns == netns).map(|found| found.inode).collect()
    }

    #[test]
    fn a_flood_without_inodes_takes_no_row_from_later_tables() {
        let mut rows = SocketRows::default();
        (0..300_000).for_each(|_| rows.push(socket(1, 0)));
        (1..=1_000).for_each(|inode| rows.push(socket(1, inode)));
        assert_eq!(rows.rows.len(), ROWS_MAX + 1_000);
        assert_eq!(rows.finish(), 251_000);
        assert_eq!((rows.rows.len(), rows.rows[ROWS_MAX - 1_000].inode), (ROWS_MAX, 1));
    }

    #[test]
    fn a_crowd_takes_no_row_from_the_other_namespaces() {
        let mut rows = SocketRows::default();
        let all = 3 * OWNED_MAX as u64;
        (1..=all).for_each(|inode| rows.push(socket(1, inode)));
        (1..=20_000).for_each(|inode| rows.push(socket(2, all + inode)));
        (1..=30_000).for_each(|inode| rows.push(socket(3, 2 * all + inode)));
        assert!(rows.rows.len() <= OWNED_MAX);
        let listed = ROWS_MAX as u64;
        assert_eq!(rows.finish(), all + 50_000 - listed);
        assert!(rows.rows.is_sorted() && rows.rows.len() == ROWS_MAX);
        let shares = [1, 2, 3].map(|netns| inodes_of(&rows, netns).len());
        assert_eq!(shares, [16_667, 16_666, 16_667]);
        assert_eq!(inodes_of(&rows, 2), (all + 1..=all + 16_666).collect::<Vec<_>>(), "the same ones at each tick");
    }

    #[test]
    fn rows_and_counts_since_a_mark_are_removed() {
        let mut rows = SocketRows::default();
        (0..ROWS_MAX - 1).for_each(|_| rows.push(socket(1, 0)));
        let mark = rows.mark();
        [0, 0, 7].into_iter().for_each(|inode| rows.push(socket(1, inode)));
        assert_eq!((rows.rows.len(), rows.beyond), (ROWS_MAX + 1, 1));
        rows.go_back(mark);
        rows.push(socket(1, 0));
        assert_eq!((rows.rows.len(), rows.beyond), (ROWS_MAX, 0));
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_fill_the_room(
            sizes in proptest::collection::vec(0..40_usize, 1..8),
            max in 0..120_usize,
        ) {
            let of = |(netns, size): (usize, &usize)| (1..=*size as u64).map(move |inode| socket(netns as u64, inode));
            let mut rows: Vec<SocketEntry> = sizes.iter().enumerate().flat_map(of).collect();
            rows.push(socket(0, 0));
            keep_shares(&mut rows, max, |found| found.inode != 0);
            let kept = |netns: usize| rows.iter().filter(|row| row.inode != 0 && row.netns == netns as u64).count();
            let kept: Vec<usize> = (0..sizes.len()).map(kept).collect();
            prop_assert_eq!(kept.iter().sum::<usize>(), sizes.iter().sum::<usize>().min(max));
            let most = kept.iter().max().unwrap();
            for (size, kept) in sizes.iter().zip(&kept) {
                prop_assert!(kept == size || kept + 1 >= *most, "{:?} of {:?}", kept, sizes);
            }
            prop_assert!(rows.iter().any(|row| row.inode == 0));
        }
    }
}
