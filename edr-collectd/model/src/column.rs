//! Columns: the description of a field, without the function that gets the value.

use crate::cell::Cell;

/// The type of a column's values. [`Cell::Empty`] is a value of every type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Text of the agent or the collector.
    Text,
    /// Bytes of the host, such as a path.
    Bytes,
    /// An IP address or a network.
    Address,
    /// Byte strings with significant boundaries: the arguments of a command line.
    List,
    /// A count or an id.
    Number,
    /// Several ids.
    Numbers,
    /// A number, or a word in place of the number: descriptor 3, or `cwd`.
    NumberOrWord,
    /// A danger level of psad, 1 to 5.
    DangerLevel,
    /// A percentage with two decimals.
    Percent,
    /// A size in bytes.
    Size,
    /// A time.
    Time,
    /// A length of time.
    Duration,
    /// Yes or no.
    Flag,
}

impl Kind {
    /// All types.
    pub const ALL: [Self; 13] = [
        Self::Text,
        Self::Bytes,
        Self::Address,
        Self::List,
        Self::Number,
        Self::Numbers,
        Self::NumberOrWord,
        Self::DangerLevel,
        Self::Percent,
        Self::Size,
        Self::Time,
        Self::Duration,
        Self::Flag,
    ];

    /// Returns true for numbers: aligned right, and sorted with the largest first.
    pub fn is_numeric(self) -> bool {
        match self {
            Self::Text | Self::Bytes | Self::Address | Self::List | Self::Flag => false,
            Self::Number
            | Self::Numbers
            | Self::NumberOrWord
            | Self::DangerLevel
            | Self::Percent
            | Self::Size
            | Self::Time
            | Self::Duration => true,
        }
    }

    /// Returns the name of the type in `docs/schema.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Address => "address",
            Self::List => "list of bytes",
            Self::Number => "number",
            Self::Numbers => "list of numbers",
            Self::NumberOrWord => "number or word",
            Self::DangerLevel => "danger level",
            Self::Percent => "percent",
            Self::Size => "size",
            Self::Time => "time",
            Self::Duration => "duration",
            Self::Flag => "flag",
        }
    }

    /// Returns the unit of the values in JSON and CSV, where the type decides the unit; empty otherwise.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Size => "bytes",
            Self::Time => "UTC",
            Self::Duration => "seconds",
            _ => "",
        }
    }

    /// Returns true when the cell is a value of this type.
    pub fn holds(self, cell: &Cell) -> bool {
        match cell {
            Cell::Empty => true,
            Cell::Text(_) => matches!(self, Self::Text | Self::Bytes | Self::Address | Self::NumberOrWord),
            Cell::Bytes(_) => matches!(self, Self::Text | Self::Bytes | Self::Address),
            Cell::List(_) => self == Self::List,
            Cell::Number(_) => matches!(self, Self::Number | Self::NumberOrWord | Self::DangerLevel),
            Cell::Numbers(_) => self == Self::Numbers,
            Cell::Hundredths(_) => self == Self::Percent,
            Cell::Size(_) => self == Self::Size,
            Cell::Time(_) => self == Self::Time,
            Cell::Duration(_) => self == Self::Duration,
            Cell::Flag(_) => self == Self::Flag,
        }
    }
}

/// The values that a column of text can have, so that a filter for another text is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Values {
    /// Any text.
    Any,
    /// A text of a fixed list.
    Words(&'static [&'static str]),
    /// Text of these characters, without regard to case.
    Letters(&'static str),
}

/// The look of a column on a page, beyond what the type decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// As wide as the values.
    Plain,
    /// As wide as the page allows.
    Wide,
    /// As wide as the page allows, in a monospaced font: paths, command lines, log lines.
    Code,
}

/// A link from each value of a column to the rows of a table that have the value in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// Last segment of the table's address: [`crate::catalogue::About::slug`].
    pub slug: &'static str,
    /// Name of the field.
    pub field: &'static str,
}

/// A mark beside a value on a page. A mark changes the meaning of the value: a deleted file has no name any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The text of another field of the row.
    Text {
        /// Name of the other field.
        field: &'static str,
    },
    /// `text`, when another field of the row is true.
    True {
        /// Name of the other field.
        field: &'static str,
        /// The mark.
        text: &'static str,
    },
    /// `text`, when another field of the row has no value.
    Empty {
        /// Name of the other field.
        field: &'static str,
        /// The mark.
        text: &'static str,
    },
}

impl Mark {
    /// Returns the name of the other field.
    pub fn field(self) -> &'static str {
        match self {
            Self::Text { field } | Self::True { field, .. } | Self::Empty { field, .. } => field,
        }
    }
}

/// A column: the description of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name in JSON, CSV, Delta, filters and `sort=`: the name in osquery where osquery has the field, otherwise the
    /// name on the wire.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Name in the Elastic Common Schema; empty when there is none.
    pub ecs: &'static str,
    /// Type of the values.
    pub kind: Kind,
    /// Unit of the values, in the plural; empty for ids, names and types with a unit of their own ([`Kind::unit`]). A
    /// number with a unit is an amount and is shown in groups of three digits.
    pub unit: &'static str,
    /// Further names in filters: habits of other tools.
    pub also: &'static [&'static str],
    /// Values of a column of text; the words of [`Kind::NumberOrWord`].
    pub values: Values,
    /// True for addresses that may be the context id of a vsock.
    pub has_context_ids: bool,
    /// Meaning of the values, where title and ECS name leave a question.
    pub meaning: &'static str,
    /// True when a page shows the column unless all columns are requested.
    pub on_page: bool,
    /// True when a terminal shows the column unless other columns are requested.
    pub on_terminal: bool,
    /// True for a field that identifies the row, together with the table's other key fields.
    pub is_key: bool,
    /// True for a field that changes all the time without an event behind the change: CPU time, queues, offsets.
    pub is_changing: bool,
    /// Look on a page.
    pub look: Look,
    /// Link of the values on a page.
    pub link: Option<Link>,
    /// Mark beside the values on a page.
    pub mark: Option<Mark>,
}

impl Column {
    /// Makes a column, shown only on request.
    pub const fn new(kind: Kind, name: &'static str, title: &'static str) -> Self {
        Self {
            name,
            title,
            ecs: "",
            kind,
            unit: "",
            also: &[],
            values: Values::Any,
            has_context_ids: false,
            meaning: "",
            on_page: false,
            on_terminal: false,
            is_key: false,
            is_changing: false,
            look: Look::Plain,
            link: None,
            mark: None,
        }
    }
}
