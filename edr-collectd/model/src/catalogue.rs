//! Declarations of tables, and the tables made of declarations.

use crate::cell::Cell;
use crate::column::{Column, Kind, Link, Look, Mark, Values};
use crate::snapshot::{HostRow, HostSnapshot};

/// The declaration of a table: description, fields, and the source of the rows.
pub trait Declaration: Sized + 'static {
    /// Where the rows come from: a snapshot of a host, or the list of hosts.
    type Input: ?Sized;
    /// A row, which may borrow from the input.
    type Row<'a>;
    /// Description of the table.
    const ABOUT: About;
    /// The fields, in display order.
    const FIELDS: &'static [Field<Self>];

    /// Passes all rows to `take`, in the table's own order; returns the number of undecodable rows.
    fn rows(input: &Self::Input, take: &mut dyn FnMut(&Self::Row<'_>)) -> usize;
}

/// The description of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Name in JSON, Delta and documents.
    pub name: &'static str,
    /// Name in addresses and commands: `/hosts/{host}/{slug}`, `edr-collectd {slug}`.
    pub slug: &'static str,
    /// Title for users.
    pub title: &'static str,
    /// Words above the table in a terminal; empty for the title.
    pub heading: &'static str,
    /// Noun for the rows, in the plural.
    pub noun: &'static str,
    /// The content in one line.
    pub summary: &'static str,
    /// Explanation for reading the table correctly.
    pub hint: &'static str,
    /// Place of the table among the others.
    pub group: Group,
    /// Limit of a ranking of psad: the page shows this many rows, under this title.
    pub top: Option<Top>,
    /// Noun, capitalised, for rows that may be older than the snapshot; `None` when all are as old as the snapshot.
    pub aged: Option<&'static str>,
    /// True when the table joins psad's data with sockets, so that missing sockets make answers uncertain.
    pub needs_sockets: bool,
}

impl About {
    /// The description of no table, to be completed by a declaration.
    pub const NONE: Self = Self {
        name: "",
        slug: "",
        title: "",
        heading: "",
        noun: "rows",
        summary: "",
        hint: "",
        group: Group::Own,
        top: None,
        aged: None,
        needs_sockets: false,
    };

    /// Returns the words above the table in a terminal; for a table that psad prints too, the words of `psad --Status`.
    pub fn words(&self) -> &'static str {
        match self.top {
            _ if !self.heading.is_empty() => self.heading,
            Some(top) => top.title,
            None => self.title,
        }
    }
}

/// The place of a table among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// A page and a command of its own.
    Own,
    /// A part of psad's page and a section of the command `psad`.
    Psad,
}

/// The limit of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top {
    /// Title with the limit: *Top 25 attackers*.
    pub title: &'static str,
    /// Number of rows.
    pub rows: usize,
}

/// A field of a table: a column, and the function that gets the value from a row.
pub struct Field<D: Declaration> {
    column: Column,
    value: CellGetter<D>,
}

/// A function that gets a value from a row.
type CellGetter<D> = for<'r, 'a> fn(&'r <D as Declaration>::Row<'a>) -> Cell;

impl<D: Declaration> Field<D> {
    const fn new(kind: Kind, name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self { column: Column::new(kind, name, title), value }
    }

    /// Makes a field of text.
    pub const fn text(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Text, name, title, value)
    }

    /// Makes a field of bytes of the host.
    pub const fn bytes(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Bytes, name, title, value)
    }

    /// Makes a field of addresses and networks.
    pub const fn address(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Address, name, title, value)
    }

    /// Makes a field of lists of bytes.
    pub const fn list(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::List, name, title, value)
    }

    /// Makes a field of numbers.
    pub const fn number(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Number, name, title, value)
    }

    /// Makes a field of lists of numbers.
    pub const fn numbers(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Numbers, name, title, value)
    }

    /// Makes a field of numbers with words for some values.
    pub const fn number_or_word(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::NumberOrWord, name, title, value)
    }

    /// Makes a field of danger levels.
    pub const fn danger_level(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::DangerLevel, name, title, value).ecs("edr.psad.danger_level")
    }

    /// Makes a field of percentages.
    pub const fn percent(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Percent, name, title, value)
    }

    /// Makes a field of sizes in bytes.
    pub const fn size(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Size, name, title, value)
    }

    /// Makes a field of times.
    pub const fn time(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Time, name, title, value)
    }

    /// Makes a field of durations.
    pub const fn duration(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Duration, name, title, value)
    }

    /// Makes a field of flags.
    pub const fn flag(name: &'static str, title: &'static str, value: CellGetter<D>) -> Self {
        Self::new(Kind::Flag, name, title, value)
    }

    /// Sets the name in the Elastic Common Schema.
    pub const fn ecs(mut self, ecs: &'static str) -> Self {
        self.column.ecs = ecs;
        self
    }

    /// Sets the unit of an amount.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.column.unit = unit;
        self
    }

    /// Adds further names for filters.
    pub const fn also(mut self, names: &'static [&'static str]) -> Self {
        self.column.also = names;
        self
    }

    /// Declares all values of a text, or all words of a number or word.
    pub const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.column.values = Values::Words(words);
        self
    }

    /// Declares all characters of the text.
    pub const fn letters(mut self, letters: &'static str) -> Self {
        self.column.values = Values::Letters(letters);
        self
    }

    /// Declares that an address may be the context id of a vsock.
    pub const fn context_ids(mut self) -> Self {
        self.column.has_context_ids = true;
        self
    }

    /// Sets the meaning of the values.
    pub const fn meaning(mut self, meaning: &'static str) -> Self {
        self.column.meaning = meaning;
        self
    }

    /// Shows the field on a page by default. A table without such fields shows all its fields.
    pub const fn on_page(mut self) -> Self {
        self.column.on_page = true;
        self
    }

    /// Shows the field on a terminal by default. A table without such fields shows all its fields.
    pub const fn on_terminal(mut self) -> Self {
        self.column.on_terminal = true;
        self
    }

    /// Shows the field on a page and on a terminal by default.
    pub const fn usual(self) -> Self {
        self.on_page().on_terminal()
    }

    /// Makes the field a part of the row's key.
    pub const fn key(mut self) -> Self {
        self.column.is_key = true;
        self
    }

    /// Declares that the field changes all the time.
    pub const fn changing(mut self) -> Self {
        self.column.is_changing = true;
        self
    }

    /// Gives the column the remaining width of a page.
    pub const fn wide(mut self) -> Self {
        self.column.look = Look::Wide;
        self
    }

    /// Gives the column the remaining width of a page, and a monospaced font.
    pub const fn code(mut self) -> Self {
        self.column.look = Look::Code;
        self
    }

    /// Links each value to the rows of a table that have the value in `field`.
    pub const fn link(mut self, slug: &'static str, field: &'static str) -> Self {
        self.column.link = Some(Link { slug, field });
        self
    }

    /// Sets the mark beside the values.
    pub const fn mark(mut self, mark: Mark) -> Self {
        self.column.mark = Some(mark);
        self
    }
}

/// The cells of a row, by the column's index; each cell is made by the call.
pub type Cells<'a> = dyn Fn(usize) -> Cell + 'a;

/// A receiver of rows.
pub type Emit<'a> = dyn FnMut(&Cells<'_>) + 'a;

/// A table: a declaration, without the type of its rows.
pub struct Table<I: ?Sized + 'static> {
    /// Description of the table.
    pub about: About,
    columns: fn() -> Vec<Column>,
    rows: fn(&I, &mut Emit<'_>) -> usize,
}

/// A table with the rows of a snapshot.
pub type SnapshotTable = Table<HostSnapshot>;
/// A table with the rows of a list of hosts.
pub type HostListTable = Table<[HostRow]>;

impl<I: ?Sized> Table<I> {
    /// Makes the table of a declaration.
    pub const fn of<D: Declaration<Input = I>>() -> Self {
        Self {
            about: D::ABOUT,
            columns: || D::FIELDS.iter().map(|field| field.column).collect(),
            rows: |input, emit| {
                D::rows(input, &mut |row| {
                    emit(&|at| D::FIELDS.get(at).map_or(Cell::Empty, |field| (field.value)(row)));
                })
            },
        }
    }

    /// Returns the columns, in display order.
    pub fn columns(&self) -> Vec<Column> {
        (self.columns)()
    }

    /// Passes all rows to `emit`, in the table's own order; returns the number of undecodable rows.
    pub fn rows(&self, input: &I, emit: &mut Emit<'_>) -> usize {
        (self.rows)(input, emit)
    }
}

impl<I: ?Sized> Clone for Table<I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: ?Sized> Copy for Table<I> {}

impl<I: ?Sized> std::fmt::Debug for Table<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Returns the indexes of the columns that are shown by default: the columns with the flag, or all columns when no
/// column has the flag.
pub fn usual(columns: &[Column], has_flag: impl Fn(&Column) -> bool) -> Vec<usize> {
    let flagged: Vec<usize> = (0..columns.len()).filter(|&at| has_flag(&columns[at])).collect();
    if flagged.is_empty() { (0..columns.len()).collect() } else { flagged }
}

/// Returns the table with this slug.
pub fn find(tables: &'static [SnapshotTable], slug: &str) -> Option<&'static SnapshotTable> {
    tables.iter().find(|table| table.about.slug == slug)
}
