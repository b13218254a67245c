//! Sockets with their owners: the processes that hold a descriptor with the socket's inode.

use std::collections::HashMap;

use edr_wire::Bytes;
use edr_wire::snapshot::{FileKind, Socket};

use super::files::joined_user;
use super::{Cell, Column, Emit, HostSnapshot, joined, wire_name};

/// Owners listed per socket: a forking server shares its listening socket with hundreds of children.
const OWNERS_MAX: usize = 64;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("family", "Family", "network.type"),
    Column::text("protocol", "Protocol", "network.transport"),
    Column::text("state", "State", "edr.socket.state"),
    Column::text("local", "Local address", "edr.socket.local.ip"),
    Column::number("local_port", "Port", "edr.socket.local.port"),
    Column::text("remote", "Remote address", "edr.socket.remote.ip"),
    Column::number("remote_port", "Port", "edr.socket.remote.port"),
    Column::number("pids", "PID", "process.pid"),
    Column::text("comm", "Command", "process.name"),
    Column::text("user", "User", "process.user.name"),
    Column::number("uid", "UID", "edr.socket.uid"),
    Column::text("path", "Path", "edr.socket.unix.path"),
    Column::number("receive_queue", "Recv-Q", "edr.socket.rx_queue"),
    Column::number("send_queue", "Send-Q", "edr.socket.tx_queue"),
    Column::number("inode", "Inode", "edr.socket.inode"),
    Column::number("peer_inode", "Peer inode", "edr.socket.unix.peer_inode"),
    Column::number("netns", "Net ns", "edr.socket.net_ns"),
    Column::number("interface", "Interface", ""),
    Column::text("v6only", "IPv6 only", ""),
];

/// The owners of a socket, lowest pid first.
#[derive(Default)]
struct Owners {
    pids: Vec<u64>,
    /// Name and user of the first owner.
    first: Option<(Bytes, Cell)>,
}

pub(super) fn rows(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let (owners, mut undecodable) = owners(snapshot);
    let nobody = Owners::default();
    for socket in snapshot.view.sockets() {
        match socket {
            Ok(socket) => {
                let owners = if socket.inode == 0 { None } else { owners.get(&socket.inode) };
                emit(&|| row(&socket, owners.unwrap_or(&nobody)));
            }
            Err(_) => undecodable += 1,
        }
    }
    undecodable
}

fn owners(snapshot: &HostSnapshot) -> (HashMap<u64, Owners>, usize) {
    let mut owners: HashMap<u64, Owners> = HashMap::new();
    let mut undecodable = 0;
    for process in snapshot.view.processes() {
        let Ok(process) = process else {
            undecodable += 1;
            continue;
        };
        for file in process.files.iter().filter(|file| file.kind == FileKind::Socket) {
            let of_socket = owners.entry(file.inode).or_default();
            let pid = u64::from(process.pid);
            if of_socket.pids.last() != Some(&pid) && of_socket.pids.len() < OWNERS_MAX {
                of_socket.pids.push(pid);
            }
            of_socket.first.get_or_insert_with(|| (joined(&process.comm.0), joined_user(&process)));
        }
    }
    (owners, undecodable)
}

fn row(socket: &Socket, owners: &Owners) -> Vec<Cell> {
    let has_ports = !socket.local.is_empty() || socket.local_port != 0;
    let port = |port: u32| if has_ports && port != 0 { Cell::number(port) } else { Cell::Empty };
    let (comm, user) =
        owners.first.as_ref().map_or((Cell::Empty, Cell::Empty), |(comm, user)| (Cell::bytes(comm), user.clone()));
    vec![
        wire_name(&socket.family),
        Cell::bytes(&socket.protocol),
        Cell::bytes(&socket.state),
        Cell::bytes(&socket.local),
        port(socket.local_port),
        Cell::bytes(&socket.remote),
        port(socket.remote_port),
        if owners.pids.is_empty() { Cell::Empty } else { Cell::Numbers(owners.pids.clone()) },
        comm,
        user,
        socket.uid.map_or(Cell::Empty, Cell::number),
        Cell::bytes(&socket.path),
        Cell::number(socket.receive_queue),
        Cell::number(socket.send_queue),
        Cell::number(socket.inode),
        if socket.peer_inode == 0 { Cell::Empty } else { Cell::number(socket.peer_inode) },
        Cell::number(socket.netns),
        if socket.interface == 0 { Cell::Empty } else { Cell::number(socket.interface) },
        Cell::Flag(socket.v6only),
    ]
}
