//! The running daemon: sizes of frames, and memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use edr_wire::frame::{Frame, FrameKind, Record, split_records};
use edr_wire::snapshot::Snapshot;

use crate::Bench;
use crate::report::SummaryFigure;
use crate::table::{FigureTable, FigureTarget, grouped, median, mib, ms, times};

/// Measured ticks, one second apart.
const TICKS: usize = 25;
/// Ticks at the start that are left out of the medians: at first the agent reads every process, until the kernel's
/// counters have proved to count.
const WARM_TICKS: usize = 5;
/// Frames of a day with the default interval of 10 s, and the keys among them, one an hour.
const DAY_FRAMES: u64 = 8_640;
const DAY_KEYS: u64 = 24;

/// `memory_mib_max`: target for the daemon's resident memory on this host, MiB.
pub(crate) fn measure(bench: &Bench, table: &mut FigureTable, name: &str, memory_mib_max: Option<f64>) -> Result<()> {
    // The broker's address does not answer, so every frame stays in the spool.
    let plan = bench.plan(&format!("{name}-agent"), "127.0.0.1:1")?;
    let mut agent = plan.start()?;
    agent.has_spooled(WARM_TICKS, Duration::from_secs(60))?;
    let (first_kib, _) = memory_kib(agent.process.pid())?;
    let files = agent.has_spooled(TICKS, Duration::from_secs(8 * TICKS as u64))?;
    let (last_kib, peak_kib) = memory_kib(agent.process.pid())?;
    agent.process.terminate(Duration::from_secs(10))?;

    let frames = read(&files)?;
    for stage in ["encode", "frame", "spool"] {
        let cost: Vec<f64> = frames.iter().skip(WARM_TICKS).filter_map(|frame| cost(&frame.snapshot, stage)).collect();
        if let Some(cost) = median(&cost) {
            table.set(&format!("the daemon: {stage}, CPU"), ms(cost));
        }
    }
    let (label, last_mib) = ("the daemon: resident memory, MiB", last_kib as f64 / 1024.0);
    match memory_mib_max {
        Some(most) => table.asked(label, last_mib, format!("{last_mib:.1}"), FigureTarget::AtMost(most), 0),
        None => table.set(label, format!("{last_mib:.1}")),
    }
    table.summarize(SummaryFigure::Memory, mib(last_kib));
    table.set("… after five ticks / at its highest", format!("{} / {}", mib(first_kib), mib(peak_kib)));

    let json = median(&frames.iter().map(|frame| frame.json_len).collect::<Vec<_>>()).context("no frame")?;
    let of = |kind| frames.iter().filter(|frame| frame.kind == kind).map(|frame| frame.len).collect::<Vec<_>>();
    let key = median(&of(FrameKind::Key)).context("no key frame")?;
    let delta = median(&of(FrameKind::Delta)).context("no delta frame")?;
    table.summarize(SummaryFigure::DayBytes, mib((DAY_KEYS * key + (DAY_FRAMES - DAY_KEYS) * delta) / 1024));
    table.set("a snapshot as JSON, bytes", grouped(json));
    table.set("… as key frame", grouped(key));
    table.set("… as delta frame", grouped(delta));
    table.set("… a key is smaller than JSON by", times(json as f64, key as f64));
    let smaller = json as f64 / delta as f64;
    table.asked(
        "… a delta is smaller than JSON by",
        smaller,
        format!("{smaller:.0} x"),
        FigureTarget::AtLeast(100.0),
        0,
    );
    Ok(())
}

/// `VmRSS` and `VmHWM` of a process, KiB.
fn memory_kib(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the agent's status")?;
    let figure = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} is no number"))
    };
    Ok((figure("VmRSS:")?, figure("VmHWM:")?))
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

/// CPU seconds of one stage.
fn cost(snapshot: &Snapshot, stage: &str) -> Option<f64> {
    let found = snapshot.agent.cost.iter().find(|cost| cost.source == stage);
    found.map(|cost| cost.cpu_ns as f64 / 1e9)
}
