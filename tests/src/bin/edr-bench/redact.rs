//! The two figures of redaction over the corpus of command lines, and the time of one command line.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use edr_tests::secrets::{LabelledCommand, RedactionFigures, corpus};

use crate::Bench;
use crate::table::{FigureTable, FigureTarget, grouped};

/// The corpus is read this many times for the time of one command line.
const ROUNDS: usize = 20;

pub(crate) fn measure(bench: &Bench, table: &mut FigureTable) -> Result<()> {
    let commands = corpus();
    let redacted = redacted(bench, &commands)?;
    let mut figures = RedactionFigures::default();
    for (command, redacted) in commands.iter().zip(&redacted) {
        figures.add(command, redacted);
    }
    table.set("command lines with labelled secrets, for redaction", grouped(figures.commands as u64));
    let (missed, hidden) = (figures.missed.len(), figures.hidden.len());
    table.asked("  secrets missed", missed as f64, missed.to_string(), FigureTarget::AtMost(0.0), 0);
    table.asked("  harmless words hidden", hidden as f64, hidden.to_string(), FigureTarget::AtMost(0.0), 0);
    let all: Vec<LabelledCommand> = commands.iter().cycle().take(ROUNDS * commands.len()).cloned().collect();
    let (once, start) = (self::redacted(bench, &[])?.len(), Instant::now());
    ensure!(once == 0, "no input gave output");
    self::redacted(bench, &all)?;
    let each = start.elapsed().as_secs_f64() / all.len() as f64;
    table.set("  redaction of a command line", format!("{:.1} µs", each * 1e6));
    Ok(())
}

/// What `edr-agentd redact` makes of command lines.
fn redacted(bench: &Bench, commands: &[LabelledCommand]) -> Result<Vec<Vec<String>>> {
    let config = bench.config("redact")?;
    let mut command = Command::new(&bench.agent);
    command.args(["redact", "--config", &config]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("run edr-agentd redact")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input: String =
        commands.iter().map(|command| format!("{}\0\n", command.argv.join("\0"))).collect::<Vec<_>>().concat();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().context("read edr-agentd redact")?;
    ensure!(output.status.success(), "edr-agentd redact ended with {}", output.status);
    writer.join().ok().context("the input was not written")?.context("write command lines")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let arguments = |line: &str| line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    Ok(text.lines().map(arguments).collect())
}
