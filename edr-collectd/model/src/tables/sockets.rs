//! Sockets with their owners: the processes that hold a descriptor with the socket's inode.

use std::collections::HashMap;

use edr_wire::Bytes;
use edr_wire::snapshot::{FileKind, Socket};

use super::joined_user;
use crate::catalogue::{About, Declaration, Field};
use crate::cell::{Cell, joined};
use crate::snapshot::HostSnapshot;

/// Owners listed per socket: a forking server shares its listening socket with hundreds of children.
const OWNERS_MAX: usize = 64;

/// The states of sockets, as in the filters of ss(8).
pub(super) const SOCKET_STATES: &[&str] = &[
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "close-wait",
    "last-ack",
    "listen",
    "closing",
    "unconnected",
    "unknown",
];

/// The sockets of a snapshot.
pub(super) struct Sockets;

/// A socket with its owners.
pub(super) struct SocketRow<'a> {
    socket: &'a Socket,
    owners: &'a Owners,
}

/// The owners of a socket, lowest pid first.
#[derive(Default)]
struct Owners {
    pids: Vec<u64>,
    /// Name and user of the first owner.
    first: Option<(Bytes, Cell)>,
}

type SocketField = Field<Sockets>;

impl Declaration for Sockets {
    type Input = HostSnapshot;
    type Row<'a> = SocketRow<'a>;

    const ABOUT: About = About {
        name: "sockets",
        slug: "sockets",
        title: "Sockets",
        noun: "sockets",
        summary: "Sockets of a host with their owners",
        hint: "By network namespace. A socket without an owner belongs to the kernel, or the owner could not be read.",
        ..About::NONE
    };

    const FIELDS: &'static [SocketField] = &[
        SocketField::text("family", "Family", |row| Cell::wire_name(&row.socket.family))
            .words(&["inet", "inet6", "unix", "packet", "netlink", "vsock", "xdp", "unknown"])
            .ecs("network.type")
            .on_page(),
        SocketField::text("protocol", "Protocol", |row| Cell::bytes(&row.socket.protocol))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .usual(),
        SocketField::text("state", "State", |row| Cell::bytes(&row.socket.state))
            .also(&["status"])
            .words(SOCKET_STATES)
            .ecs("edr.socket.state")
            .usual()
            .meaning("As in the filters of ss(8)."),
        SocketField::address("local_address", "Local address", |row| Cell::bytes(&row.socket.local))
            .also(&["local", "address", "ip"])
            .context_ids()
            .ecs("edr.socket.local.ip")
            .key()
            .usual(),
        SocketField::number("local_port", "Port", |row| port(row.socket, row.socket.local_port))
            .also(&["local", "lport"])
            .ecs("edr.socket.local.port")
            .key()
            .usual(),
        SocketField::address("remote_address", "Remote address", |row| Cell::bytes(&row.socket.remote))
            .also(&["remote", "address", "ip", "peer"])
            .context_ids()
            .ecs("edr.socket.remote.ip")
            .key()
            .usual(),
        SocketField::number("remote_port", "Port", |row| port(row.socket, row.socket.remote_port))
            .also(&["remote", "rport", "peer_port"])
            .ecs("edr.socket.remote.port")
            .key()
            .usual(),
        SocketField::numbers("pids", "PID", |row| Cell::numbers(row.owners.pids.clone()))
            .also(&["process_id"])
            .ecs("process.pid")
            .usual()
            .link("processes", "pid")
            .meaning("Processes that hold the socket, at most 64."),
        SocketField::bytes("comm", "Command", |row| {
            row.owners.first.as_ref().map_or(Cell::Empty, |(comm, _)| Cell::bytes(comm))
        })
        .also(&["name", "process"])
        .ecs("process.name")
        .usual()
        .meaning("Name of the first process in `pids`."),
        SocketField::text("user", "User", |row| {
            row.owners.first.as_ref().map_or(Cell::Empty, |(_, user)| user.clone())
        })
        .also(&["username", "owner"])
        .ecs("process.user.name")
        .usual()
        .meaning("User of the first process in `pids`."),
        SocketField::number("uid", "UID", |row| Cell::optional(row.socket.uid))
            .ecs("edr.socket.uid")
            .meaning("Owner according to the kernel."),
        SocketField::bytes("path", "Path", |row| Cell::bytes(&row.socket.path))
            .also(&["file"])
            .ecs("edr.socket.unix.path")
            .usual()
            .code()
            .meaning("Path of a unix socket."),
        SocketField::number("receive_queue", "Recv-Q", |row| Cell::number(row.socket.receive_queue))
            .also(&["rx_queue"])
            .ecs("edr.socket.rx_queue")
            .unit("bytes")
            .on_page()
            .changing(),
        SocketField::number("send_queue", "Send-Q", |row| Cell::number(row.socket.send_queue))
            .also(&["tx_queue"])
            .ecs("edr.socket.tx_queue")
            .unit("bytes")
            .on_page()
            .changing(),
        SocketField::number("socket", "Inode", |row| Cell::number(row.socket.inode))
            .also(&["ino"])
            .ecs("edr.socket.inode")
            .key()
            .on_page()
            .link("files", "inode")
            .meaning("Inode; 0 for sockets without an inode."),
        SocketField::number("peer_inode", "Peer inode", |row| Cell::nonzero(row.socket.peer_inode))
            .ecs("edr.socket.unix.peer_inode")
            .link("sockets", "socket")
            .meaning("Inode of the unix socket at the other end."),
        SocketField::number("net_namespace", "Net ns", |row| Cell::number(row.socket.netns))
            .also(&["netns"])
            .ecs("edr.socket.net_ns")
            .meaning("Inode of the network namespace."),
        SocketField::number("interface", "Interface", |row| Cell::nonzero(row.socket.interface))
            .ecs("edr.socket.interface")
            .meaning("Index of the interface to which the socket is bound."),
        SocketField::flag("v6only", "IPv6 only", |row| Cell::Flag(row.socket.v6only)).ecs("edr.socket.v6only"),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&SocketRow<'_>)) -> usize {
        let (owners, mut undecodable) = owners(snapshot);
        let nobody = Owners::default();
        for socket in snapshot.view.sockets() {
            match socket {
                Ok(socket) => {
                    let owners = if socket.inode == 0 { None } else { owners.get(&socket.inode) };
                    take(&SocketRow { socket: &socket, owners: owners.unwrap_or(&nobody) });
                }
                Err(_) => undecodable += 1,
            }
        }
        undecodable
    }
}

/// Returns a port; empty for a socket without ports.
fn port(socket: &Socket, port: u32) -> Cell {
    let has_ports = !socket.local.is_empty() || socket.local_port != 0;
    if has_ports { Cell::nonzero(port) } else { Cell::Empty }
}

/// Returns the owners of sockets by inode, and the number of undecodable processes.
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
