//! Frames and ticks of a host that are not in the archive.

use crate::accounting::Loss;
use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostSnapshot;

/// The losses of a host in the retained time.
pub(super) struct Losses;

type LossField = Field<Losses>;

impl Declaration for Losses {
    type Input = HostSnapshot;
    type Row<'a> = Loss;

    const ABOUT: About = About {
        name: "losses",
        slug: "losses",
        title: "Losses",
        noun: "losses",
        summary: "Frames and ticks of a host that are not in the archive, with the reasons",
        hint: "Of the whole retained time, not of one snapshot.",
        ..About::NONE
    };

    const FIELDS: &'static [LossField] = &[
        LossField::text("what", "What", |loss| Cell::Text(loss.kind.name().to_owned()))
            .also(&["kind"])
            .words(&["lost", "missed", "incomplete", "unexplained", "before_first"])
            .ecs("edr.loss.kind")
            .usual()
            .meaning(
                "`lost`: declared by the host. `missed`: ticks without a frame, declared by the host. \
                 `incomplete`: only some parts are archived. `unexplained`: or not yet arrived. \
                 `before_first`: before the first archived frame of the host.",
            ),
        LossField::text("reason", "Reason", |loss| Cell::bytes(&loss.reason))
            .ecs("event.reason")
            .usual()
            .meaning("As declared by the host."),
        LossField::number("count", "Count", |loss| Cell::number(loss.count))
            .ecs("edr.loss.count")
            .unit("frames or ticks")
            .usual(),
        LossField::number("first_seq", "First seq", |loss| Cell::optional(loss.seqs.map(|seqs| seqs.0)))
            .ecs("edr.loss.first_seq")
            .usual()
            .key(),
        LossField::number("last_seq", "Last seq", |loss| Cell::optional(loss.seqs.map(|seqs| seqs.1)))
            .ecs("edr.loss.last_seq")
            .usual(),
        LossField::time("from", "From", |loss| time(loss.from_ns))
            .ecs("event.start")
            .usual()
            .meaning("Of frames: the archived snapshot before. Of ticks: the first missed tick."),
        LossField::time("to", "To", |loss| time(loss.to_ns))
            .ecs("event.end")
            .usual()
            .meaning("Of frames: the archived snapshot after. Of ticks: the last missed tick."),
        LossField::text("epoch", "Epoch", |loss| loss.epoch.map_or(Cell::Empty, |epoch| Cell::Text(epoch.to_string())))
            .letters("0123456789abcdef")
            .ecs("edr.epoch")
            .usual()
            .key(),
        LossField::text("boot_id", "Boot", |loss| Cell::bytes(&loss.boot_id)).ecs("host.boot.id").key(),
        LossField::duration("from_boot", "From, since boot", |loss| boottime(loss, |times| times.0))
            .ecs("edr.loss.from_boot")
            .key(),
        LossField::duration("to_boot", "To, since boot", |loss| boottime(loss, |times| times.1))
            .ecs("edr.loss.to_boot"),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&Loss)) -> usize {
        snapshot.account.losses.iter().for_each(take);
        0
    }
}

fn time(ns: Option<i64>) -> Cell {
    ns.map_or(Cell::Empty, Cell::Time)
}

fn boottime(loss: &Loss, end: impl Fn((u64, u64)) -> u64) -> Cell {
    loss.boottimes_ns.map_or(Cell::Empty, |times| Cell::Duration(end(times)))
}
