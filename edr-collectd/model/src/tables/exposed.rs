//! Listening sockets on scanned ports: see [`crate::exposure`].

use crate::catalogue::{About, Declaration, Field, Group};
use crate::cell::{Cell, joined};
use crate::column::Mark;
use crate::exposure::{self, Listener, Listening, Owner};
use crate::snapshot::HostSnapshot;

/// The listening sockets on scanned ports: one row for each socket and each process that holds the socket; a socket
/// without a known process has a single row.
pub(super) struct Exposed;

/// A listening socket on a scanned port, with a process that holds the socket.
pub(super) struct ExposedRow<'a> {
    exposed: &'a exposure::ExposedSocket,
    listener: &'a Listener,
    owner: Option<&'a Owner>,
    host_netns: Option<u64>,
}

type ExposedField = Field<Exposed>;

impl Declaration for Exposed {
    type Input = HostSnapshot;
    type Row<'a> = ExposedRow<'a>;

    const ABOUT: About = About {
        name: "exposed",
        slug: "exposed",
        title: "Scanned and open",
        heading: "Scanned ports that are open here",
        noun: "listening sockets",
        summary: "Listening sockets on scanned ports, with their processes",
        hint: "Sockets listening on scanned ports, as of this snapshot. A socket bound to 0.0.0.0 or :: listens on \
        every \
               address of its network namespace.",
        group: Group::Psad,
        needs_sockets: true,
        ..About::NONE
    };

    const FIELDS: &'static [ExposedField] = &[
        ExposedField::text("protocol", "Protocol", |row| Cell::bytes(row.listener.transport.name()))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .key()
            .usual(),
        ExposedField::number("port", "Port", |row| Cell::number(row.listener.port))
            .also(&["local_port"])
            .ecs("destination.port")
            .key()
            .usual()
            .link("sockets", "local_port"),
        ExposedField::number("packets", "Packets", |row| Cell::optional(row.exposed.packets))
            .ecs("edr.psad.port.packets")
            .unit("packets")
            .usual()
            .changing()
            .meaning("To this port at any address; empty where psad's list of ports lacks the port."),
        ExposedField::number("attackers", "Attackers", |row| Cell::optional(row.exposed.attackers))
            .unit("attackers")
            .usual()
            .changing()
            .meaning("Sources whose scanned ports include this port at an address of the socket."),
        ExposedField::danger_level("danger_level", "Danger level", |row| Cell::nonzero(row.exposed.danger_level))
            .also(&["danger"])
            .usual()
            .meaning("Highest level of these sources."),
        ExposedField::text("listening", "Listening", |row| Cell::Text(row.exposed.listening.name().into()))
            .words(Listening::NAMES)
            .usual()
            .meaning("`yes`, `other namespace`, `loopback only`, `unknown` or `no`."),
        ExposedField::address("address", "Local address", |row| Cell::bytes(joined(row.listener.local.as_bytes())))
            .also(&["ip", "local"])
            .ecs("edr.socket.local.ip")
            .key()
            .usual(),
        ExposedField::number("pid", "PID", |row| Cell::optional(row.owner.map(|owner| owner.pid)))
            .also(&["process_id"])
            .ecs("process.pid")
            .key()
            .usual()
            .link("processes", "pid"),
        ExposedField::bytes("comm", "Command", |row| of(row.owner, |owner| Cell::bytes(&owner.comm)))
            .also(&["name", "process"])
            .ecs("process.name")
            .usual()
            .mark(OWNER_NOT_SEEN),
        ExposedField::text("unit", "Unit", |row| of(row.owner, |owner| Cell::bytes(&owner.unit)))
            .also(&["service"])
            .ecs("edr.systemd.unit")
            .usual(),
        ExposedField::text("user", "User", |row| of(row.owner, |owner| Cell::bytes(&owner.user)))
            .also(&["username", "owner"])
            .ecs("process.user.name"),
        ExposedField::time("start_time", "Started", |row| {
            of(row.owner, |owner| Cell::nonzero_time(owner.start_time_ns))
        })
        .also(&["start", "since"])
        .ecs("process.start")
        .usual(),
        ExposedField::bytes("exe", "Executable", |row| of(row.owner, |owner| Cell::bytes(&owner.exe)))
            .also(&["path", "binary"])
            .ecs("process.executable")
            .usual()
            .code(),
        ExposedField::number("socket", "Inode", |row| Cell::number(row.listener.inode))
            .also(&["ino"])
            .ecs("edr.socket.inode")
            .key()
            .link("files", "inode"),
        ExposedField::number("net_namespace", "Net ns", |row| Cell::number(row.listener.netns))
            .also(&["netns"])
            .ecs("edr.socket.net_ns")
            .key(),
        ExposedField::text("namespace", "Namespace", |row| namespace(row.listener.netns, row.host_netns))
            .words(&["host", "other", "unknown"])
            .meaning("`host`, `other` or `unknown`."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&ExposedRow<'_>)) -> usize {
        let join = snapshot.exposure();
        for exposed in join.exposed() {
            let listener = join.listener(exposed);
            for owner in or_none(join.owners_of(listener)) {
                take(&ExposedRow { exposed, listener, owner, host_netns: join.host_netns() });
            }
        }
        // Without psad's data there is no join.
        usize::from(snapshot.view.psad().is_err())
    }
}

/// The mark of a socket without a known process.
pub(super) const OWNER_NOT_SEEN: Mark = Mark::Empty { field: "pid", text: "owner not seen" };

/// Returns all owners; a single `None` without an owner.
pub(super) fn or_none<'a>(owners: impl Iterator<Item = &'a Owner>) -> impl Iterator<Item = Option<&'a Owner>> {
    let mut owners = owners.peekable();
    let nobody = if owners.peek().is_none() { Some(None) } else { None };
    nobody.into_iter().chain(owners.map(Some))
}

/// Returns a value of the owner; empty without an owner.
pub(super) fn of(owner: Option<&Owner>, value: impl Fn(&Owner) -> Cell) -> Cell {
    owner.map_or(Cell::Empty, value)
}

/// Returns whether a network namespace is the host's own.
pub(super) fn namespace(netns: u64, host_netns: Option<u64>) -> Cell {
    Cell::bytes(match host_netns {
        Some(host) if host == netns => "host",
        Some(_) => "other",
        None => "unknown",
    })
}
