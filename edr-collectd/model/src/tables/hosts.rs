//! The list of hosts.

use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostRow;

/// Losses named in the list of hosts, per host.
const LOSSES_MAX: usize = 4;

/// The hosts that ever reported.
pub(super) struct Hosts;

type F = Field<Hosts>;

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

    const FIELDS: &'static [F] = &[
        F::text("hostname", "Host", |row| Cell::bytes(&row.hostname)).usual().ecs("host.name"),
        F::text("host_id", "Host id", |row| Cell::Text(row.host_id.to_string())).usual().ecs("host.id").key(),
        F::text("os", "System", |row| Cell::bytes(&row.os)).usual().ecs("host.os.full"),
        F::time("captured", "Newest snapshot", |row| Cell::Time(row.captured_ns))
            .usual()
            .ecs("@timestamp")
            .changing()
            .meaning("By the host's clock."),
        F::time("received", "Received", |row| Cell::Time(row.received_ns))
            .usual()
            .ecs("event.ingested")
            .changing()
            .meaning("By the collector's clock."),
        F::number("seq", "Seq", |row| Cell::number(row.seq))
            .usual()
            .ecs("event.sequence")
            .changing()
            .meaning("Sequence number of the newest snapshot."),
        F::number("processes", "Processes", |row| Cell::count(row.processes)).usual().unit("processes"),
        F::number("files", "Open files", |row| Cell::count(row.files)).usual().unit("files"),
        F::number("sockets", "Sockets", |row| Cell::count(row.sockets)).usual().unit("sockets"),
        F::danger_level("danger_level", "Danger level", |row| Cell::number(row.danger_level))
            .usual()
            .meaning("Highest level of any attacker, 0 for none."),
        F::text("psad", "psad", |row| Cell::bytes(&row.psad)).usual().meaning("`mode/state`."),
        F::flag("bye", "Stopped", |row| Cell::Flag(row.bye))
            .usual()
            .meaning("The agent stopped cleanly after its last frame."),
        F::text("missing", "Missing", |row| Cell::Text(row.account.brief()))
            .usual()
            .ecs("edr.loss.summary")
            .meaning("Frames and ticks that are not in the archive, in the retained time; `complete` for none."),
        F::number("archived", "Frames", |row| Cell::number(row.account.archived))
            .ecs("edr.loss.archived")
            .unit("frames"),
        F::number("lost", "Lost", |row| Cell::number(row.account.lost))
            .ecs("edr.loss.lost")
            .unit("frames")
            .meaning("Declared lost by the host."),
        F::number("missed", "Missed", |row| Cell::number(row.account.missed))
            .ecs("edr.loss.missed")
            .unit("ticks")
            .meaning("Declared missed by the host."),
        F::number("incomplete", "Incomplete", |row| Cell::number(row.account.incomplete))
            .ecs("edr.loss.incomplete")
            .unit("frames")
            .meaning("Only some parts are archived."),
        F::number("unexplained", "Unexplained", |row| Cell::number(row.account.unexplained))
            .ecs("edr.loss.unexplained")
            .unit("frames")
            .meaning("Nothing explains that the frames are absent, or the frames have not arrived yet."),
        F::text("degraded", "Degraded", |row| Cell::bytes(row.degraded.join("; ")))
            .usual()
            .ecs("edr.agent.degraded")
            .meaning("Reasons why the agent's data is incomplete."),
        F::text("alarms", "Alarms", |row| Cell::bytes(row.alarms.join("; ")))
            .usual()
            .meaning("Contradictory or unreadable frames."),
        F::text("losses", "Losses", |row| Cell::bytes(row.account.lines(LOSSES_MAX).join("; ")))
            .usual()
            .meaning("The newest losses, with reason and range; table `losses` has all."),
    ];

    fn rows(hosts: &[HostRow], take: &mut dyn FnMut(&HostRow)) -> usize {
        hosts.iter().for_each(take);
        0
    }
}
