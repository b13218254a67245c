//! The daemon at work: what a tick costs and what a frame weighs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_wire::frame::{Frame, FrameKind, Record, split_records};
use edr_wire::snapshot::Snapshot;

use crate::Bench;
use crate::table::{Table, grouped, median, ms, times};

/// Ticks that are looked at, a second apart.
const TICKS: usize = 30;
/// The first of them are left out of medians: the agent passes over nothing before it has seen its own numbers move.
const WARM_TICKS: usize = 5;

pub(crate) fn measure(bench: &Bench, table: &mut Table, name: &str) -> Result<()> {
    // Nobody listens there, so every frame stays in the spool.
    let plan = bench.plan(&format!("{name}-agent"), "127.0.0.1:1")?;
    let mut agent = plan.start()?;
    let files = agent.has_spooled(TICKS, Duration::from_secs(4 * TICKS as u64))?;
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", agent.process.pid())).context("read the agent's status")?;
    let rss_kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in the status")?;
    let rss_kib: u64 = rss_kib.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    agent.process.terminate(Duration::from_secs(10))?;

    let frames = read(&files)?;
    let newest = frames.last().context("no frame")?;
    let descriptors: usize = newest.snapshot.processes.iter().map(|process| process.files.len()).sum();
    table.set("processes", grouped(newest.snapshot.processes.len() as u64));
    table.set("open files", grouped(descriptors as u64));
    table.set("sockets", grouped(newest.snapshot.sockets.len() as u64));

    // A snapshot tells what the one before it cost.
    let costs: Vec<f64> = frames.iter().skip(1).map(|frame| collected(&frame.snapshot)).collect();
    let first = costs.first().copied().context("one frame")?;
    let steady = median(costs.get(WARM_TICKS..).context("few frames")?).context("few frames")?;
    let floor = floor(bench, "full")?;
    table.set("a tick of the daemon: first (everything is read), CPU", ms(first));
    table.set("  each later one, CPU", ms(steady));
    table.set("  a later one costs less by", times(first, steady));
    table.set("  least system calls, in C: everything", ms(floor));
    table.set("  least system calls, in C: what ran (skip)", ms(self::floor(bench, "skip")?));
    table.set("  first tick against the least for everything", times(first, floor));
    for source in ["encode", "frame", "spool"] {
        let cost: Vec<f64> = frames.iter().skip(WARM_TICKS).filter_map(|frame| cost(&frame.snapshot, source)).collect();
        if let Some(cost) = median(&cost) {
            table.set(&format!("  beside it, {source}, CPU"), ms(cost));
        }
    }
    table.set("  resident memory", format!("{:.1} MiB", rss_kib as f64 / 1024.0));

    let json = median(&frames.iter().map(|frame| frame.json_len).collect::<Vec<_>>()).context("no frame")?;
    let of = |kind| frames.iter().filter(|frame| frame.kind == kind).map(|frame| frame.len).collect::<Vec<_>>();
    let key = median(&of(FrameKind::Key)).context("no key frame")?;
    let delta = median(&of(FrameKind::Delta)).context("no delta frame")?;
    table.set("a snapshot as JSON, bytes", grouped(json));
    table.set("  as key frame", grouped(key));
    table.set("  as delta frame (median)", grouped(delta));
    table.set("  a key is smaller than JSON by", times(json as f64, key as f64));
    table.set("  a delta is smaller than JSON by", times(json as f64, delta as f64));
    Ok(())
}

struct Spooled {
    kind: FrameKind,
    len: u64,
    json_len: u64,
    snapshot: Snapshot,
}

fn read(files: &[PathBuf]) -> Result<Vec<Spooled>> {
    let mut keys: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut frames = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let records: Result<Vec<Record>> = split_records(&bytes).map(|record| Ok(Record::decode(record?)?)).collect();
        let frame = Frame::assemble(records?)?;
        let raw = frame.open(keys.get(&frame.header.base_seq).map(Vec::as_slice))?;
        let snapshot: Snapshot = rmp_serde::from_slice(&raw)?;
        let json_len = serde_json::to_vec(&snapshot)?.len() as u64;
        let kind = frame.header.kind;
        if kind == FrameKind::Key {
            keys.insert(frame.header.seq, raw);
        }
        frames.push(Spooled { kind, len: bytes.len() as u64, json_len, snapshot });
    }
    Ok(frames)
}

/// CPU seconds of all sources in the tick before this snapshot.
fn collected(snapshot: &Snapshot) -> f64 {
    let stages = ["encode", "frame", "spool"];
    let sources = snapshot.agent.cost.iter().filter(|cost| !stages.contains(&cost.source.as_str()));
    sources.map(|cost| cost.cpu_ns as f64 / 1e9).sum()
}

/// CPU seconds of one stage.
fn cost(snapshot: &Snapshot, stage: &str) -> Option<f64> {
    let found = snapshot.agent.cost.iter().find(|cost| cost.source == stage);
    found.map(|cost| cost.cpu_ns as f64 / 1e9)
}

/// Seconds of the C program; the first round fills its tables and is left out.
fn floor(bench: &Bench, mode: &str) -> Result<f64> {
    let output = Command::new(&bench.floor).args([mode, "6"]).output().context("run proc_floor")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rounds: Vec<f64> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next()?.parse::<f64>().ok())
        .map(|ms| ms / 1e3)
        .collect();
    ensure!(!rounds.is_empty(), "proc_floor printed {text:?}");
    median(&rounds).context("no round")
}
