//! The processes of each network namespace.

use std::collections::BTreeMap;

use super::owner::{HomeNames, Owner};

/// Maximum number of processes named per namespace: the first may be gone before its files are read.
const MEMBERS_MAX: usize = 3;
/// Maximum number of processes named without a known namespace; all are counted.
const UNKNOWN_MAX: usize = 16;

/// Processes by network namespace, from the pass over the processes, for the source of sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inhabitants {
    /// The first processes of each namespace, by the namespace's inode.
    pub by_netns: BTreeMap<u64, Vec<u32>>,
    /// Processes in an unknown namespace, perhaps a namespace without other processes: the kernel refuses the link, or
    /// does not answer.
    pub unknown: Vec<u32>,
    /// Number of processes in an unknown namespace.
    pub unknown_total: u64,
    /// The owner of each namespace: of its first process.
    pub(crate) owners: BTreeMap<u64, Owner>,
    pub(crate) names: HomeNames,
}

impl Inhabitants {
    /// Adds the process `pid` of the namespace `netns`.
    pub fn add(&mut self, netns: u64, pid: u32) {
        let members = self.by_netns.entry(netns).or_default();
        if members.len() < MEMBERS_MAX {
            members.push(pid);
        }
    }

    /// Adds the process `pid` of the namespace `netns` and of `owner`.
    pub(crate) fn add_of(&mut self, netns: u64, pid: u32, owner: Owner) {
        self.add(netns, pid);
        self.owners.entry(netns).or_insert(owner);
    }

    /// Adds a process in an unknown namespace.
    pub fn add_unknown(&mut self, pid: u32) {
        self.unknown_total += 1;
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push(pid);
        }
    }

    /// Removes all processes.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
