//! Tables: the one form in which rows reach a page, a terminal, JSON and CSV. (skeleton: the signatures are fixed)

use edr_wire::Bytes;

use super::{HostSnapshot, QueryError};

/// The views, under the names their users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// *process data*
    Processes,
    /// *lsof data*
    Files,
    /// Sockets with their owners.
    Sockets,
    /// *Top 50 signature matches*
    TopSignatures,
    /// *Top 25 attackers*
    TopAttackers,
    /// *Top 20 scanned ports*
    TopPorts,
    /// *iptables log prefix counters*
    PrefixCounters,
    /// Total protocol packet counters.
    ProtocolCounters,
    /// *IP status detail*
    Sources,
    /// Auto-blocked addresses.
    Blocked,
    /// Firewall log lines of this snapshot.
    Packets,
    /// What the snapshot missed.
    Gaps,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name in JSON, CSV and `sort=`: the wire's name.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Elastic Common Schema name, empty where there is none.
    pub ecs: &'static str,
    /// Numbers are aligned right.
    pub numeric: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// Text of ours.
    Text(String),
    /// Bytes of the host's.
    Bytes(Bytes),
    /// A count or an id.
    Number(i128),
    /// A number of bytes.
    Size(u64),
    /// ns since the epoch.
    Time(i64),
    /// Yes or no.
    Flag(bool),
}

/// What to show of a view.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// Rows that contain this text (case-insensitive) in any column; `column:text` for one column.
    pub filter: Option<String>,
    /// Column name to sort by; the view's own order otherwise.
    pub sort: Option<String>,
    /// Largest first.
    pub descending: bool,
    /// Page, from 0.
    pub page: usize,
    /// Rows of a page; 0 for all.
    pub page_rows: usize,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<Column>,
    /// The rows of the page.
    pub rows: Vec<Vec<Cell>>,
    /// Rows that match the filter.
    pub matched: usize,
    /// Rows in all.
    pub total: usize,
    /// Rows that could not be decoded.
    pub undecodable: usize,
}

impl View {
    /// The columns of this view.
    pub fn columns(self) -> Vec<Column> {
        Vec::new()
    }

    /// Filters, sorts and cuts the rows of this view.
    ///
    /// # Errors
    /// When the column to sort by does not exist.
    pub fn table(self, _snapshot: &HostSnapshot, _select: &Select) -> Result<Table, QueryError> {
        Ok(Table { columns: Vec::new(), rows: Vec::new(), matched: 0, total: 0, undecodable: 0 })
    }
}
