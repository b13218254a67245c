//! The sources: opened once, read at every tick, with the cost of each.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_wire::limits::RAW_BYTES_SOFT;
use edr_wire::snapshot::{Agent, Gap, GapReason, Host, Position, Reread, Rows, SnapshotParts, SourceCost, Time};

use crate::clock::{nanos, thread_cpu};
use crate::collect::host::HostReader;
use crate::collect::processes::{Access, HashSettings, ProcessReader, ProcessSettings, degraded};
use crate::collect::psad::{PsadReader, PsadReading, PsadSettings};
use crate::collect::sockets::SocketReader;
use crate::collect::{Gaps, Inhabitants, calls};
use crate::config::Config;
use crate::event::Event;
use crate::heartbeat::{self, Heartbeat};
use crate::redact::Redactor;

/// Readings between two checks of this process's access: rights and mounts seldom change.
const DEGRADED_HOLDS: u32 = 30;

/// The sources of a snapshot.
#[derive(Debug)]
pub struct Sources {
    host: HostReader,
    processes: Retried<ProcessReader>,
    sockets: Retried<SocketReader>,
    psad: PsadReader,
    redactor: Option<Arc<Redactor>>,
    /// Reasons for limited visibility, and the number of readings until the next check.
    degraded: Vec<String>,
    degraded_holds: u32,
    gaps: Gaps,
    heartbeat: Arc<Heartbeat>,
}

/// The result of one tick: a snapshot without the agent's own part. The long lists keep their memory from tick to tick.
#[derive(Debug, Default)]
pub struct Reading {
    /// The host.
    pub host: Host,
    /// Start of the tick.
    pub time: Time,
    processes: Rows,
    sockets: Rows,
    reread: Reread,
    psad: PsadReading,
    gaps: Vec<Gap>,
    /// Reasons for limited visibility, each with a remedy.
    pub degraded: Vec<String>,
    /// Cost of each source.
    pub cost: Vec<SourceCost>,
}

/// A source that may be missing. Opened again at each tick until successful, with a gap for each tick without the
/// source.
#[derive(Debug)]
struct Retried<T> {
    name: &'static str,
    reader: Option<T>,
}

impl<T> Retried<T> {
    fn get(&mut self, gaps: &mut Gaps, open: impl FnOnce() -> io::Result<T>) -> Option<&mut T> {
        if self.reader.is_none() {
            match open() {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => gaps.add(self.name, None, b"", crate::errno::reason(&error), &format!("open: {error}")),
            }
        }
        self.reader.as_mut()
    }
}

impl Sources {
    /// Opens the mandatory source, the host's identity. Processes and sockets are opened by the first reading; log
    /// files are read from `positions` on.
    ///
    /// # Errors
    /// When the host has no identity, or when secrets must be redacted and there is no key.
    pub fn open(config: &Config, proc_root: &Path, positions: &[Position]) -> io::Result<Self> {
        Ok(Self {
            redactor: redactor(config)?,
            host: HostReader::open(proc_root, config.labels.clone())?,
            processes: Retried { name: "processes", reader: None },
            sockets: Retried { name: "sockets", reader: None },
            psad: open_psad(config, proc_root, positions),
            degraded: Vec::new(),
            degraded_holds: 0,
            gaps: Gaps::default(),
            heartbeat: Arc::default(),
        })
    }

    /// Makes each reading beat on `heartbeat` at each progress.
    #[must_use]
    pub fn beating(self, heartbeat: &Arc<Heartbeat>) -> Self {
        Self { heartbeat: Arc::clone(heartbeat), ..self }
    }

    /// Reads only the host, for its identity.
    pub fn host(&mut self) -> Host {
        self.host.read(&mut Gaps::default())
    }

    /// Continues the log files at `positions`.
    pub fn seek(&mut self, config: &Config, proc_root: &Path, positions: &[Position]) {
        self.psad = open_psad(config, proc_root, positions);
    }

    /// Sets the largest age of a process's row from the next reading on; see [`ProcessSettings::reread_interval`].
    pub fn set_reread_interval(&mut self, reread_interval: Duration) {
        if let Some(processes) = &mut self.processes.reader {
            processes.set_reread_interval(reread_interval);
        }
    }

    /// Reads every source once.
    pub fn read(&mut self, config: &Config, proc_root: &Path, reading: &mut Reading) {
        reading.time = self.host.time(&mut self.gaps);
        reading.processes.clear();
        reading.sockets.clear();
        let mut cost = Vec::with_capacity(8);
        let gaps = &mut self.gaps;
        reading.host = measured_by_kernel(&mut cost, "host", || (self.host.read(gaps), 1));
        reading.reread = measured_by_calls(&mut cost, "processes", || {
            let open = || {
                let settings = process_settings(config, self.redactor.clone());
                ProcessReader::open(proc_root, ProcessSettings { heartbeat: Arc::clone(&self.heartbeat), ..settings })
            };
            let processes = self.processes.get(gaps, open);
            let reread = processes.map(|reader| reader.read(&mut reading.processes, gaps));
            (reread.unwrap_or_default(), reading.processes.len())
        });
        self.heartbeat.beat();
        if let (Some(reader), Some(cost)) = (&self.processes.reader, cost.last_mut()) {
            cost.carried = reader.cost().carried;
        }
        let nobody = Inhabitants::default();
        let (inhabitants, access) = match &self.processes.reader {
            Some(reader) => (reader.inhabitants(), reader.access()),
            None => (&nobody, Access::default()),
        };
        measured_by_calls(&mut cost, "sockets", || {
            if let Some(reader) = self.sockets.get(gaps, || SocketReader::open(proc_root)) {
                reader.read(inhabitants, &mut reading.sockets, gaps);
            }
            ((), reading.sockets.len())
        });
        self.heartbeat.beat();
        reading.psad = measured_by_kernel(&mut cost, "psad", || {
            let psad = self.psad.read(gaps);
            let packets = psad.packets.len();
            (psad, packets)
        });
        self.heartbeat.beat();
        self.degraded_holds = match self.degraded_holds.checked_sub(1) {
            Some(left) => left,
            None => {
                let degraded = degraded(proc_root, &access);
                if degraded != self.degraded {
                    for reason in &degraded {
                        edr_daemon::event!(log::Level::Warn, Event::Degraded, EDR_SOURCE = "processes"; "{reason}");
                    }
                    if degraded.is_empty() {
                        let words = "snapshots show everything again";
                        edr_daemon::event!(log::Level::Info, Event::Whole, EDR_SOURCE = "processes"; "{words}");
                    }
                    self.degraded = degraded;
                }
                DEGRADED_HOLDS
            }
        };
        reading.degraded.clone_from(&self.degraded);
        keep_within(RAW_BYTES_SOFT, reading, gaps);
        reading.gaps = gaps.take();
        reading.cost = cost;
    }
}

/// Returns the redactor; `None` only when the configuration turns redaction off. Without a key this function fails and
/// nothing is read, because a sent secret cannot be recalled.
fn redactor(config: &Config) -> io::Result<Option<Arc<Redactor>>> {
    if !config.redact.secrets {
        return Ok(None);
    }
    let key = config.redact.key().map_err(|fault| io::Error::other(format!("redact.key-file: {}", fault.rule)))?;
    let redactor = key.map(|key| Redactor::new(&key)).or_else(Redactor::with_random_key);
    redactor
        .map(|redactor| Some(Arc::new(redactor)))
        .ok_or_else(|| io::Error::other("no random numbers for a redaction key"))
}

fn process_settings(config: &Config, redactor: Option<Arc<Redactor>>) -> ProcessSettings {
    let processes = &config.processes;
    let hash = HashSettings { file_bytes_max: processes.hash_bytes_max, ..HashSettings::default() };
    ProcessSettings {
        files_per_process_max: processes.files_max,
        interval: config.interval,
        reread_interval: processes.reread_interval,
        mapped: processes.mapped,
        hash: processes.hash.then_some(hash),
        redactor,
        ..ProcessSettings::default()
    }
}

fn open_psad(config: &Config, proc_root: &Path, positions: &[Position]) -> PsadReader {
    let settings = PsadSettings {
        psad_dir: config.psad_dir.clone(),
        packet_log: config.packet_log.clone(),
        proc_root: proc_root.to_owned(),
        sources_max: config.sources_max,
        packets_max: config.packets_max,
        ..PsadSettings::default()
    };
    PsadReader::open(settings, positions)
}

/// Shortens the long lists so that a snapshot fits its limit on every host, and records the cut as a gap.
fn keep_within(bytes_max: usize, reading: &mut Reading, gaps: &mut Gaps) {
    if reading.processes.byte_len() + reading.sockets.byte_len() <= bytes_max {
        return;
    }
    // Sockets get the space left by processes, but at least a quarter.
    let for_processes = bytes_max - reading.sockets.byte_len().min(bytes_max / 4);
    let cut = reading.processes.cut_to(for_processes);
    let for_sockets = bytes_max.saturating_sub(reading.processes.byte_len());
    for (source, cut) in [("processes", cut), ("sockets", reading.sockets.cut_to(for_sockets))] {
        if cut > 0 {
            gaps.add(source, None, b"rows", GapReason::TooLong, &format!("{cut} rows did not fit {bytes_max} bytes"));
        }
    }
}

/// Runs one stage and records its wall time, its output, and its CPU time including helper threads.
pub(crate) fn measured<T>(cost: &mut Vec<SourceCost>, source: &'static str, stage: impl FnOnce() -> (T, usize)) -> T {
    let (cpu, wall, lent) = (thread_cpu(), Instant::now(), calls::so_far());
    heartbeat::begin(source);
    let (value, produced) = stage();
    heartbeat::end();
    cost.push(SourceCost {
        source: source.to_owned(),
        cpu_ns: nanos(thread_cpu().saturating_sub(cpu)) + (calls::so_far() - lent).cpu_ns,
        wall_ns: nanos(wall.elapsed()),
        produced: produced as u64,
        ..SourceCost::default()
    });
    value
}

/// Like [`measured`], for a source with its own count of system calls.
fn measured_by_calls<T>(cost: &mut Vec<SourceCost>, source: &'static str, stage: impl FnOnce() -> (T, usize)) -> T {
    let before = calls::so_far();
    let value = measured(cost, source, stage);
    let calls = calls::so_far() - before;
    if let Some(cost) = cost.last_mut() {
        (cost.syscalls, cost.read_bytes) = (Some(calls.made), Some(calls.bytes));
    }
    value
}

/// Like [`measured`], for a source whose system calls are counted only by the kernel.
fn measured_by_kernel<T>(cost: &mut Vec<SourceCost>, source: &'static str, stage: impl FnOnce() -> (T, usize)) -> T {
    let before = thread_read_bytes();
    let value = measured(cost, source, stage);
    if let (Some(before), Some(after), Some(cost)) = (before, thread_read_bytes(), cost.last_mut()) {
        // `rchar` in the first look excludes the read of that look; the second look includes the first read, so its
        // size is subtracted.
        cost.read_bytes = Some(after.bytes.saturating_sub(before.bytes + before.text_bytes));
    }
    value
}

/// `rchar` of `/proc/thread-self/io`, and the size of the file's text.
struct ReadBytes {
    bytes: u64,
    text_bytes: u64,
}

fn thread_read_bytes() -> Option<ReadBytes> {
    let text = std::fs::read("/proc/thread-self/io").ok()?;
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"rchar: "))?;
    Some(ReadBytes { bytes: std::str::from_utf8(line).ok()?.parse().ok()?, text_bytes: text.len() as u64 })
}

impl Reading {
    /// Read position of each log.
    pub fn positions(&self) -> &[Position] {
        &self.psad.positions
    }

    /// Returns the snapshot's msgpack.
    pub fn encode(&self, agent: &Agent) -> Vec<u8> {
        let parts = SnapshotParts {
            host: &self.host,
            agent,
            time: &self.time,
            positions: &self.psad.positions,
            processes: &self.processes,
            sockets: &self.sockets,
            psad: &self.psad.psad,
            packets: &self.psad.packets,
            reread: self.reread.clone(),
            gaps: &self.gaps,
        };
        parts.encode()
    }

    /// Discards the parts without a size limit, for a snapshot that would not fit.
    pub(super) fn shed(&mut self, why: &str) {
        let packets = std::mem::take(&mut self.psad.packets).len();
        self.psad.psad = edr_wire::snapshot::Psad { mode: self.psad.psad.mode, ..Default::default() };
        let mut gaps = Gaps::default();
        keep_within(RAW_BYTES_SOFT / 2, self, &mut gaps);
        gaps.add("psad", None, b"", GapReason::TooLong, &format!("psad and {packets} packets left out: {why}"));
        self.gaps = gaps.take();
    }
}

#[cfg(test)]
mod tests {
    use edr_wire::snapshot::{Process, Socket};

    use super::*;

    #[test]
    fn rows_that_do_not_fit_are_cut_and_counted_and_sockets_keep_a_quarter() {
        let process = |pid| Process { pid, state: 'S', ..Process::default() };
        let socket = |inode| Socket { inode, protocol: "tcp".to_owned(), ..Socket::default() };
        let mut reading = Reading {
            processes: (0..1_000).map(process).collect(),
            sockets: (0..1_000).map(socket).collect(),
            ..Reading::default()
        };
        let mut gaps = Gaps::default();
        let whole = reading.processes.byte_len() + reading.sockets.byte_len();
        keep_within(whole, &mut reading, &mut gaps);
        assert_eq!((reading.processes.len(), reading.sockets.len(), gaps.take().len()), (1_000, 1_000, 0));
        let room = 40_000;
        keep_within(room, &mut reading, &mut gaps);
        assert!(reading.processes.byte_len() + reading.sockets.byte_len() <= room);
        assert!(reading.processes.byte_len() > room / 2 && reading.sockets.byte_len() > room / 5);
        let said = gaps.take();
        let cut = [1_000 - reading.processes.len(), 1_000 - reading.sockets.len()];
        assert_eq!(said.len(), 2);
        for (gap, cut) in said.iter().zip(cut) {
            assert_eq!(gap.reason, GapReason::TooLong);
            assert!(gap.detail.starts_with(&format!("{cut} rows")), "{gap:?}");
        }
    }
}
