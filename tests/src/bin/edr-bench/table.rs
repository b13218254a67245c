//! A table of figures as Markdown.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::report::SummaryFigure;

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FigureTarget {
    AtMost(f64),
    AtLeast(f64),
}

impl FigureTarget {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
        }
    }
}

/// The column of the summary: a usual host.
const SUMMARY_COLUMN: usize = 1;

/// A table. Rows are in the order of their first figure.
pub(crate) struct FigureTable {
    columns: Vec<String>,
    column: usize,
    rows: Vec<FigureRow>,
    missed: Vec<String>,
    summary: BTreeMap<SummaryFigure, String>,
}

/// A figure in each column of the table.
struct FigureRow {
    label: String,
    asked: String,
    figures: Vec<String>,
}

impl FigureTable {
    pub(crate) fn new(columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { columns, column: 0, rows: Vec::new(), missed: Vec::new(), summary: BTreeMap::new() }
    }

    /// Selects the column for the following figures.
    pub(crate) fn at(&mut self, column: usize) {
        self.column = column;
    }

    /// Sets a figure in the current column.
    pub(crate) fn set(&mut self, label: &str, figure: impl Into<String>) {
        let place = self.rows.iter().position(|row| row.label == label).unwrap_or_else(|| {
            let figures = vec![String::new(); self.columns.len()];
            self.rows.push(FigureRow { label: label.to_owned(), asked: String::new(), figures });
            self.rows.len() - 1
        });
        self.rows[place].figures[self.column] = figure.into();
    }

    /// Sets a figure that has a target in the columns from `from` on. `text` is the printed form.
    pub(crate) fn asked(&mut self, label: &str, figure: f64, text: String, asked: FigureTarget, from: usize) {
        self.set(label, text);
        if let Some(row) = self.rows.iter_mut().find(|row| row.label == label) {
            // Another host may have another target.
            if !row.asked.contains(&asked.text()) {
                let before = std::mem::take(&mut row.asked);
                row.asked = if before.is_empty() { asked.text() } else { format!("{before}, {}", asked.text()) };
            }
            if self.column >= from && !asked.is_met(figure) {
                row.figures[self.column].push_str(" (missed)");
                self.missed.push(format!("{label}, {}", self.columns[self.column]));
            }
        }
    }

    /// Sets a figure of the summary. Figures of columns other than `SUMMARY_COLUMN` are ignored.
    pub(crate) fn summarize(&mut self, about: SummaryFigure, figure: impl Into<String>) {
        if self.column == SUMMARY_COLUMN {
            self.summary.insert(about, figure.into());
        }
    }

    /// A figure of the summary.
    pub(crate) fn summary(&self, about: SummaryFigure) -> Option<&str> {
        self.summary.get(&about).map(String::as_str)
    }

    /// A figure of the column of the summary.
    pub(crate) fn figure(&self, label: &str) -> Option<&str> {
        self.rows.iter().find(|row| row.label == label)?.figures.get(SUMMARY_COLUMN).map(String::as_str)
    }

    /// The table as Markdown, with the missed targets in the last line.
    pub(crate) fn markdown(&self) -> String {
        let head = ["", "asked"].into_iter().chain(self.columns.iter().map(String::as_str)).map(str::to_owned);
        let rows =
            self.rows.iter().map(|row| [row.label.clone(), row.asked.clone()].into_iter().chain(row.figures.clone()));
        let lines: Vec<Vec<String>> = std::iter::once(head.collect()).chain(rows.map(Iterator::collect)).collect();
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0).max(3))
            .collect();
        let mut text = String::new();
        for (number, cells) in lines.iter().enumerate() {
            let cells = cells.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
                let blank = " ".repeat(width.saturating_sub(cell.chars().count()));
                if at < 2 { format!(" {cell}{blank} |") } else { format!(" {blank}{cell} |") }
            });
            text += &format!("|{}\n", cells.collect::<String>());
            if number == 0 {
                let rules = widths.iter().enumerate().map(|(at, &width)| {
                    let rule = "-".repeat(width + 1);
                    if at < 2 { format!("{rule}-|") } else { format!("{rule}:|") }
                });
                text += &format!("|{}\n", rules.collect::<String>());
            }
        }
        let missed = if self.missed.is_empty() { "none".to_owned() } else { self.missed.join("; ") };
        text + &format!("\nasked and missed: {missed}\n")
    }
}

/// Prints a progress message.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}

/// The median.
pub(crate) fn median<T: PartialOrd + Copy>(figures: &[T]) -> Option<T> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len() / 2).copied()
}

/// `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.2 ms`.
pub(crate) fn ms(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

/// `3.4 x`.
pub(crate) fn times(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.1} x", a / b) } else { "-".to_owned() }
}

/// `12.3 MiB`.
pub(crate) fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
