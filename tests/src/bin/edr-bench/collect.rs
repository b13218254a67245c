//! The cost of collection alone: a full read, a usual tick, the least system calls for the same work, and competing
//! tools.
//!
//! Ratios are ratios of CPU time, which further load on the machine disturbs less than wall time; wall time is printed
//! beside. Comparisons with commands are the exception: wall time comes first there, because a command waits for its
//! children.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use edr_tests::cache::checkout;
use serde_json::Value;

use crate::Bench;
use crate::report::SummaryFigure;
use crate::run::{CommandTime, runs};
use crate::table::{FigureTable, FigureTarget, grouped, median, ms};

/// Agent and baseline are measured in turn, so that both run under the same conditions.
const TURNS: usize = 3;
/// The default interval between two ticks.
const INTERVAL_SECONDS: f64 = 10.0;
/// The sources of the collection, without the later stages.
const SOURCES: [&str; 4] = ["host", "processes", "sockets", "psad"];

/// `targets_from`: the first column in which the targets apply.
pub(crate) fn measure(bench: &Bench, table: &mut FigureTable, name: &str, targets_from: usize) -> Result<()> {
    let config = bench.config(&format!("{name}-cost"))?;
    let (mut floors, mut skips, mut agents) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        floors.push(floor(bench, "full")?);
        skips.push(floor(bench, "skip")?);
        agents.push(cost(bench, &config, &["--rounds", "3", "--every", "0.5"])?);
    }
    floors.push(floor(bench, "full")?);
    let last = agents.last().context("no turn")?;
    let number = |name: &str| last[name].as_u64().unwrap_or(0);
    table.set("processes", grouped(number("processes")));
    table.set("open files", grouped(number("open_files")));
    table.set("sockets", grouped(number("sockets")));
    table.set("snapshot, bytes", grouped(number("snapshot_bytes")));

    let of = |phase: &str, sources: &[&str]| middle(agents.iter().map(|agent| took(agent, phase, sources)));
    let both = |took: CommandTime| format!("{} / {}", ms(took.cpu), ms(took.wall));
    let [full, steady, between] = ["full", "steady", "between"].map(|phase| of(phase, &["processes"]));
    let floor = middle(floors.into_iter().map(Ok))?;
    let skip = middle(skips.into_iter().map(Ok))?;
    let (full, steady, between) = (full?, steady?, between?);
    let ratio = |table: &mut FigureTable, label: &str, a: CommandTime, b: CommandTime, most: f64| {
        table.asked(label, a.cpu / b.cpu, format!("{:.3}", a.cpu / b.cpu), FigureTarget::AtMost(most), targets_from);
    };
    table.set("processes and open files, all read: CPU / wall", both(full));
    table.set("the least system calls for it, in C (`proc_floor full`)", both(floor));
    ratio(table, "… all read against the least", full, floor, 1.2);
    table.set("a usual tick: what ran, and a sixth of the rest", both(steady));
    let sixth = CommandTime { wall: skip.wall + floor.wall / 6.0, cpu: skip.cpu + floor.cpu / 6.0 };
    table.set("the least for it, in C (`skip` and a sixth of `full`)", both(sixth));
    ratio(table, "… against all read", steady, full, 0.30);
    table.set("a tick without a share of the rest: what ran", both(between));
    ratio(table, "… against all read, without a share", between, full, 0.10);
    for (label, source) in [("host facts", "host"), ("sockets, all read in every tick", "sockets")] {
        table.set(&format!("beside it, {label}"), both(of("steady", &[source])?));
    }
    table.set("beside it, encoding", both(of("steady", &["encode"])?));
    table.set("beside it, compressing (delta)", both(of("steady", &["frame"])?));

    let calls = |phase: &str| cost_of(last, phase, "processes").and_then(|cost| cost["syscalls"].as_u64());
    let per = |calls: Option<u64>| Some(format!("{:.2}", calls? as f64 / number("open_files").max(1) as f64));
    let told = ["full", "steady", "between"].map(|phase| per(calls(phase)).unwrap_or_else(|| "?".to_owned()));
    table.set("system calls per open file: all / usual / no share", told.join(" / "));
    let traced =
        traced_calls(bench, &config)?.map(|calls| format!("{:.2}", calls as f64 / number("open_files").max(1) as f64));
    table.set("`strace -c` of one snapshot command, per open file", traced.unwrap_or_else(|| "no strace".to_owned()));

    let usual = of("steady", &SOURCES)?;
    table.set("all sources of a usual tick together", both(usual));
    let tick = of("steady", &[&SOURCES[..], &["encode", "frame"]].concat())?;
    let percent = tick.cpu / INTERVAL_SECONDS * 100.0;
    table.summarize(SummaryFigure::Cpu, format!("{}, {percent:.2} % of one processor", ms(tick.cpu)));
    let prototype = checkout().join("bench/prototype_cycle.py");
    let prototype = prototype.to_string_lossy();
    let prototype_label = "the prototype: `ps aux`, one `lsof -p` for each, JSON";
    for (name, label, program, args, count, least, summary) in [
        ("lsof -Ki", "`lsof -nP -Ki`", "lsof", &["-nP", "-Ki"][..], 5, 10.0, None),
        ("lsof", "`lsof -nP`", "lsof", &["-nP"], 3, 50.0, Some(SummaryFigure::Lsof)),
        ("the prototype", prototype_label, "python3", &[&*prototype], 1, 300.0, Some(SummaryFigure::Prototype)),
    ] {
        let theirs = runs(Path::new(program), args, count)?;
        table.set(&format!("{label}: CPU / wall"), both(theirs));
        if let Some(about) = summary {
            let [cpu, wall] = [theirs.cpu / steady.cpu, theirs.wall / steady.wall];
            table.summarize(about, format!("{cpu:.0} x the CPU, {wall:.0} x the time"));
        }
        for (what, ours) in [("a usual tick", steady), ("one without a share", between)] {
            let by = theirs.wall / ours.wall;
            let text = format!("{by:.0} x / {:.0} x", theirs.cpu / ours.cpu);
            let label = format!("… {name} against {what}: wall / CPU");
            table.asked(&label, by, text, FigureTarget::AtLeast(least), targets_from);
        }
    }
    Ok(())
}

/// The output of `edr-agentd cost`.
pub(crate) fn cost(bench: &Bench, config: &str, args: &[&str]) -> Result<Value> {
    let output = Command::new(&bench.agent)
        .args(["cost", "--format", "json", "--config", config])
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("run edr-agentd cost")?;
    ensure!(output.status.success(), "edr-agentd cost ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("read what edr-agentd cost says")
}

fn cost_of<'v>(measured: &'v Value, phase: &str, source: &str) -> Option<&'v Value> {
    let phase = measured["phases"].as_array()?.iter().find(|found| found["name"] == phase)?;
    phase["cost"].as_array()?.iter().find(|found| found["source"] == source)
}

/// Seconds of several sources together.
fn took(measured: &Value, phase: &str, sources: &[&str]) -> Result<CommandTime> {
    let mut sum = CommandTime { wall: 0.0, cpu: 0.0 };
    for source in sources {
        let cost = cost_of(measured, phase, source).with_context(|| format!("no cost of {source}, {phase}"))?;
        let seconds = |figure: &str| cost[figure].as_f64().map(|ns| ns / 1e9).context("a cost is no number");
        sum.wall += seconds("wall_ns")?;
        sum.cpu += seconds("cpu_ns")?;
    }
    Ok(sum)
}

fn middle(all: impl Iterator<Item = Result<CommandTime>>) -> Result<CommandTime> {
    let all = all.collect::<Result<Vec<CommandTime>>>()?;
    let of = |figure: fn(&CommandTime) -> f64| median(&all.iter().map(figure).collect::<Vec<_>>()).context("no figure");
    Ok(CommandTime { wall: of(|took| took.wall)?, cpu: of(|took| took.cpu)? })
}

/// The time of the C program. The first round is left out, as for the agent.
fn floor(bench: &Bench, mode: &str) -> Result<CommandTime> {
    let output = Command::new(&bench.floor).args([mode, "4"]).output().context("run proc_floor")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let round = |line: &str| {
        let mut words = line.split(' ');
        let wall: f64 = words.next()?.parse().ok()?;
        let cpu: f64 = words.nth(1)?.parse().ok()?;
        Some(CommandTime { wall: wall / 1e3, cpu: cpu / 1e3 })
    };
    let rounds: Vec<CommandTime> = text.lines().skip(1).filter_map(round).collect();
    ensure!(!rounds.is_empty(), "proc_floor printed {text:?}");
    middle(rounds.into_iter().map(Ok))
}

/// All system calls of one `edr-agentd snapshot`, including start, end and hashing; `None` without strace.
fn traced_calls(bench: &Bench, config: &str) -> Result<Option<u64>> {
    let summary = bench.scene.path().join("strace");
    let traced = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&summary)
        .arg(&bench.agent)
        .args(["snapshot", "--format", "msgpack", "--config", config])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let summary = std::fs::read_to_string(&summary).context("read what strace counted")?;
    let total = summary.lines().find(|line| line.trim_end().ends_with(" total")).context("strace has no total")?;
    Ok(total.split_ascii_whitespace().nth(3).and_then(|calls| calls.parse().ok()))
}
