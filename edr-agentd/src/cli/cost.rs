//! `cost`: measures the cost of each source on this host.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use edr_sources::common::cost::measured;
use edr_sources::{Sources, Tick};
use edr_wire::Epoch;
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind};
use edr_wire::snapshot::{Agent, SnapshotView, SourceCost};
use serde::Serialize;

use super::{CostFormat, show};
use crate::config::Config;
use crate::run::Overrides;
use crate::sample::{budget, source_settings};

/// Maximum number of readings before the measurement. The readings continue until every executable has its hash, since
/// hashing has a budget per tick.
const WARM_UP_MAX: u32 = 200;
/// Number of readings before the steady phase: at first the agent reads every process, until its own counters have
/// shown that the kernel counts run time.
const SETTLE: u32 = 3;

/// Parameters of the measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    pub(super) count: u32,
    pub(super) every: Duration,
    pub(super) format: CostFormat,
}

/// The results.
#[derive(Debug, Serialize)]
struct CostReport {
    rounds: u32,
    every_ms: u64,
    processes: usize,
    open_files: u64,
    sockets: usize,
    snapshot_bytes: usize,
    /// Resident memory (`VmRSS`), KiB: after the first round, after [`SETTLED`] rounds, and after the last round;
    /// absent when the kernel does not report the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_rss_kib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_rss_kib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_rss_kib: Option<u64>,
    phases: Vec<Phase>,
}

/// Number of rounds until every buffer is in use: the first frame is a key; the second is a delta, which needs more
/// memory.
const SETTLED: u32 = 2;

/// A kind of reading, by the share of rows read again.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    #[serde(skip)]
    meaning: String,
    /// The median of all rounds, for each figure separately.
    cost: Vec<SourceCost>,
}

/// Reads the host repeatedly, first every row and then as the daemon does, and prints the cost.
pub(super) fn cost(path: &Path, overrides: &Overrides, rounds: Rounds) -> anyhow::Result<ExitCode> {
    let config = show::config_or_default(path, overrides)?;
    let mut host = HostProbe::at(&config, overrides)?;
    let configured = config.processes.reread_interval;
    let interval_ns = config.interval.as_nanos().max(1);
    let phases = vec![
        host.phase(rounds, Duration::ZERO, "full", "every row is read".to_owned()),
        host.phase(
            rounds,
            configured,
            "steady",
            format!(
                "processes that ran, and 1 of {} of the rest (reread-interval)",
                (configured.as_nanos() / interval_ns).max(1)
            ),
        ),
        host.phase(
            rounds,
            Duration::MAX,
            "between",
            "only processes that ran: a tick without a reread turn".to_owned(),
        ),
    ];
    let last_rss_kib = rss_kib();
    let view = SnapshotView::parse(host.tick.encode(&Agent::default()))?;
    let mut open_files = 0;
    for process in view.processes() {
        open_files += process?.files_total.unwrap_or(0);
    }
    let measured = CostReport {
        rounds: rounds.count,
        every_ms: u64::try_from(rounds.every.as_millis()).unwrap_or(u64::MAX),
        processes: view.process_count(),
        open_files,
        sockets: view.socket_count(),
        snapshot_bytes: view.raw().len(),
        first_rss_kib: host.first_rss_kib,
        settled_rss_kib: host.settled_rss_kib,
        last_rss_kib,
        phases,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match rounds.format {
        CostFormat::Json => {
            serde_json::to_writer(&mut out, &measured)?;
            writeln!(out)?;
        }
        CostFormat::Table => print(&measured, &mut out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The open sources, and the state needed to make frames of readings.
struct HostProbe<'a> {
    config: &'a Config,
    sources: Sources,
    tick: Tick,
    key: Option<Vec<u8>>,
    first_rss_kib: Option<u64>,
    settled_rss_kib: Option<u64>,
}

impl<'a> HostProbe<'a> {
    /// Opens the sources and reads until every executable has its hash. An executable is hashed only once, so hashing
    /// is not measured.
    fn at(config: &'a Config, overrides: &Overrides) -> anyhow::Result<Self> {
        let mut looked = Self {
            config,
            sources: Sources::open(source_settings(config, overrides.proc_root(), &Arc::default())?, &[])?,
            tick: Tick::new(budget(config)),
            key: None,
            first_rss_kib: None,
            settled_rss_kib: None,
        };
        for _ in 0..WARM_UP_MAX {
            looked.read();
            let view = SnapshotView::parse(looked.tick.encode(&Agent::default()))?;
            let waits =
                view.processes().flatten().filter_map(|process| process.exe?.not_hashed).any(|why| why == "budget");
            if !waits {
                break;
            }
        }
        Ok(looked)
    }

    fn read(&mut self) {
        self.sources.read(&mut self.tick);
    }

    fn phase(&mut self, rounds: Rounds, reread: Duration, name: &'static str, meaning: String) -> Phase {
        self.tick.budget.reread_interval = reread;
        if reread > Duration::ZERO {
            for _ in 0..SETTLE {
                self.read();
                std::thread::sleep(rounds.every);
            }
        }
        let mut all = Figures::default();
        for round in 1..=rounds.count {
            std::thread::sleep(rounds.every);
            all.add(&self.round());
            if self.first_rss_kib.is_none() {
                self.first_rss_kib = rss_kib();
            }
            if self.settled_rss_kib.is_none() && round == SETTLED {
                self.settled_rss_kib = rss_kib();
            }
        }
        Phase { name, meaning, cost: all.middle() }
    }

    /// One tick, without the spool.
    fn round(&mut self) -> Vec<SourceCost> {
        self.read();
        let mut cost = self.tick.cost.clone();
        let raw = measured(&mut cost, "encode", || {
            let raw = self.tick.encode(&Agent::default());
            let bytes = raw.len();
            (raw, bytes)
        });
        // The first frame is a key; each later frame is a delta against this key.
        let header = FrameHeader {
            host_id: self.tick.host.host_id,
            epoch: Epoch([0; 8]),
            seq: if self.key.is_some() { 2 } else { 1 },
            kind: if self.key.is_some() { FrameKind::Delta } else { FrameKind::Key },
            base_seq: 1,
            boot_id: self.tick.host.boot_id.clone(),
            previous_epoch: None,
            captured_ns: self.tick.time.wall_ns,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        measured(&mut cost, "frame", || {
            let part_bytes_max = self.config.kafka.part_bytes_max;
            let frame = EncodedFrame::encode(&header, &raw, self.key.as_deref(), part_bytes_max);
            // A snapshot too large for a frame counts as 0 bytes.
            ((), frame.as_ref().map_or(0, EncodedFrame::byte_len))
        });
        self.key.get_or_insert(raw);
        cost
    }
}

/// The cost of all rounds of a phase, by source. Only numbers are kept: a thousand rounds must not appear as memory of
/// the agent.
#[derive(Debug, Default)]
struct Figures(Vec<(SourceCost, [Vec<u64>; 6])>);

impl Figures {
    fn add(&mut self, round: &[SourceCost]) {
        for cost in round {
            let place = self.0.iter().position(|(known, _)| known.source == cost.source).unwrap_or_else(|| {
                self.0.push((cost.clone(), Default::default()));
                self.0.len() - 1
            });
            let calls = (cost.syscalls.unwrap_or(0), cost.read_bytes.unwrap_or(0));
            let figures = [cost.cpu_ns, cost.wall_ns, cost.produced, cost.carried, calls.0, calls.1];
            for (all, figure) in self.0[place].1.iter_mut().zip(figures) {
                all.push(figure);
            }
        }
    }

    /// The median of each figure of each source.
    fn middle(self) -> Vec<SourceCost> {
        let of = |(cost, figures): (SourceCost, [Vec<u64>; 6])| {
            let [cpu_ns, wall_ns, produced, carried, syscalls, read_bytes] = figures.map(|mut all| {
                all.sort_unstable();
                all.get(all.len() / 2).copied().unwrap_or(0)
            });
            let (syscalls, read_bytes) = (cost.syscalls.map(|_| syscalls), cost.read_bytes.map(|_| read_bytes));
            SourceCost { source: cost.source, cpu_ns, wall_ns, produced, carried, syscalls, read_bytes }
        };
        self.0.into_iter().map(of).collect()
    }
}

/// Resident memory of this process, KiB (proc_pid_status(5)).
fn rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn print(measured: &CostReport, out: &mut impl Write) -> io::Result<()> {
    let CostReport { rounds, every_ms, processes, open_files, sockets, snapshot_bytes, phases, .. } = measured;
    writeln!(
        out,
        "{processes} processes, {open_files} open files, {sockets} sockets; a snapshot of {snapshot_bytes} bytes. \
        Medians of \
        {rounds} rounds, {} s apart.",
        *every_ms as f64 / 1e3,
    )?;
    for Phase { name, meaning, cost } in phases {
        writeln!(out, "\n{name}: {meaning}")?;
        writeln!(
            out,
            "  {:<10} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10}",
            "SOURCE", "WALL ms", "CPU ms", "CALLS", "READ bytes", "PRODUCED", "CARRIED"
        )?;
        for cost in cost {
            let ms = |ns: u64| format!("{:.3}", ns as f64 / 1e6);
            let known = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string());
            writeln!(
                out,
                "  {:<10} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10}",
                cost.source,
                ms(cost.wall_ns),
                ms(cost.cpu_ns),
                known(cost.syscalls),
                known(cost.read_bytes),
                cost.produced,
                cost.carried,
            )?;
        }
    }
    if let (Some(first), Some(last)) = (measured.first_rss_kib, measured.last_rss_kib) {
        writeln!(out, "\nResident memory: {first} KiB after the first round, {last} KiB after the last.")?;
    }
    writeln!(
        out,
        "\nCALLS are the agent's own system calls, without calls inside libraries. READ is counted with the calls, or \
        else by \
        the\nkernel (rchar). PRODUCED is rows, and bytes of encode and frame; CARRIED is rows reused without a read."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_a_median_and_missing_counts_stay_missing() {
        let cost = |cpu_ns, wall_ns, syscalls| SourceCost {
            source: "processes".to_owned(),
            cpu_ns,
            wall_ns,
            syscalls,
            ..SourceCost::default()
        };
        let host = SourceCost { source: "host".to_owned(), cpu_ns: 7, ..SourceCost::default() };
        let rounds = [(1, 30, Some(5)), (9, 20, Some(7)), (2, 10, Some(6))]
            .map(|(cpu, wall, calls)| vec![host.clone(), cost(cpu, wall, calls)]);
        let mut all = Figures::default();
        rounds.iter().for_each(|round| all.add(round));
        assert_eq!(all.middle(), [host.clone(), cost(2, 20, Some(6))]);
        assert_eq!(Figures::default().middle(), []);
        assert!(rss_kib() > Some(1_000));
    }
}
