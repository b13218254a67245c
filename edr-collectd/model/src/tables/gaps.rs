//! Data missing from a snapshot, with the reasons.

use edr_wire::snapshot::Gap;

use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::snapshot::HostSnapshot;

/// The gaps of a snapshot.
pub(super) struct Gaps;

type GapField = Field<Gaps>;

impl Declaration for Gaps {
    type Input = HostSnapshot;
    type Row<'a> = Gap;

    const ABOUT: About = About {
        name: "gaps",
        slug: "gaps",
        title: "Gaps",
        noun: "gaps",
        summary: "Data missing from a snapshot of a host, with the reasons",
        hint: "Facts missing in this snapshot, with reasons.",
        ..About::NONE
    };

    const FIELDS: &'static [GapField] = &[
        GapField::text("source", "Source", |gap| Cell::bytes(&gap.source)).ecs("edr.gap.source"),
        GapField::number("pid", "PID", |gap| Cell::optional(gap.pid))
            .also(&["process_id"])
            .ecs("process.pid")
            .link("processes", "pid"),
        GapField::bytes("field", "What", |gap| Cell::bytes(&gap.field)).ecs("edr.gap.field").wide(),
        GapField::text("reason", "Why", |gap| Cell::wire_name(&gap.reason))
            .words(&[
                "gone",
                "denied",
                "stuck",
                "too_long",
                "malformed",
                "unsupported",
                "rotated_away",
                "io",
                "budget",
                "unknown",
            ])
            .ecs("edr.gap.reason"),
        GapField::number("count", "Items", |gap| Cell::number(gap.count)).ecs("edr.gap.count").unit("items"),
        GapField::text("detail", "Detail", |gap| Cell::bytes(&gap.detail)).ecs("edr.gap.detail").wide(),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&Gap)) -> usize {
        let Ok(gaps) = snapshot.view.gaps() else { return 1 };
        gaps.iter().for_each(take);
        0
    }
}
