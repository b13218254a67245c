//! *lsof data*: the open and the mapped files (`mem`, `DEL`) of every process, in the manner of `lsof -nP -Ki`.

use std::collections::HashMap;

use edr_wire::snapshot::{Fd, FileKind, MappedFile, OpenFile, Process, Socket};

use super::processes::user;
use super::{AsOf, Cell, Column, Emit, HostSnapshot, device, joined, wire_name};

pub(super) const COLUMNS: &[Column] = &[
    Column::text("comm", "Command", "process.name"),
    Column::number("pid", "PID", "process.pid"),
    Column::text("user", "User", "process.user.name"),
    Column::number("fd", "FD", "edr.fd.number"),
    Column::text("access", "Access", "edr.fd.mode"),
    Column::text("kind", "Type", "file.type"),
    Column::text("dev", "Device", "file.device"),
    Column::number("size", "Size", "file.size"),
    Column::number("offset", "Offset", "edr.fd.offset"),
    Column::number("inode", "Node", "file.inode"),
    Column::text("path", "Name", "file.path"),
    Column::text("deleted", "Deleted", "edr.file.deleted"),
    Column::number("nlink", "Links", "edr.file.nlink"),
    Column::text("flags", "Flags", "edr.fd.flags"),
    Column::text("detail", "Detail", ""),
    Column::number("as_of", "As of", "edr.process.as_of"),
];

/// Emits the rows. The name of a socket is its endpoints, found by inode: a descriptor has no endpoints.
pub(super) fn rows(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let mut undecodable = 0;
    let as_of = AsOf::new(snapshot);
    let mut sockets: HashMap<u64, Vec<u8>> = HashMap::new();
    for socket in snapshot.view.sockets() {
        match socket {
            Ok(socket) if socket.inode != 0 => _ = sockets.insert(socket.inode, endpoints(&socket)),
            Ok(_) => {}
            Err(_) => undecodable += 1,
        }
    }
    for process in snapshot.view.processes() {
        let Ok(process) = process else {
            undecodable += 1;
            continue;
        };
        // The order of lsof: cwd, root and exe, then mapped files, then numbered descriptors.
        let named = process.files.iter().take_while(|file| !matches!(file.fd, Fd::Number(_))).count();
        let (named, numbered) = process.files.split_at(named);
        for file in named {
            emit(&|| open_row(&process, file, &sockets, &as_of));
        }
        for file in &process.mapped {
            emit(&|| mapped_row(&process, file, &as_of));
        }
        for file in numbered {
            emit(&|| open_row(&process, file, &sockets, &as_of));
        }
    }
    undecodable
}

fn open_row(process: &Process, file: &OpenFile, sockets: &HashMap<u64, Vec<u8>>, as_of: &AsOf) -> Vec<Cell> {
    let is_device = matches!(file.kind, FileKind::Char | FileKind::Block);
    let name = match file.kind {
        FileKind::Socket => sockets.get(&file.inode).map_or(Cell::bytes(&file.path), Cell::bytes),
        _ => Cell::bytes(&file.path),
    };
    vec![
        Cell::bytes(joined(&process.comm.0)),
        Cell::number(process.pid),
        joined_user(process),
        match file.fd {
            Fd::Number(number) => Cell::number(number),
            name => Cell::Text(name.to_string()),
        },
        wire_name(&file.access),
        wire_name(&file.kind),
        Cell::Text(device(if is_device { file.rdev } else { file.dev })),
        Cell::Size(file.size),
        Cell::number(file.offset),
        Cell::number(file.inode),
        name,
        Cell::Flag(file.deleted),
        Cell::number(file.nlink),
        Cell::bytes(file.flags.join(" ")),
        Cell::bytes(&file.detail),
        as_of.cell(process),
    ]
}

fn mapped_row(process: &Process, file: &MappedFile, as_of: &AsOf) -> Vec<Cell> {
    vec![
        Cell::bytes(joined(&process.comm.0)),
        Cell::number(process.pid),
        joined_user(process),
        Cell::Text(if file.deleted { "DEL" } else { "mem" }.into()),
        Cell::Text(if file.executable { "exec" } else { "" }.into()),
        wire_name(&FileKind::Regular),
        Cell::Text(device(file.dev)),
        Cell::Empty,
        Cell::Empty,
        Cell::number(file.inode),
        Cell::bytes(&file.path),
        Cell::Flag(file.deleted),
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        as_of.cell(process),
    ]
}

pub(super) fn joined_user(process: &Process) -> Cell {
    match user(process) {
        Cell::Bytes(name) => Cell::Bytes(joined(&name.0)),
        other => other,
    }
}

/// Returns the name of a socket in the manner of lsof: `tcp 127.0.0.1:22->10.0.0.5:40100 (established)`.
fn endpoints(socket: &Socket) -> Vec<u8> {
    let mut name = socket.protocol.clone().into_bytes();
    if !socket.local.is_empty() {
        name.extend_from_slice(format!(" {}", endpoint(&socket.local, socket.local_port)).as_bytes());
    }
    if !socket.remote.is_empty() && socket.remote_port != 0 {
        name.extend_from_slice(format!("->{}", endpoint(&socket.remote, socket.remote_port)).as_bytes());
    }
    if !socket.path.is_empty() {
        name.push(b' ');
        name.extend_from_slice(&socket.path.0);
    }
    if socket.peer_inode != 0 {
        name.extend_from_slice(format!(" ->{}", socket.peer_inode).as_bytes());
    }
    if !socket.state.is_empty() {
        name.extend_from_slice(format!(" ({})", socket.state).as_bytes());
    }
    joined(&name).0
}

fn endpoint(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
