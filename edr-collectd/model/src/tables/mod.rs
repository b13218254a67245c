//! The declarations of all tables.

mod contacts;
mod exposed;
mod files;
mod gaps;
mod hosts;
mod losses;
mod packets;
mod processes;
mod psad;
mod sockets;
#[cfg(test)]
mod tests;

use edr_wire::snapshot::Process;

use crate::catalogue::{HostListTable, SnapshotTable, Table};
use crate::cell::{Cell, joined};

/// The tables of a snapshot, in display order.
pub static TABLES: [SnapshotTable; 15] = [
    Table::of::<processes::Processes>(),
    Table::of::<files::Files>(),
    Table::of::<sockets::Sockets>(),
    Table::of::<exposed::Exposed>(),
    Table::of::<contacts::Contacts>(),
    Table::of::<psad::TopSignatures>(),
    Table::of::<psad::TopAttackers>(),
    Table::of::<psad::TopPorts>(),
    Table::of::<psad::PrefixCounters>(),
    Table::of::<psad::ProtocolCounters>(),
    Table::of::<psad::PsadSources>(),
    Table::of::<psad::BlockedAddresses>(),
    Table::of::<packets::Packets>(),
    Table::of::<gaps::Gaps>(),
    Table::of::<losses::Losses>(),
];

/// The list of hosts.
pub static HOSTS: HostListTable = Table::of::<hosts::Hosts>();

/// Returns the user's name, or the uid when the host has no name for it.
fn user(process: &Process) -> Cell {
    process.user.as_ref().map_or_else(|| Cell::Text(process.uids[1].to_string()), Cell::bytes)
}

/// Returns [`user`] as a value that a join repeats.
fn joined_user(process: &Process) -> Cell {
    match user(process) {
        Cell::Bytes(name) => Cell::Bytes(joined(&name.0)),
        other => other,
    }
}

/// Formats a device number as `major:minor`, from the kernel's encoding of `dev_t` for user space (makedev(3)).
fn device(dev: u64) -> String {
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff);
    let minor = (dev & 0xff) | ((dev >> 12) & !0xff);
    format!("{major}:{}", minor & 0xffff_ffff)
}
