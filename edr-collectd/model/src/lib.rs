//! The catalogue of tables: each table of the collector is one declaration.
//!
//! A [`Declaration`](catalogue::Declaration) describes a table and its fields, and gets the rows and the values. From
//! the declarations follow the tables of the page, the commands with their columns, CSV, JSON, the Arrow and Delta
//! schema, the filters, and a part of `docs/schema.md`. A new table needs three places: the type on the wire, the
//! source in the agent, the declaration in [`tables`].
//!
//! The modules, from the value to the table:
//!
//! 1. [`cell`]: a value, with its forms for terminal, page, JSON and CSV.
//! 2. [`column`]: the description of a field: names, type, unit, default display, link.
//! 3. [`exposure`]: joins scanned ports and attackers with the sockets of a snapshot.
//! 4. [`snapshot`]: an opened snapshot of a host, and a host in the list of hosts.
//! 5. [`catalogue`]: a field and its value, a declaration, a table.
//! 6. [`tables`]: all declarations.
//! 7. [`filter`]: the grammar of filters, and their types. [`moment`]: the times that people type.
//! 8. [`select`]: filter, order and page of a table's rows.
//! 9. [`document`]: the tables as a text for `docs/schema.md`.
//! 10. [`accounting`]: the account of a host's frames.
//!
//! # Rules of this crate
//!
//! - No I/O, no clock, no HTTP, Kafka or Delta: snapshots in, values out.
//! - Rows are decoded one at a time, and a cell is made when a reader needs the cell: a hostile snapshot of 32 MiB must
//!   not become gigabytes of cells.
//! - A value that a join repeats in many rows is cut at [`cell::JOINED_BYTES_MAX`].

pub mod accounting;
mod as_of;
pub mod catalogue;
pub mod cell;
pub mod column;
pub mod document;
mod error;
pub mod exposure;
pub mod filter;
pub mod moment;
pub mod select;
pub mod snapshot;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use as_of::AsOf;
pub use catalogue::{HostListTable, SnapshotTable, Table};
pub use cell::{Cell, ages, time_text};
pub use column::{Column, Kind};
pub use error::QueryError;
pub use filter::{Filter, FilterError};
pub use select::{Select, SelectError, Selection};
pub use snapshot::{HostRow, HostSnapshot, Joined, OmittedFrames};
