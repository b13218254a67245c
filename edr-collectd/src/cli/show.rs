//! Prints hosts and tables of a snapshot, from the archive alone: the daemon need not run.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use edr_archive::DamagedFile;
use edr_daemon::exit;
use edr_model::tables::HOSTS;
use edr_model::{AsOf, SnapshotTable, Table, ages, moment, time_text};
use jiff::Timestamp;

use super::output::{Choice, Format, Print, Printed, print};
use super::tables::sections;
use super::{Usage, ViewArgs};
use crate::config::Config;
use crate::query::{HostAnswers, HostSnapshot, QueryError};
use crate::run::runtime;

/// Damaged files named by a command; further files are counted.
const DAMAGED_FILES_MAX: usize = 8;
/// Losses named above a table; `edr-collectd losses` has all.
const LOSS_LINES_MAX: usize = 8;

/// Runs [`super::Command::Hosts`].
pub(super) fn hosts(config: &Path, args: &Print) -> anyhow::Result<ExitCode> {
    let choice = args.choice(&HOSTS, now_ns())?;
    let config = Config::load_without_kafka(config)?;
    let (rows, damaged) = runtime()?.block_on(async {
        let answers = HostAnswers::from_archive(&config.archive.dir).await?;
        answers.refresh_facts().await;
        anyhow::Ok((answers.hosts(), answers.damaged_files()))
    })?;
    print_table(&mut BufWriter::new(io::stdout().lock()), &HOSTS, rows.as_slice(), args, &choice)?;
    name_damaged_files(&damaged);
    Ok(exit_code(&damaged))
}

/// Names the damaged files of the archive on standard error.
fn name_damaged_files(damaged: &[DamagedFile]) {
    let mut error = io::stderr().lock();
    // Errors are ignored: standard error may be closed.
    for file in damaged.iter().take(DAMAGED_FILES_MAX) {
        let _ = writeln!(error, "alarm: {file}");
    }
    if let Some(more) = damaged.len().checked_sub(DAMAGED_FILES_MAX).filter(|more| *more > 0) {
        let _ = writeln!(error, "alarm: rows of {more} more files that cannot be read are missing");
    }
}

/// Returns the exit code of an answer, which is incomplete when files of the archive cannot be read.
fn exit_code(damaged: &[DamagedFile]) -> ExitCode {
    if damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::INCOMPLETE) }
}

/// Runs [`super::Command::Table`].
pub(super) fn table(config: &Path, table: &SnapshotTable, args: &ViewArgs) -> anyhow::Result<ExitCode> {
    let at_ns = at_ns(args)?;
    let choice = args.print.choice(table, at_ns.unwrap_or_else(now_ns))?;
    let (snapshot, damaged) = snapshot(config, args, at_ns)?;
    if let Some((rows, oldest_ns)) = table.about.aged.zip(AsOf::new(&snapshot).oldest_ns()) {
        // Errors are ignored: standard error may be closed.
        let _ = writeln!(
            io::stderr().lock(),
            "{} as of {} UTC or later; column as_of has the time of each row",
            rows.to_lowercase(),
            time_text(oldest_ns)
        );
    }
    let mut out = BufWriter::new(io::stdout().lock());
    print_table(&mut out, table, &snapshot, &args.print, &choice)?;
    out.flush()?;
    Ok(exit_code(&damaged))
}

/// Runs [`super::Command::Psad`].
pub(super) fn psad(
    config: &Path,
    section: Option<&'static SnapshotTable>,
    args: &ViewArgs,
) -> anyhow::Result<ExitCode> {
    let format = args.print.format;
    let at_ns = at_ns(args)?;
    let now_ns = at_ns.unwrap_or_else(now_ns);
    let Some(section) = section else {
        if format == Format::Csv {
            return Err(Usage("CSV holds one table; choose it with --section".into()).into());
        }
        let mut choices = Vec::new();
        for section in sections() {
            let choice = args.print.choice(section, now_ns);
            let advice = || format!("section {}; --section prints a single section", section.about.slug);
            choices.push((section, choice.with_context(advice)?));
        }
        let (snapshot, damaged) = snapshot(config, args, at_ns)?;
        say_what_is_missing(&snapshot);
        let mut out = BufWriter::new(io::stdout().lock());
        let separators = if format == Format::Json { ["{", ",", "}\n"] } else { ["", "\n", ""] };
        for (number, (section, choice)) in choices.iter().enumerate() {
            write!(out, "{}", separators[usize::from(number > 0)])?;
            match format {
                Format::Json => write!(out, "\"{}\": ", section.about.name)?,
                _ => writeln!(out, "{}", section.about.words())?,
            }
            print_table(&mut out, section, &snapshot, &args.print, choice)?;
        }
        write!(out, "{}", separators[2])?;
        out.flush()?;
        return Ok(exit_code(&damaged));
    };
    let choice = args.print.choice(section, now_ns)?;
    let (snapshot, damaged) = snapshot(config, args, at_ns)?;
    if section.about.needs_sockets {
        say_what_is_missing(&snapshot);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    print_table(&mut out, section, &snapshot, &args.print, &choice)?;
    out.flush()?;
    Ok(exit_code(&damaged))
}

/// Reports on standard error why sockets may be missing from the tables.
fn say_what_is_missing(snapshot: &HostSnapshot) {
    if let Some(missing) = snapshot.exposure().missing() {
        let missing = edr_wire::visible(missing.as_bytes());
        // Errors are ignored: standard error may be closed.
        let _ = writeln!(io::stderr().lock(), "sockets are missing from this snapshot: {missing}");
    }
}

/// Returns the clock, ns since the epoch.
fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Returns the requested moment, ns since the epoch.
fn at_ns(args: &ViewArgs) -> anyhow::Result<Option<i64>> {
    let moment = args.at.as_deref().map(|text| moment::parse(text, now_ns())).transpose().map_err(Usage)?;
    Ok(moment.map(|moment| moment.from_ns))
}

/// Finds the snapshot at `at_ns`, or the newest, and prints host, time and alarms on standard error. Also returns the
/// damaged files that may have rows of the host.
fn snapshot(
    config: &Path,
    args: &ViewArgs,
    at_ns: Option<i64>,
) -> anyhow::Result<(Arc<HostSnapshot>, Vec<DamagedFile>)> {
    let config = Config::load_without_kafka(config)?;
    let (snapshot, mut damaged, name, row) = runtime()?.block_on(async {
        let answers = HostAnswers::from_archive(&config.archive.dir).await?;
        let host = match &args.host {
            Some(host) => host.clone(),
            None => only_host(&answers).await?,
        };
        let mut snapshot = answers.snapshot(&host, at_ns).await;
        if matches!(snapshot, Err(QueryError::UnknownHost(_))) {
            // Host names are inside snapshots, and snapshots archived since the last save of the hosts are not opened
            // yet.
            answers.refresh_facts().await;
            snapshot = answers.snapshot(&host, at_ns).await;
        }
        let damaged = answers.damaged_files();
        if snapshot.is_err() {
            name_damaged_files(&damaged);
        }
        let snapshot = snapshot?;
        let row = if at_ns.is_none() { answers.host(snapshot.host_id) } else { None };
        anyhow::Ok((snapshot, damaged, host, row))
    })?;
    let id = snapshot.host_id.to_string();
    damaged.retain(|file| file.may_have(&id));
    let hostname = snapshot.view.host().map(|host| host.hostname).unwrap_or_default();
    let agent = snapshot.view.agent().unwrap_or_default();
    let mut note = format!(
        "{} ({}): snapshot of {} UTC, {}, seq {}",
        edr_wire::visible(hostname.as_bytes()),
        snapshot.host_id,
        time_text(snapshot.captured_ns),
        ages(snapshot.captured_ns, now_ns()),
        snapshot.seq,
    );
    if let Some(at_ns) = at_ns {
        note.push_str(&format!("; the last one at or before {} UTC", time_text(at_ns)));
    }
    note.push_str(&account_note(&snapshot));
    for alarm in row.iter().flat_map(|row| &row.alarms).chain(&snapshot.alarms) {
        note.push_str(&format!("\nalarm: {}", edr_wire::visible(alarm.as_bytes())));
    }
    for reason in &agent.degraded {
        note.push_str(&format!("\ndegraded: {}", edr_wire::visible(reason.as_bytes())));
    }
    // Errors are ignored: standard error may be closed.
    let _ = writeln!(io::stderr().lock(), "{note}");
    log::trace!("asked for {name}");
    Ok((snapshot, damaged))
}

/// Returns the lines about archived and missing frames of the retained time.
fn account_note(snapshot: &HostSnapshot) -> String {
    let account = &snapshot.account;
    let since = account.since_ns.map(|ns| format!(" since {} UTC", time_text(ns))).unwrap_or_default();
    let last = account.last.map(|(epoch, seq)| format!(", last seq {seq} of epoch {epoch}")).unwrap_or_default();
    let mut note = format!("\narchive: {} frames{since}{last}; {}", account.archived, account.brief());
    for line in account.lines(LOSS_LINES_MAX) {
        note.push_str(&format!("\n{}", edr_wire::visible(line.as_bytes())));
    }
    note
}

/// Returns the id of the only host in the archive.
async fn only_host(answers: &HostAnswers) -> anyhow::Result<String> {
    let hosts = answers.hosts();
    match hosts.as_slice() {
        [only] => Ok(only.host_id.to_string()),
        [] => Err(anyhow::anyhow!("the archive has no host yet")),
        several => Err(Usage(format!(
            "there are {} hosts; name one with --host (`edr-collectd hosts` lists them)",
            several.len()
        ))
        .into()),
    }
}

/// Prints a table, and on standard error why rows are missing.
fn print_table<I: ?Sized>(
    out: &mut impl Write,
    table: &Table<I>,
    input: &I,
    args: &Print,
    choice: &Choice,
) -> anyhow::Result<()> {
    let Printed { rows, undecodable } = print(out, table, input, args, choice)?;
    if rows == 0 && !choice.filter.is_empty() {
        // Errors are ignored: standard error may be closed.
        let _ = writeln!(io::stderr().lock(), "no {} with: {}", table.about.noun, choice.filter);
    }
    if undecodable > 0 {
        writeln!(io::stderr().lock(), "{undecodable} rows could not be decoded").context("say what is missing")?;
    }
    Ok(())
}
