//! Prints hosts and views of a snapshot, from the archive alone: the daemon need not run.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;

use super::output::{Format, Rows};
use super::{Print, Section, Usage, ViewArgs, at};
use crate::config::Config;
use crate::query::table::{
    AsOf, Cell, Column, EXPOSED_USUAL, Select, View, ages, host_columns, host_row, place_of, select_rows, time_text,
};
use crate::query::{Answers as _, HostAnswers, HostSnapshot, QueryError};
use crate::run::runtime;

/// Runs [`super::Command::Hosts`].
pub(super) fn hosts(config: &Path, print: &Print) -> anyhow::Result<ExitCode> {
    let config = Config::load_without_kafka(config)?;
    let rows = runtime()?.block_on(async {
        let answers = HostAnswers::from_archive(&config.archive.dir).await?;
        answers.refresh_facts().await;
        anyhow::Ok(answers.hosts().await?)
    })?;
    let rows: Vec<Vec<Cell>> = rows.iter().map(host_row).collect();
    let (all, select) = (host_columns(), select(print));
    let rows = select_rows(&all, rows, &select).map_err(usage)?;
    let shown = shown(&all, print, &[])?;
    let columns: Vec<Column> = shown.iter().map(|&place| all[place].clone()).collect();
    let mut printer = Rows::new(BufWriter::new(io::stdout().lock()), print.format, &columns);
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|row| pick(row, &shown)).collect();
    rows.iter().for_each(|row| printer.measure(row));
    printer.begin()?;
    rows.iter().try_for_each(|row| printer.row(row))?;
    printer.end()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs [`super::Command::Processes`] and the other commands for a single view.
pub(super) fn view(config: &Path, view: View, args: &ViewArgs) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(config, args)?;
    if let Some(oldest_ns) = AsOf::new(&snapshot).oldest_ns().filter(|_| matches!(view, View::Processes | View::Files))
    {
        let rows = if view == View::Files { "files" } else { "rows" };
        let _ = writeln!(
            io::stderr().lock(),
            "{rows} as of {} UTC or later; column as_of has the time of each row",
            time_text(oldest_ns)
        );
    }
    let mut out = BufWriter::new(io::stdout().lock());
    print_view(&mut out, view, &snapshot, &args.print)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs [`super::Command::Psad`].
pub(super) fn psad(config: &Path, section: Option<Section>, args: &ViewArgs) -> anyhow::Result<ExitCode> {
    let format = args.print.format;
    let Some(section) = section else {
        if format == Format::Csv {
            return Err(Usage("CSV holds one table; choose it with --section".into()).into());
        }
        let snapshot = snapshot(config, args)?;
        say_what_is_missing(&snapshot);
        let mut out = BufWriter::new(io::stdout().lock());
        let separators = if format == Format::Json { ["{", ",", "}\n"] } else { ["", "\n", ""] };
        for (number, section) in Section::ALL.into_iter().enumerate() {
            write!(out, "{}", separators[usize::from(number > 0)])?;
            match format {
                Format::Json => write!(out, "\"{}\": ", section.name())?,
                _ => writeln!(out, "{}", section.heading())?,
            }
            print_view(&mut out, section.view(), &snapshot, &args.print)?;
        }
        write!(out, "{}", separators[2])?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    let snapshot = snapshot(config, args)?;
    if section.tells_of_sockets() {
        say_what_is_missing(&snapshot);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    print_view(&mut out, section.view(), &snapshot, &args.print)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Reports on standard error why sockets may be missing from the tables.
fn say_what_is_missing(snapshot: &HostSnapshot) {
    if let Some(missing) = snapshot.exposure().missing() {
        let missing = edr_wire::visible(missing.as_bytes());
        // Errors are ignored: standard error may be closed.
        let _ = writeln!(io::stderr().lock(), "sockets are missing from this snapshot: {missing}");
    }
}

/// Finds the snapshot and prints host, time and alarms on standard error.
fn snapshot(config: &Path, args: &ViewArgs) -> anyhow::Result<Arc<HostSnapshot>> {
    let config = Config::load_without_kafka(config)?;
    let now = Timestamp::now();
    let at_ns = args.at.as_deref().map(|text| at::parse(text, now)).transpose().map_err(Usage)?;
    let (snapshot, name) = runtime()?.block_on(async {
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
        anyhow::Ok((snapshot?, host))
    })?;
    let hostname = snapshot.view.host().map(|host| host.hostname).unwrap_or_default();
    let agent = snapshot.view.agent().unwrap_or_default();
    let mut note = format!(
        "{} ({}): snapshot of {} UTC, {}, seq {}",
        edr_wire::visible(hostname.as_bytes()),
        snapshot.host_id,
        time_text(snapshot.captured_ns),
        ages(snapshot.captured_ns, i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX)),
        snapshot.seq,
    );
    if let Some(at_ns) = at_ns {
        note.push_str(&format!("; the last one at or before {} UTC", time_text(at_ns)));
    }
    for alarm in &snapshot.alarms {
        note.push_str(&format!("\nalarm: {}", edr_wire::visible(alarm.as_bytes())));
    }
    for reason in &agent.degraded {
        note.push_str(&format!("\ndegraded: {}", edr_wire::visible(reason.as_bytes())));
    }
    // Errors are ignored: standard error may be closed.
    let _ = writeln!(io::stderr().lock(), "{note}");
    log::trace!("asked for {name}");
    Ok(snapshot)
}

/// Returns the id of the only host in the archive.
async fn only_host(answers: &HostAnswers) -> anyhow::Result<String> {
    let hosts = answers.hosts().await?;
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

fn print_view(out: &mut impl Write, view: View, snapshot: &HostSnapshot, print: &Print) -> anyhow::Result<()> {
    let all = view.columns();
    let shown = shown(&all, print, people(view))?;
    let columns: Vec<Column> = shown.iter().map(|&place| all[place].clone()).collect();
    let mut printer = Rows::new(out, print.format, &columns);
    let undecodable = if print.sort.is_some() {
        let table = view.table(snapshot, &select(print)).map_err(usage)?;
        let rows: Vec<Vec<Cell>> = table.rows.into_iter().map(|row| pick(row, &shown)).collect();
        rows.iter().for_each(|row| printer.measure(row));
        printer.begin()?;
        rows.iter().try_for_each(|row| printer.row(row))?;
        table.undecodable
    } else {
        let filter = print.filter.as_deref();
        if printer.must_measure() {
            view.each(snapshot, filter, &mut |row| printer.measure(&pick(row, &shown)));
        }
        printer.begin()?;
        let mut result = Ok(());
        let undecodable = view.each(snapshot, filter, &mut |row| {
            if result.is_ok() {
                result = printer.row(&pick(row, &shown));
            }
        });
        result?;
        undecodable
    };
    printer.end()?;
    if undecodable > 0 {
        writeln!(io::stderr().lock(), "{undecodable} rows could not be decoded").context("say what is missing")?;
    }
    Ok(())
}

/// Returns the columns for the table format, chosen to fit a terminal; empty for all. JSON and CSV have all columns.
fn people(view: View) -> &'static [&'static str] {
    match view {
        View::Processes => &[
            "user",
            "pid",
            "ppid",
            "cpu_percent",
            "memory_percent",
            "rss_bytes",
            "tty",
            "state",
            "start_time",
            "cpu_time",
            "comm",
            "argv",
        ],
        View::Files => &["comm", "pid", "user", "fd", "access", "kind", "dev", "size", "inode", "deleted", "path"],
        View::Sockets => {
            &["protocol", "state", "local", "local_port", "remote", "remote_port", "pids", "comm", "user", "path"]
        }
        View::Exposed => EXPOSED_USUAL,
        View::Contacts => &[
            "ip",
            "danger_level",
            "direction",
            "protocol",
            "state",
            "local",
            "local_port",
            "remote_port",
            "pid",
            "comm",
            "unit",
            "start_time",
            "exe",
        ],
        View::Packets => &["time", "prefix", "protocol", "src", "src_port", "dst", "dst_port", "flags", "interface_in"],
        _ => &[],
    }
}

/// Returns the indexes of the columns to print.
fn shown(all: &[Column], print: &Print, people: &[&str]) -> anyhow::Result<Vec<usize>> {
    let names: Vec<&str> = match print.columns.as_slice() {
        [] if print.format == Format::Table && !people.is_empty() => people.to_vec(),
        [] => all.iter().map(|column| column.name).collect(),
        [one] if one == "all" => all.iter().map(|column| column.name).collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    names.into_iter().map(|name| place_of(all, name.trim()).map_err(usage)).collect()
}

fn pick(mut row: Vec<Cell>, shown: &[usize]) -> Vec<Cell> {
    // A column named twice is printed twice.
    shown
        .iter()
        .enumerate()
        .map(|(at, &place)| {
            if shown[at + 1..].contains(&place) {
                row[place].clone()
            } else {
                std::mem::replace(&mut row[place], Cell::Empty)
            }
        })
        .collect()
}

fn select(print: &Print) -> Select {
    Select {
        filter: print.filter.clone(),
        sort: print.sort.clone(),
        descending: print.descending,
        page: 0,
        page_rows: 0,
    }
}

/// Turns an unknown column into a usage error.
fn usage(error: QueryError) -> anyhow::Error {
    match error {
        QueryError::UnknownColumn(..) => Usage(error.to_string()).into(),
        other => other.into(),
    }
}
