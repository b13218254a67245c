//! Sockets to and from attackers: see [`crate::exposure`].

use super::exposed::{OWNER_NOT_SEEN, namespace, of, or_none};
use super::sockets::SOCKET_STATES;
use crate::catalogue::{About, Declaration, Field, Group};
use crate::cell::{Cell, joined};
use crate::exposure::{Contact, Owner};
use crate::snapshot::HostSnapshot;

/// The sockets to and from attackers: one row for each socket and each process that holds the socket.
pub(super) struct Contacts;

/// A socket to or from an attacker, with a process that holds the socket.
pub(super) struct ContactRow<'a> {
    contact: &'a Contact,
    owner: Option<&'a Owner>,
    host_netns: Option<u64>,
}

type ContactField = Field<Contacts>;

impl Declaration for Contacts {
    type Input = HostSnapshot;
    type Row<'a> = ContactRow<'a>;

    const ABOUT: About = About {
        name: "contacts",
        slug: "contacts",
        title: "Sockets to attackers",
        heading: "Sockets to and from attackers",
        noun: "sockets",
        summary: "Sockets to and from attackers, with their processes",
        hint: "Sockets connected to psad's attackers, as of this snapshot.",
        group: Group::Psad,
        needs_sockets: true,
        ..About::NONE
    };

    const FIELDS: &'static [ContactField] = &[
        ContactField::address("ip", "Attacker", |row| Cell::Text(row.contact.ip.to_string()))
            .also(&["address", "remote", "remote_address", "source"])
            .ecs("source.ip")
            .key()
            .usual()
            .link("sources", "ip"),
        ContactField::danger_level("danger_level", "Danger level", |row| Cell::number(row.contact.danger_level))
            .also(&["danger"])
            .usual(),
        ContactField::text("direction", "Direction", |row| direction(row.contact))
            .words(&["inbound", "outbound", "unknown"])
            .ecs("network.direction")
            .usual()
            .meaning("`inbound`, `outbound` or `unknown`."),
        ContactField::text("protocol", "Protocol", |row| Cell::bytes(joined(row.contact.socket.protocol.as_bytes())))
            .also(&["proto", "transport"])
            .ecs("network.transport")
            .key()
            .usual(),
        ContactField::text("state", "State", |row| Cell::bytes(joined(row.contact.socket.state.as_bytes())))
            .also(&["status"])
            .words(SOCKET_STATES)
            .ecs("edr.socket.state")
            .usual(),
        ContactField::address("local_address", "Local address", |row| {
            Cell::bytes(joined(row.contact.socket.local.as_bytes()))
        })
        .also(&["local", "address"])
        .ecs("edr.socket.local.ip")
        .key()
        .usual(),
        ContactField::number("local_port", "Port", |row| Cell::number(row.contact.socket.local_port))
            .also(&["local", "lport"])
            .ecs("edr.socket.local.port")
            .key()
            .usual()
            .link("sockets", "local_port"),
        ContactField::number("remote_port", "Remote port", |row| Cell::number(row.contact.socket.remote_port))
            .also(&["port", "remote", "rport"])
            .ecs("edr.socket.remote.port")
            .key()
            .usual(),
        ContactField::number("pid", "PID", |row| Cell::optional(row.owner.map(|owner| owner.pid)))
            .also(&["process_id"])
            .ecs("process.pid")
            .key()
            .usual()
            .link("processes", "pid"),
        ContactField::bytes("comm", "Command", |row| of(row.owner, |owner| Cell::bytes(&owner.comm)))
            .also(&["name", "process"])
            .ecs("process.name")
            .usual()
            .mark(OWNER_NOT_SEEN),
        ContactField::text("unit", "Unit", |row| of(row.owner, |owner| Cell::bytes(&owner.unit)))
            .also(&["service"])
            .ecs("edr.systemd.unit")
            .usual(),
        ContactField::text("user", "User", |row| of(row.owner, |owner| Cell::bytes(&owner.user)))
            .also(&["username", "owner"])
            .ecs("process.user.name"),
        ContactField::time("start_time", "Started", |row| {
            of(row.owner, |owner| Cell::nonzero_time(owner.start_time_ns))
        })
        .also(&["start", "since"])
        .ecs("process.start")
        .usual(),
        ContactField::bytes("exe", "Executable", |row| of(row.owner, |owner| Cell::bytes(&owner.exe)))
            .also(&["path", "binary"])
            .ecs("process.executable")
            .on_terminal()
            .code(),
        ContactField::number("socket", "Inode", |row| Cell::number(row.contact.socket.inode))
            .also(&["ino"])
            .ecs("edr.socket.inode")
            .key()
            .link("files", "inode"),
        ContactField::number("net_namespace", "Net ns", |row| Cell::number(row.contact.socket.netns))
            .also(&["netns"])
            .ecs("edr.socket.net_ns"),
        ContactField::text("namespace", "Namespace", |row| namespace(row.contact.socket.netns, row.host_netns))
            .words(&["host", "other", "unknown"])
            .meaning("`host`, `other` or `unknown`."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&ContactRow<'_>)) -> usize {
        let join = snapshot.exposure();
        for contact in join.contacts() {
            for owner in or_none(join.holders_of(contact)) {
                take(&ContactRow { contact, owner, host_netns: join.host_netns() });
            }
        }
        // Without psad's data there is no join.
        usize::from(snapshot.view.psad().is_err())
    }
}

fn direction(contact: &Contact) -> Cell {
    Cell::bytes(match contact.inbound {
        Some(true) => "inbound",
        Some(false) => "outbound",
        None => "unknown",
    })
}
