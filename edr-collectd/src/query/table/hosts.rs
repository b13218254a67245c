//! The list of hosts as a table.

use super::{Cell, Column};
use crate::query::HostRow;

const COLUMNS: &[Column] = &[
    Column::text("hostname", "Host", "host.name"),
    Column::text("host_id", "Host id", "host.id"),
    Column::text("os", "System", "host.os.full"),
    Column::number("captured", "Newest snapshot", "@timestamp"),
    Column::number("received", "Received", "event.ingested"),
    Column::number("seq", "Seq", "event.sequence"),
    Column::number("processes", "Processes", ""),
    Column::number("files", "Open files", ""),
    Column::number("sockets", "Sockets", ""),
    Column::number("danger_level", "Danger level", "edr.psad.danger_level"),
    Column::text("psad", "psad", ""),
    Column::text("bye", "Stopped", ""),
    Column::text("degraded", "Degraded", ""),
    Column::text("alarms", "Alarms", ""),
];

/// Returns the columns of [`host_row`].
pub fn host_columns() -> Vec<Column> {
    COLUMNS.to_vec()
}

/// Returns a host as a row.
pub fn host_row(row: &HostRow) -> Vec<Cell> {
    let count = |number: usize| Cell::Number(i128::try_from(number).unwrap_or(i128::MAX));
    vec![
        Cell::bytes(&row.hostname),
        Cell::Text(row.host_id.to_string()),
        Cell::bytes(&row.os),
        Cell::Time(row.captured_ns),
        Cell::Time(row.received_ns),
        Cell::number(row.seq),
        count(row.processes),
        count(row.files),
        count(row.sockets),
        Cell::number(row.danger_level),
        Cell::bytes(&row.psad),
        Cell::Flag(row.bye),
        Cell::bytes(row.degraded.join("; ")),
        Cell::bytes(row.alarms.join("; ")),
    ]
}
