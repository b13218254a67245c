//! Figures in columns, with the machine and the day they are of.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Rows in the order in which they were first set.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds the next column's figure to a row.
    pub(crate) fn set(&mut self, label: &str, figure: impl Into<String>) {
        match self.rows.iter_mut().find(|(known, _)| known == label) {
            Some((_, figures)) => figures.push(figure.into()),
            None => self.rows.push((label.to_owned(), vec![figure.into()])),
        }
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let mut line = |text: String| writeln!(out, "{text}").context("print");
        line(format!("\n{}", machine()))?;
        let widest = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        line(format!("{:widest$}{}", "", self.columns.iter().map(|c| format!("  {c:>22}")).collect::<String>()))?;
        for (label, figures) in &self.rows {
            let figures: String = figures.iter().map(|figure| format!("  {figure:>22}")).collect();
            line(format!("{label:widest$}{figures}"))?;
        }
        Ok(())
    }
}

/// What is going on, for someone who waits.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}

/// One line: day, processors, memory, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let day = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let day = day.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let load = read("/proc/loadavg").split(' ').take(1).collect::<String>();
    format!(
        "{day}; {cores} x {}; {}; Linux {}; load average {load}",
        after(&cpuinfo, "model name"),
        after(&meminfo, "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The middle one.
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
