//! *lsof data*: the open and the mapped files (`mem`, `DEL`) of every process, in the manner of `lsof -nP -Ki`.

use std::collections::HashMap;

use edr_wire::snapshot::{Fd, FileKind, MappedFile, OpenFile, Process, Socket};

use super::{device, joined_user};
use crate::as_of::AsOf;
use crate::catalogue::{About, Declaration, Field};
use crate::cell::{Cell, joined};
use crate::column::Mark;
use crate::snapshot::HostSnapshot;

/// The open and the mapped files of a snapshot.
pub(super) struct Files;

/// A file of a process, with values of the snapshot.
pub(super) struct FileRow<'a> {
    process: &'a Process,
    file: File<'a>,
    /// Endpoints of sockets, by inode.
    sockets: &'a HashMap<u64, Vec<u8>>,
    as_of: &'a AsOf,
}

#[derive(Clone, Copy)]
enum File<'a> {
    Open(&'a OpenFile),
    Mapped(&'a MappedFile),
}

type FileField = Field<Files>;

impl Declaration for Files {
    type Input = HostSnapshot;
    type Row<'a> = FileRow<'a>;

    const ABOUT: About = About {
        name: "open_files",
        slug: "files",
        title: "lsof data",
        noun: "open files",
        summary: "Open files of a host",
        hint: "Every open file of every process. “deleted” marks a file without a name.",
        aged: Some("Files"),
        ..About::NONE
    };

    const FIELDS: &'static [FileField] = &[
        FileField::bytes("comm", "Command", |row| Cell::bytes(joined(&row.process.comm.0)))
            .also(&["process", "name"])
            .ecs("process.name")
            .usual(),
        FileField::number("pid", "PID", |row| Cell::number(row.process.pid))
            .also(&["process_id"])
            .ecs("process.pid")
            .key()
            .usual()
            .link("processes", "pid"),
        FileField::text("user", "User", |row| joined_user(row.process))
            .also(&["username", "owner"])
            .ecs("process.user.name")
            .usual(),
        FileField::number_or_word("fd", "FD", fd)
            .also(&["descriptor"])
            .words(&["cwd", "root", "exe", "mem", "DEL"])
            .ecs("edr.fd.number")
            .key()
            .usual()
            .meaning("Descriptor, or `cwd`, `root`, `exe`; `mem` for a mapped file, `DEL` for a deleted mapped file."),
        FileField::text("access", "Access", access)
            .also(&["mode"])
            .words(&["r", "w", "rw", "path", "exec", "unknown"])
            .ecs("edr.fd.mode")
            .usual()
            .meaning("`r`, `w`, `rw` or `path`; `exec` for an executable mapping."),
        FileField::text("kind", "Type", kind)
            .words(&[
                "regular",
                "directory",
                "char",
                "block",
                "pipe",
                "socket",
                "anon_inode",
                "memfd",
                "symlink",
                "unknown",
            ])
            .ecs("file.type")
            .usual(),
        FileField::text("dev", "Device", dev)
            .letters("0123456789:")
            .ecs("file.device")
            .usual()
            .meaning("`major:minor`; of a device file the device itself."),
        FileField::size("size", "Size", |row| row.open(|file| Cell::Size(file.size))).ecs("file.size").usual(),
        FileField::number("offset", "Offset", |row| row.open(|file| Cell::number(file.offset)))
            .ecs("edr.fd.offset")
            .unit("bytes")
            .on_page()
            .changing(),
        FileField::number("inode", "Node", inode).also(&["ino"]).ecs("file.inode").usual(),
        FileField::flag("deleted", "Deleted", deleted)
            .also(&["unlinked"])
            .ecs("edr.file.deleted")
            .on_terminal()
            .meaning("The file has no name any more."),
        FileField::bytes("path", "Name", path)
            .also(&["file"])
            .ecs("file.path")
            .usual()
            .code()
            .mark(Mark::True { field: "deleted", text: "deleted" })
            .meaning("Path; of a socket the endpoints."),
        FileField::number("nlink", "Links", |row| row.open(|file| Cell::number(file.nlink))).ecs("edr.file.nlink"),
        FileField::text("flags", "Flags", |row| row.open(|file| Cell::bytes(file.flags.join(" "))))
            .ecs("edr.fd.flags")
            .on_page()
            .meaning("Flags of open(2), without the access mode."),
        FileField::bytes("detail", "Detail", |row| row.open(|file| Cell::bytes(&file.detail)))
            .ecs("edr.fd.detail")
            .wide()
            .meaning("Further lines of fdinfo."),
        FileField::time("as_of", "As of", |row| row.as_of.cell(row.process))
            .ecs("edr.process.as_of")
            .changing()
            .meaning("The row was read at this time or later."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&FileRow<'_>)) -> usize {
        let mut undecodable = 0;
        let as_of = AsOf::new(snapshot);
        // The name of a socket is its endpoints, found by inode: a descriptor has no endpoints.
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
            let files = named.iter().map(File::Open);
            let files = files.chain(process.mapped.iter().map(File::Mapped)).chain(numbered.iter().map(File::Open));
            for file in files {
                take(&FileRow { process: &process, file, sockets: &sockets, as_of: &as_of });
            }
        }
        undecodable
    }
}

impl FileRow<'_> {
    /// Returns a value of an open file; empty for a mapped file.
    fn open(&self, value: impl Fn(&OpenFile) -> Cell) -> Cell {
        match self.file {
            File::Open(file) => value(file),
            File::Mapped(_) => Cell::Empty,
        }
    }
}

fn fd(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(OpenFile { fd: Fd::Number(number), .. }) => Cell::number(*number),
        File::Open(file) => Cell::Text(file.fd.to_string()),
        File::Mapped(file) => Cell::Text(if file.deleted { "DEL" } else { "mem" }.into()),
    }
}

fn access(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(file) => Cell::wire_name(&file.access),
        File::Mapped(file) => Cell::Text(if file.executable { "exec" } else { "" }.into()),
    }
}

fn kind(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(file) => Cell::wire_name(&file.kind),
        File::Mapped(_) => Cell::wire_name(&FileKind::Regular),
    }
}

fn dev(row: &FileRow<'_>) -> Cell {
    let dev = match row.file {
        File::Open(file) if matches!(file.kind, FileKind::Char | FileKind::Block) => file.rdev,
        File::Open(file) => file.dev,
        File::Mapped(file) => file.dev,
    };
    Cell::Text(device(dev))
}

fn inode(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(file) => Cell::number(file.inode),
        File::Mapped(file) => Cell::number(file.inode),
    }
}

fn path(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(file) if file.kind == FileKind::Socket => {
            row.sockets.get(&file.inode).map_or_else(|| Cell::bytes(&file.path), Cell::bytes)
        }
        File::Open(file) => Cell::bytes(&file.path),
        File::Mapped(file) => Cell::bytes(&file.path),
    }
}

fn deleted(row: &FileRow<'_>) -> Cell {
    match row.file {
        File::Open(file) => Cell::Flag(file.deleted),
        File::Mapped(file) => Cell::Flag(file.deleted),
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
