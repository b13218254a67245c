//! The report: all figures in `docs/bench.md`, and six of them in README.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use edr_tests::cache::checkout;

use crate::table::FigureTable;

/// The lines around the text of the report, in `docs/bench.md` and in README.
const BEGIN: &str = "<!-- script/bench writes from here -->\n";
const END: &str = "<!-- script/bench writes to here -->\n";

/// The figures of the summary, in their order in README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SummaryFigure {
    Cpu,
    Memory,
    DayBytes,
    Page,
    Lsof,
    Prototype,
}

impl SummaryFigure {
    const ALL: [Self; 6] = [Self::Cpu, Self::Memory, Self::DayBytes, Self::Page, Self::Lsof, Self::Prototype];

    fn label(self) -> &'static str {
        match self {
            Self::Cpu => "CPU of a snapshot, taken every 10 s",
            Self::Memory => "memory of the agent",
            Self::DayBytes => "bytes that a host sends in a day: 24 keys, 8,616 deltas",
            Self::Page => "from a tick to the page, median",
            Self::Lsof => "`lsof -nP` takes",
            Self::Prototype => "the prototype, a script of `ps aux` and one `lsof -p` for each process, takes",
        }
    }
}

/// Prints the table, and writes the table and its summary into both files.
///
/// # Errors
/// When a figure of the summary is missing, or when a file cannot be written.
pub(crate) fn write(table: &FigureTable) -> Result<()> {
    let machine = machine();
    let all = table.markdown();
    writeln!(std::io::stdout(), "{machine}\n\n{all}").context("print")?;
    let summary = summary(table)?;
    replace("README.md", &summary)?;
    replace("docs/bench.md", &format!("{machine}\n\n{summary}\n{all}"))
}

/// The summary as Markdown.
fn summary(table: &FigureTable) -> Result<String> {
    let of_host = |label| table.figure(label).with_context(|| format!("no figure: {label}"));
    let [processes, files, sockets] = [of_host("processes")?, of_host("open files")?, of_host("sockets")?];
    let mut text = format!(
        "| a usual host: {processes} processes, {files} open files, {sockets} sockets | measured |\n|---|--:|\n"
    );
    for about in SummaryFigure::ALL {
        let figure = table.summary(about).with_context(|| format!("no figure: {}", about.label()))?;
        text += &format!("| {} | {figure} |\n", about.label());
    }
    Ok(text)
}

/// Replaces the text between `BEGIN` and `END` in a file of the checkout.
fn replace(name: &str, text: &str) -> Result<()> {
    let path = checkout().join(name);
    let old = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
    let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{name} has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{name} has no line {END}"))?;
    fs::write(&path, format!("{before}{BEGIN}\n{text}\n{END}{after}")).with_context(|| format!("write {name}"))
}

/// One line: date, processors, memory, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory_kib: u64 = after(&meminfo, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let day = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let day = day.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let load = read("/proc/loadavg").split(' ').take(1).collect::<String>();
    format!(
        "{day}; {cores} x {}; {:.1} GiB; Linux {}; load average {load}",
        after(&cpuinfo, "model name"),
        memory_kib as f64 / (1 << 20) as f64,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
