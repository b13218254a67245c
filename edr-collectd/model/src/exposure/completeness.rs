//! Checks that every relevant socket was listed.

use edr_wire::snapshot::{Gap, GapReason, SnapshotView};

/// Tables without TCP and UDP listeners, whose gaps are irrelevant here.
const BESIDE: [&str; 13] =
    ["raw", "raw6", "sctp", "sctp6", "dccp", "dccp6", "icmp", "icmp6", "unix", "packet", "netlink", "vsock", "xdp"];

/// Why sockets may be missing.
#[derive(Debug, Default)]
pub(super) struct MissingSockets {
    host: Option<String>,
    others: Option<String>,
}

impl MissingSockets {
    pub(super) fn of(view: &SnapshotView) -> Self {
        let mut missing = Self::default();
        match view.gaps() {
            Ok(gaps) => gaps.iter().filter(|gap| gap.source == "sockets").for_each(|gap| missing.add_gap(gap)),
            Err(_) => missing.add("the snapshot's gaps could not be decoded"),
        }
        if view.sockets().any(|socket| socket.is_err()) {
            missing.add("some of the snapshot's sockets could not be decoded");
        }
        missing
    }

    /// Returns why sockets of the host's own network namespace may be missing.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Returns why sockets of any network namespace may be missing.
    pub(super) fn any(&self) -> Option<&str> {
        self.host.as_deref().or(self.others.as_deref())
    }

    pub(super) fn add(&mut self, why: &str) {
        self.host.get_or_insert_with(|| why.to_owned());
    }

    fn add_gap(&mut self, gap: &Gap) {
        let field = String::from_utf8_lossy(&gap.field.0);
        let (elsewhere, table) = match field.strip_prefix("netns/") {
            Some(table) => (true, table),
            None => (field.starts_with("netns") || field.starts_with("ns/"), &*field),
        };
        // A feature that the kernel lacks has no sockets: multipath TCP, IPv6, another protocol.
        let absent = match gap.reason {
            GapReason::Unsupported => !elsewhere && table != "sock_diag",
            GapReason::Gone => !elsewhere && table.ends_with('6'),
            _ => false,
        };
        if absent || BESIDE.contains(&table) {
            return;
        }
        let why = if gap.detail.is_empty() { field.to_string() } else { format!("{field}: {}", gap.detail) };
        if elsewhere {
            self.others.get_or_insert(why);
        } else {
            self.host.get_or_insert(why);
        }
    }
}
