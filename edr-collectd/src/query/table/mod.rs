//! Tables: the common form of rows for a page, a terminal, JSON and CSV.
//!
//! Rows are decoded one at a time from the snapshot's bytes, joined, filtered and sorted, and only the rows of the
//! requested page are kept: a hostile snapshot of 32 MiB must not become gigabytes of cells. For the same reason a
//! value that a join repeats in many rows (the `comm` of a process in each of its files) is cut at
//! [`JOINED_BYTES_MAX`].

mod as_of;
mod cell;
mod exposure;
mod files;
mod gaps;
mod hosts;
mod packets;
mod processes;
mod psad;
mod select;
mod sockets;

use edr_wire::Bytes;
use serde::Serialize;

pub(crate) use self::as_of::AsOf;
pub use self::cell::Cell;
pub(crate) use self::cell::{ages, time_text};
pub use self::exposure::EXPOSED_USUAL;
pub use self::hosts::{host_columns, host_row};
pub use self::select::{ROWS_MAX, Select, Table};
pub(crate) use self::select::{place_of, select_rows};
use super::{HostSnapshot, QueryError};

/// Bytes of a value that a join repeats in several rows; the kernel's longest `comm` is 64.
pub const JOINED_BYTES_MAX: usize = 256;

/// The views, with the names that users know in italics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// *process data*
    Processes,
    /// *lsof data*
    Files,
    /// Sockets with their owners.
    Sockets,
    /// Listening sockets on scanned ports.
    Exposed,
    /// Sockets to and from attackers.
    Contacts,
    /// *Top 50 signature matches*
    TopSignatures,
    /// *Top 25 attackers*
    TopAttackers,
    /// *Top 20 scanned ports*
    TopPorts,
    /// *iptables log prefix counters*
    PrefixCounters,
    /// Total protocol packet counters.
    ProtocolCounters,
    /// *IP status detail*
    Sources,
    /// Auto-blocked addresses.
    Blocked,
    /// Firewall log lines of this snapshot.
    Packets,
    /// Data missing from the snapshot.
    Gaps,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name in JSON, CSV and `sort=`: the name on the wire.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Name in the Elastic Common Schema; empty when there is none.
    pub ecs: &'static str,
    /// True for numbers, which are aligned right.
    pub numeric: bool,
}

impl Column {
    /// Makes a column of text.
    const fn text(name: &'static str, title: &'static str, ecs: &'static str) -> Self {
        Self { name, title, ecs, numeric: false }
    }

    /// Makes a column of numbers.
    const fn number(name: &'static str, title: &'static str, ecs: &'static str) -> Self {
        Self { name, title, ecs, numeric: true }
    }
}

/// Receiver of rows. The receiver gets a function and calls the function only when the row is needed.
type Emit<'a> = dyn FnMut(&dyn Fn() -> Vec<Cell>) + 'a;

impl View {
    /// All views, in display order.
    pub const ALL: [Self; 14] = [
        Self::Processes,
        Self::Files,
        Self::Sockets,
        Self::Exposed,
        Self::Contacts,
        Self::TopSignatures,
        Self::TopAttackers,
        Self::TopPorts,
        Self::PrefixCounters,
        Self::ProtocolCounters,
        Self::Sources,
        Self::Blocked,
        Self::Packets,
        Self::Gaps,
    ];

    /// Returns the columns of this view.
    pub fn columns(self) -> Vec<Column> {
        match self {
            Self::Processes => processes::COLUMNS,
            Self::Files => files::COLUMNS,
            Self::Sockets => sockets::COLUMNS,
            Self::Exposed => exposure::EXPOSED,
            Self::Contacts => exposure::CONTACTS,
            Self::TopSignatures => psad::TOP_SIGNATURES,
            Self::TopAttackers => psad::TOP_ATTACKERS,
            Self::TopPorts => psad::TOP_PORTS,
            Self::PrefixCounters => psad::PREFIX_COUNTERS,
            Self::ProtocolCounters => psad::PROTOCOL_COUNTERS,
            Self::Sources => psad::SOURCES,
            Self::Blocked => psad::BLOCKED,
            Self::Packets => packets::COLUMNS,
            Self::Gaps => gaps::COLUMNS,
        }
        .to_vec()
    }

    /// Filters and sorts the rows of this view and returns one page.
    ///
    /// # Errors
    /// When the column to sort by does not exist, or when all rows are requested and there are more than [`ROWS_MAX`].
    pub fn table(self, snapshot: &HostSnapshot, select: &Select) -> Result<Table, QueryError> {
        select::table(self, snapshot, select)
    }

    /// Passes every matching row to `take`, in the view's own order, and keeps none: for streamed output. Returns the
    /// number of undecodable rows.
    pub fn each(self, snapshot: &HostSnapshot, filter: Option<&str>, take: &mut dyn FnMut(Vec<Cell>)) -> usize {
        select::each(self, snapshot, filter, take)
    }

    /// Passes all rows to `emit`, each made on demand; returns the number of undecodable rows.
    fn rows(self, snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
        match self {
            Self::Processes => processes::rows(snapshot, emit),
            Self::Files => files::rows(snapshot, emit),
            Self::Sockets => sockets::rows(snapshot, emit),
            Self::Exposed => exposure::exposed(snapshot, emit),
            Self::Contacts => exposure::contacts(snapshot, emit),
            Self::TopSignatures => psad::top_signatures(snapshot, emit),
            Self::TopAttackers => psad::top_attackers(snapshot, emit),
            Self::TopPorts => psad::top_ports(snapshot, emit),
            Self::PrefixCounters => psad::prefix_counters(snapshot, emit),
            Self::ProtocolCounters => psad::protocol_counters(snapshot, emit),
            Self::Sources => psad::sources(snapshot, emit),
            Self::Blocked => psad::blocked(snapshot, emit),
            Self::Packets => packets::rows(snapshot, emit),
            Self::Gaps => gaps::rows(snapshot, emit),
        }
    }
}

/// Cuts a value that a join repeats, at [`JOINED_BYTES_MAX`].
pub(super) fn joined(bytes: &[u8]) -> Bytes {
    if bytes.len() <= JOINED_BYTES_MAX {
        return Bytes::from(bytes);
    }
    let mut cut = bytes[..JOINED_BYTES_MAX].to_vec();
    cut.extend_from_slice("…".as_bytes());
    Bytes(cut)
}

/// Returns the wire's name of a value of a closed list (`listen`, `regular`, `rw`).
fn wire_name<T: Serialize>(value: &T) -> Cell {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Cell::Text(name),
        _ => Cell::Empty,
    }
}

/// Formats a device number as `major:minor`, from the kernel's encoding of `dev_t` for user space (makedev(3)).
fn device(dev: u64) -> String {
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff);
    let minor = (dev & 0xff) | ((dev >> 12) & !0xff);
    format!("{major}:{}", minor & 0xffff_ffff)
}

#[cfg(test)]
pub(crate) mod tests;
