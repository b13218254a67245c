//! The rows of a table as aligned text, JSON or CSV.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use edr_model::catalogue::usual;
use edr_model::select::place_of;
use edr_model::{Cell, Column, Filter, Select, SelectError, Table};

/// Largest width, in characters, of an aligned column; longer values push the rest of the row to the right.
const ALIGNED_MAX: usize = 40;

/// The rows and columns to print.
#[derive(Debug, Clone, Default, Args)]
pub struct Print {
    /// Rows that match, such as 'sshd', 'name:ssh', 'pid=812 or pid:1..100', 'not user:root', 'size>1M',
    /// 'remote:10.0.0.0/8', 'started>-1h'; repeated filters must all match. docs/filter.md has the grammar
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Column to sort by
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// Largest first
    #[arg(long, requires = "sort")]
    pub descending: bool,
    /// Columns to print, separated by commas; "all" prints all columns
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Output format of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// A list of objects, with the names of docs/schema.md; in strings, bytes outside UTF-8 are \xNN and a backslash is
    /// \\
    Json,
    /// Comma-separated, for spreadsheets: a text that one would run as a formula starts with '
    Csv,
}

/// The checked choice of rows and columns of a table.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The rows to print.
    pub filter: Filter,
    /// Indexes of the columns to print.
    places: Vec<usize>,
}

impl Print {
    /// Checks filters and columns for a table. `now_ns` is the moment to which relative times of a filter refer.
    ///
    /// # Errors
    /// When a filter is wrong, or a column does not exist.
    pub fn choice<I: ?Sized>(&self, table: &Table<I>, now_ns: i64) -> anyhow::Result<Choice> {
        let all = table.columns();
        if let Some(sort) = &self.sort {
            place_of(&all, sort)?;
        }
        Ok(Choice { filter: Filter::parse_all(&self.filter, &all, now_ns)?, places: places(&all, self)? })
    }
}

/// The numbers of rows that were printed and that could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printed {
    /// Printed rows.
    pub rows: usize,
    /// Undecodable rows.
    pub undecodable: usize,
}

/// Prints the rows of a table, in the table's own order one by one; sorted rows are collected first.
///
/// # Errors
/// When there are too many rows to sort, or when the output fails.
pub fn print<I: ?Sized>(
    out: &mut impl Write,
    table: &Table<I>,
    input: &I,
    print: &Print,
    choice: &Choice,
) -> anyhow::Result<Printed> {
    let all = table.columns();
    let Choice { filter, places } = choice;
    let columns: Vec<Column> = places.iter().map(|&place| all[place]).collect();
    let mut printer = RowPrinter::new(out, print.format, &columns);
    let undecodable = if print.sort.is_some() {
        let selection = table.select(input, &select(print, filter))?;
        let pick = |row: &Vec<Cell>| places.iter().map(|&place| row[place].clone()).collect();
        let rows: Vec<Vec<Cell>> = selection.rows.iter().map(pick).collect();
        rows.iter().for_each(|row| printer.measure(row));
        printer.begin()?;
        rows.iter().try_for_each(|row| printer.row(row))?;
        selection.undecodable
    } else {
        if printer.must_measure() {
            table.each(input, filter, places, &mut |row| printer.measure(&row));
        }
        printer.begin()?;
        let mut result = Ok(());
        let undecodable = table.each(input, filter, places, &mut |row| {
            if result.is_ok() {
                result = printer.row(&row);
            }
        });
        result?;
        undecodable
    };
    printer.end()?;
    Ok(Printed { rows: printer.count, undecodable })
}

/// Returns the indexes of the columns to print. Without a choice, a terminal gets the columns that fit; JSON and CSV
/// get all.
fn places(all: &[Column], print: &Print) -> Result<Vec<usize>, SelectError> {
    match print.columns.as_slice() {
        [] if print.format == Format::Table => Ok(usual(all, |column| column.on_terminal)),
        [] => Ok((0..all.len()).collect()),
        [one] if one == "all" => Ok((0..all.len()).collect()),
        some => some.iter().map(|name| place_of(all, name.trim())).collect(),
    }
}

fn select(print: &Print, filter: &Filter) -> Select {
    Select { filter: filter.clone(), sort: print.sort.clone(), descending: print.descending, page: 0, page_rows: 0 }
}

/// Printer of rows. Aligned columns need two passes over the rows: first [`RowPrinter::measure`], then
/// [`RowPrinter::row`].
struct RowPrinter<'a, W: Write> {
    out: W,
    format: Format,
    columns: &'a [Column],
    widths: Vec<usize>,
    count: usize,
}

impl<'a, W: Write> RowPrinter<'a, W> {
    fn new(out: W, format: Format, columns: &'a [Column]) -> Self {
        let widths = columns.iter().map(|column| column.title.chars().count()).collect();
        Self { out, format, columns, widths, count: 0 }
    }

    /// Returns true when rows must be measured before printing.
    fn must_measure(&self) -> bool {
        self.format == Format::Table
    }

    /// Widens the columns to fit a row.
    fn measure(&mut self, row: &[Cell]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text().chars().count().min(ALIGNED_MAX));
        }
    }

    /// Prints the text before the first row.
    fn begin(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => {
                let titles: Vec<(String, bool)> =
                    self.columns.iter().map(|column| (column.title.to_uppercase(), column.kind.is_numeric())).collect();
                self.aligned(&titles)
            }
            Format::Json => write!(self.out, "["),
            Format::Csv => {
                let names: Vec<String> = self.columns.iter().map(|column| column.name.to_owned()).collect();
                self.record(&names)
            }
        }
    }

    /// Prints a row.
    fn row(&mut self, row: &[Cell]) -> io::Result<()> {
        self.count += 1;
        match self.format {
            Format::Table => {
                let cells: Vec<(String, bool)> = row
                    .iter()
                    .zip(self.columns)
                    .map(|(cell, column)| (cell.text(), column.kind.is_numeric()))
                    .collect();
                self.aligned(&cells)
            }
            Format::Json => {
                let object: serde_json::Map<String, serde_json::Value> =
                    self.columns.iter().zip(row).map(|(column, cell)| (column.name.to_owned(), cell.json())).collect();
                let text = serde_json::to_string(&object).map_err(io::Error::other)?;
                let separator = if self.count == 1 { "\n" } else { ",\n" };
                write!(self.out, "{separator}{}", harmless(&text))
            }
            Format::Csv => {
                let fields: Vec<String> = row.iter().map(Cell::csv).collect();
                self.record(&fields)
            }
        }
    }

    /// Prints the text after the last row.
    fn end(&mut self) -> io::Result<()> {
        if self.format == Format::Json {
            writeln!(self.out, "{}]", if self.count > 0 { "\n" } else { "" })?;
        }
        self.out.flush()
    }

    fn aligned(&mut self, cells: &[(String, bool)]) -> io::Result<()> {
        let mut line = String::new();
        for ((text, numeric), &width) in cells.iter().zip(&self.widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let fill = " ".repeat(width.saturating_sub(text.chars().count()));
            if *numeric {
                line.push_str(&fill);
                line.push_str(text);
            } else {
                line.push_str(text);
                line.push_str(&fill);
            }
        }
        writeln!(self.out, "{}", line.trim_end())
    }

    fn record(&mut self, fields: &[String]) -> io::Result<()> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(fields).map_err(io::Error::other)?;
        let bytes = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        self.out.write_all(&bytes)
    }
}

/// Escapes all characters of a JSON text that a terminal could act on. These characters only occur inside strings,
/// where `\uNNNN` has the same meaning.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        let shown = if c.is_ascii() && c != '\x7f' {
            true
        } else {
            edr_wire::visible(c.encode_utf8(&mut [0; 4]).as_bytes()) == c.to_string()
        };
        if shown {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use edr_model::catalogue::find;
    use edr_model::tables::TABLES;
    use edr_wire::Bytes;

    use super::*;

    fn printed(format: Format, rows: &[Vec<Cell>]) -> String {
        let columns = find(&TABLES, "blocked").unwrap().columns();
        let mut out = Vec::new();
        let mut printer = RowPrinter::new(&mut out, format, &columns);
        rows.iter().for_each(|row| printer.measure(row));
        printer.begin().unwrap();
        rows.iter().for_each(|row| printer.row(row).unwrap());
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::Bytes(Bytes::from("=cmd|' /C calc'!A0,\"")), Cell::Number(-5)],
            vec![Cell::Bytes(Bytes::from("\u{1b}]8;;\u{202e}x\n\u{e0041}".as_bytes())), Cell::Empty],
        ]
    }

    #[test]
    fn a_spreadsheet_runs_nothing_and_a_terminal_neither() {
        assert_eq!(
            printed(Format::Csv, &rows()),
            "address,since\r\n\"'=cmd|' /C calc'!A0,\"\"\",-5\r\n\\x1b]8;;\\u{202e}x\\x0a\\u{e0041},\r\n"
        );
        for start in ["=", "+", "-", "@", "\t", "\r"] {
            let csv = Cell::Bytes(Bytes::from(&format!("{start}1"))).csv();
            assert!(csv.starts_with('\''), "{csv:?}");
        }
        assert_eq!(Cell::List(vec![Bytes::from("-x")]).csv(), "[\"-x\"]");
    }

    #[test]
    fn json_is_exact_and_harmless() {
        let json = printed(Format::Json, &rows());
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed[1]["address"], "\u{1b}]8;;\u{202e}x\n\u{e0041}");
        assert!(json.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{json:?}");
        assert_eq!(printed(Format::Json, &[]), "[]\n");
    }

    #[test]
    fn columns_are_aligned() {
        let table = printed(
            Format::Table,
            &[vec![Cell::Text("a".into()), Cell::Number(12)], vec![Cell::Text("bcdefghijk".into()), Cell::Number(7)]],
        );
        assert_eq!(table, "ADDRESS     SINCE\na              12\nbcdefghijk      7\n");
    }
}
