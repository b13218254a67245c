//! Which processes live in which network namespace.

use std::collections::BTreeMap;

/// Processes of a namespace that are named: the first may be gone when its files are read.
const MEMBERS_MAX: usize = 3;
/// Processes named whose namespace is not known; all are counted.
const UNKNOWN_MAX: usize = 16;

/// What the pass over the processes found out, for the source that reads sockets through them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inhabitants {
    /// The first processes of each namespace, by the namespace's inode.
    pub by_netns: BTreeMap<u64, Vec<u32>>,
    /// Processes that may be in a namespace that is not among these: the kernel refuses to say, or does not answer.
    pub unknown: Vec<u32>,
    /// How many those are.
    pub unknown_total: u64,
}

impl Inhabitants {
    /// `pid` lives in `netns`.
    pub fn add(&mut self, netns: u64, pid: u32) {
        let members = self.by_netns.entry(netns).or_default();
        if members.len() < MEMBERS_MAX {
            members.push(pid);
        }
    }

    /// It is not known where `pid` lives.
    pub fn add_unknown(&mut self, pid: u32) {
        self.unknown_total += 1;
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push(pid);
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
