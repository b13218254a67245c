//! The list of hosts.

use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostRow;

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
        F::text("hostname", "Host", |row| Cell::bytes(&row.hostname)).ecs("host.name"),
        F::text("host_id", "Host id", |row| Cell::Text(row.host_id.to_string())).ecs("host.id").key(),
        F::text("os", "System", |row| Cell::bytes(&row.os)).ecs("host.os.full"),
        F::time("captured", "Newest snapshot", |row| Cell::Time(row.captured_ns))
            .ecs("@timestamp")
            .changing()
            .meaning("By the host's clock."),
        F::time("received", "Received", |row| Cell::Time(row.received_ns))
            .ecs("event.ingested")
            .changing()
            .meaning("By the collector's clock."),
        F::number("seq", "Seq", |row| Cell::number(row.seq)).ecs("event.sequence").changing(),
        F::number("processes", "Processes", |row| Cell::count(row.processes)).unit("processes"),
        F::number("files", "Open files", |row| Cell::count(row.files)).unit("files"),
        F::number("sockets", "Sockets", |row| Cell::count(row.sockets)).unit("sockets"),
        F::danger_level("danger_level", "Danger level", |row| Cell::number(row.danger_level))
            .meaning("Highest level of any attacker, 0 for none."),
        F::text("psad", "psad", |row| Cell::bytes(&row.psad)).meaning("`mode/state`."),
        F::flag("bye", "Stopped", |row| Cell::Flag(row.bye)).meaning("The agent stopped cleanly after its last frame."),
        F::text("degraded", "Degraded", |row| Cell::bytes(row.degraded.join("; ")))
            .ecs("edr.agent.degraded")
            .meaning("Reasons why the agent's data is incomplete."),
        F::text("alarms", "Alarms", |row| Cell::bytes(row.alarms.join("; ")))
            .meaning("Contradictory or unreadable frames."),
    ];

    fn rows(hosts: &[HostRow], take: &mut dyn FnMut(&HostRow)) -> usize {
        hosts.iter().for_each(take);
        0
    }
}
