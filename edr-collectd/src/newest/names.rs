//! Names of hosts. A name stays with the host that had the name first: later hosts with the name, forged or cloned,
//! cannot take the place of the first one.

use std::collections::{BTreeSet, HashMap};

use edr_wire::HostId;

/// The hosts of each name, with the time since when a host has the name (ns since the epoch).
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, BTreeSet<(i64, HostId)>>);

impl Names {
    /// Adds a host to a name. A host without a name is ignored.
    pub(super) fn add(&mut self, name: &str, since_ns: i64, host_id: HostId) {
        if !name.is_empty() {
            self.0.entry(name.to_owned()).or_default().insert((since_ns, host_id));
        }
    }

    /// Removes a host from a name.
    pub(super) fn remove(&mut self, name: &str, since_ns: i64, host_id: HostId) {
        if let Some(hosts) = self.0.get_mut(name) {
            hosts.remove(&(since_ns, host_id));
            if hosts.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// Returns the host that had a name first.
    pub(super) fn first(&self, name: &str) -> Option<HostId> {
        self.0.get(name)?.first().map(|(_, host_id)| *host_id)
    }

    /// Returns the number of hosts with a name.
    pub(super) fn count(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, BTreeSet::len)
    }
}
