//! The list of hosts.

use crate::accounting::BRIEF_LOSSES_MAX;
use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostRow;

/// The hosts that ever reported.
pub(super) struct Hosts;

type HostField = Field<Hosts>;

impl Declaration for Hosts {
    type Input = [HostRow];
    type Row<'a> = HostRow;

    const ABOUT: About = About {
        name: "hosts",
        slug: "hosts",
        title: "Hosts",
        noun: "hosts",
        summary: "The hosts that ever reported",
        hint: "Every host with a frame in the archive.",
        ..About::NONE
    };

    const FIELDS: &'static [HostField] = &[
        HostField::text("hostname", "Host", |row| Cell::bytes(&row.hostname)).also(&["name"]).usual().ecs("host.name"),
        HostField::text("host_id", "Host id", |row| Cell::Text(row.host_id.to_string()))
            .also(&["id"])
            .letters("0123456789abcdef-")
            .usual()
            .ecs("host.id")
            .key(),
        HostField::text("os", "System", |row| Cell::bytes(&row.os)).usual().ecs("host.os.full"),
        HostField::time("captured", "Newest snapshot", |row| Cell::Time(row.captured_ns))
            .also(&["seen"])
            .usual()
            .ecs("@timestamp")
            .changing()
            .meaning("By the host's clock."),
        HostField::time("received", "Received", |row| Cell::Time(row.received_ns))
            .usual()
            .ecs("event.ingested")
            .changing()
            .meaning("By the collector's clock."),
        HostField::number("seq", "Seq", |row| Cell::number(row.seq))
            .usual()
            .ecs("event.sequence")
            .changing()
            .meaning("Sequence number of the newest snapshot."),
        HostField::number("processes", "Processes", |row| Cell::count(row.processes)).usual().unit("processes"),
        HostField::number("files", "Open files", |row| Cell::count(row.files)).usual().unit("files"),
        HostField::number("sockets", "Sockets", |row| Cell::count(row.sockets)).usual().unit("sockets"),
        HostField::danger_level("danger_level", "Danger level", |row| Cell::number(row.danger_level))
            .also(&["danger"])
            .usual()
            .meaning("Highest level of any attacker, 0 for none."),
        HostField::text("psad", "psad", |row| Cell::bytes(&row.psad)).usual().meaning("`mode/state`."),
        HostField::flag("bye", "Stopped", |row| Cell::Flag(row.bye))
            .usual()
            .meaning("The agent stopped cleanly after its last frame."),
        HostField::text("missing", "Missing", |row| Cell::Text(row.account.brief()))
            .usual()
            .ecs("edr.loss.summary")
            .meaning("Frames and ticks that are not in the archive, in the retained time; `complete` for none."),
        HostField::number("archived", "Frames", |row| Cell::number(row.account.archived))
            .ecs("edr.loss.archived")
            .unit("frames"),
        HostField::number("lost", "Lost", |row| Cell::number(row.account.lost))
            .ecs("edr.loss.lost")
            .unit("frames")
            .meaning("Declared lost by the host."),
        HostField::number("missed", "Missed", |row| Cell::number(row.account.missed))
            .ecs("edr.loss.missed")
            .unit("ticks")
            .meaning("Declared missed by the host."),
        HostField::number("incomplete", "Incomplete", |row| Cell::number(row.account.incomplete))
            .ecs("edr.loss.incomplete")
            .unit("frames")
            .meaning("Only some parts are archived."),
        HostField::number("unexplained", "Unexplained", |row| Cell::number(row.account.unexplained))
            .ecs("edr.loss.unexplained")
            .unit("frames")
            .meaning("Nothing explains that the frames are absent, or the frames have not arrived yet."),
        HostField::text("degraded", "Degraded", |row| Cell::bytes(row.degraded.join("; ")))
            .usual()
            .ecs("edr.agent.degraded")
            .meaning("Reasons why the agent's data is incomplete."),
        HostField::text("alarms", "Alarms", |row| Cell::bytes(row.alarms.join("; ")))
            .also(&["alarm"])
            .usual()
            .meaning("Contradictory or unreadable frames."),
        HostField::text("losses", "Losses", |row| Cell::bytes(row.account.lines(BRIEF_LOSSES_MAX).join("; ")))
            .usual()
            .meaning("The newest losses, with reason and range; table `losses` has all."),
    ];

    fn rows(hosts: &[HostRow], take: &mut dyn FnMut(&HostRow)) -> usize {
        hosts.iter().for_each(take);
        0
    }
}
