//! The join of scans and sockets as tables: see [`crate::query::exposure`].

use super::{Cell, Column, Emit, HostSnapshot, joined};
use crate::query::exposure::Owner;

/// The most important columns of scanned and open ports, for a page and for a terminal.
pub const EXPOSED_USUAL: &[&str] = &[
    "protocol",
    "port",
    "packets",
    "attackers",
    "danger_level",
    "listening",
    "local",
    "pid",
    "comm",
    "unit",
    "start_time",
    "exe",
];

pub(super) const EXPOSED: &[Column] = &[
    Column::text("protocol", "Protocol", "network.transport"),
    Column::number("port", "Port", "destination.port"),
    Column::number("packets", "Packets", "edr.psad.port.packets"),
    Column::number("attackers", "Attackers", ""),
    Column::number("danger_level", "Danger level", "edr.psad.danger_level"),
    Column::text("listening", "Listening", ""),
    Column::text("local", "Local address", "edr.socket.local.ip"),
    Column::number("pid", "PID", "process.pid"),
    Column::text("comm", "Command", "process.name"),
    Column::text("unit", "Unit", "edr.systemd.unit"),
    Column::text("user", "User", "process.user.name"),
    Column::number("start_time", "Started", "process.start"),
    Column::text("exe", "Executable", "process.executable"),
    Column::number("inode", "Inode", "edr.socket.inode"),
    Column::number("netns", "Net ns", "edr.socket.net_ns"),
    Column::text("namespace", "Namespace", ""),
];

pub(super) const CONTACTS: &[Column] = &[
    Column::text("ip", "Attacker", "source.ip"),
    Column::number("danger_level", "Danger level", "edr.psad.danger_level"),
    Column::text("direction", "Direction", "network.direction"),
    Column::text("protocol", "Protocol", "network.transport"),
    Column::text("state", "State", "edr.socket.state"),
    Column::text("local", "Local address", "edr.socket.local.ip"),
    Column::number("local_port", "Port", "edr.socket.local.port"),
    Column::number("remote_port", "Remote port", "edr.socket.remote.port"),
    Column::number("pid", "PID", "process.pid"),
    Column::text("comm", "Command", "process.name"),
    Column::text("unit", "Unit", "edr.systemd.unit"),
    Column::text("user", "User", "process.user.name"),
    Column::number("start_time", "Started", "process.start"),
    Column::text("exe", "Executable", "process.executable"),
    Column::number("inode", "Inode", "edr.socket.inode"),
    Column::number("netns", "Net ns", "edr.socket.net_ns"),
    Column::text("namespace", "Namespace", ""),
];

/// Emits one row for each listening socket on a scanned port and each process that holds the socket; a socket without a
/// known process has a single row.
pub(super) fn exposed(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let join = snapshot.exposure();
    for row in join.exposed() {
        let listener = join.listener(row);
        let mut one = |owner: Option<&Owner>| {
            emit(&|| {
                let mut cells = vec![
                    Cell::bytes(listener.transport.name()),
                    Cell::number(listener.port),
                    Cell::optional(row.packets),
                    Cell::optional(row.attackers),
                    if row.danger_level == 0 { Cell::Empty } else { Cell::number(row.danger_level) },
                    Cell::Text(row.listening.name().into()),
                    Cell::bytes(joined(listener.local.as_bytes())),
                ];
                cells.extend(owner_cells(owner));
                cells.extend(place_cells(listener.inode, listener.netns, join.host_netns()));
                cells
            });
        };
        let mut owners = join.owners_of(listener).peekable();
        if owners.peek().is_none() {
            one(None);
        }
        owners.for_each(|owner| one(Some(owner)));
    }
    // Without psad's data there is no join.
    usize::from(snapshot.view.psad().is_err())
}

/// Emits one row for each socket to or from an attacker and each process that holds the socket.
pub(super) fn contacts(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let join = snapshot.exposure();
    for contact in join.contacts() {
        let socket = &contact.socket;
        let mut one = |owner: Option<&Owner>| {
            emit(&|| {
                let mut cells = vec![
                    Cell::Text(contact.ip.to_string()),
                    Cell::number(contact.danger_level),
                    Cell::bytes(match contact.inbound {
                        Some(true) => "inbound",
                        Some(false) => "outbound",
                        None => "unknown",
                    }),
                    Cell::bytes(joined(socket.protocol.as_bytes())),
                    Cell::bytes(joined(socket.state.as_bytes())),
                    Cell::bytes(joined(socket.local.as_bytes())),
                    Cell::number(socket.local_port),
                    Cell::number(socket.remote_port),
                ];
                cells.extend(owner_cells(owner));
                cells.extend(place_cells(socket.inode, socket.netns, join.host_netns()));
                cells
            });
        };
        let mut owners = join.holders_of(contact).peekable();
        if owners.peek().is_none() {
            one(None);
        }
        owners.for_each(|owner| one(Some(owner)));
    }
    // Without psad's data there is no join.
    usize::from(snapshot.view.psad().is_err())
}

/// Returns the cells `pid` to `exe`.
fn owner_cells(owner: Option<&Owner>) -> [Cell; 6] {
    let Some(owner) = owner else { return [const { Cell::Empty }; 6] };
    [
        Cell::number(owner.pid),
        Cell::bytes(&owner.comm),
        Cell::bytes(&owner.unit),
        Cell::bytes(&owner.user),
        if owner.start_time_ns == 0 { Cell::Empty } else { Cell::Time(owner.start_time_ns) },
        Cell::bytes(&owner.exe),
    ]
}

/// Returns the cells `inode` to `namespace`.
fn place_cells(inode: u64, netns: u64, host_netns: Option<u64>) -> [Cell; 3] {
    let namespace = match host_netns {
        Some(host) if host == netns => "host",
        Some(_) => "other",
        None => "unknown",
    };
    [Cell::number(inode), Cell::number(netns), Cell::bytes(namespace)]
}
