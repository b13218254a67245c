//! Data missing from a snapshot, with the reasons.

use super::{Cell, Column, Emit, HostSnapshot, wire_name};

pub(super) const COLUMNS: &[Column] = &[
    Column::text("source", "Source", ""),
    Column::number("pid", "PID", "process.pid"),
    Column::text("field", "What", ""),
    Column::text("reason", "Why", ""),
    Column::number("count", "Items", ""),
    Column::text("detail", "Detail", ""),
];

pub(super) fn rows(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let Ok(gaps) = snapshot.view.gaps() else { return 1 };
    for gap in &gaps {
        emit(&|| {
            vec![
                Cell::bytes(&gap.source),
                Cell::optional(gap.pid),
                Cell::bytes(&gap.field),
                wire_name(&gap.reason),
                Cell::number(gap.count),
                Cell::bytes(&gap.detail),
            ]
        });
    }
    0
}
