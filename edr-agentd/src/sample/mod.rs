//! One tick: read the sources, encode the snapshot, choose key or delta, make the frame, put it into the spool.
//!
//! A snapshot is accepted when its frame is in the spool, and only then does the chain move on. When the disk does not
//! take it, the same snapshot goes into memory, under an epoch of its own, so that no (epoch, seq) ever stands for two
//! snapshots.

mod chain;
mod sources;
pub mod ticks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edr_wire::frame::{EncodedFrame, FrameError, FrameHeader, FrameKind, MissedTicks};
use edr_wire::snapshot::{Agent, SourceCost};
use edr_wire::{Epoch, HostId};

pub use self::chain::{Chain, Start};
use self::sources::measured;
pub use self::sources::{Reading, Sources};
use crate::clock::{boottime, nanos};
use crate::config::Config;
use crate::spool::{FrameId, Resume, Spool, SpoolError};

/// What the disk must take again before frames go there again, at least.
const PROBE_BYTES_MIN: usize = 64 << 10;

/// What one tick made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Which frame.
    pub id: FrameId,
    /// Key or delta.
    pub kind: FrameKind,
    /// Bytes of the snapshot, uncompressed.
    pub raw_bytes: usize,
    /// Bytes of the frame.
    pub bytes: usize,
    /// Whether it said that the agent stops.
    pub bye: bool,
    /// What it cost.
    pub cost: Vec<SourceCost>,
}

/// Makes frames.
#[derive(Debug)]
pub struct Sampler {
    spool: Arc<Spool>,
    config: Arc<Config>,
    proc_root: PathBuf,
    sources: Sources,
    reading: Reading,
    chain: Chain,
    /// Frames go into memory since the disk does not take them.
    in_memory: bool,
    cost: Vec<SourceCost>,
}

impl Sampler {
    /// Opens the sources and goes on where the spool ends.
    ///
    /// # Errors
    /// When the host has no identity.
    pub fn start(config: Arc<Config>, proc_root: &Path, spool: Arc<Spool>, resume: &Resume) -> anyhow::Result<Self> {
        let mut sources = Sources::open(&config, proc_root, &[])?;
        let host = sources.host();
        let (chain, start) = Chain::start(resume, host.host_id, &host.boot_id, new_epoch());
        let own = resume.newest.as_ref().filter(|newest| newest.header.host_id == host.host_id);
        let (mut logs, mut last, mut reason) = (0, None, ticks::NOT_RUNNING);
        if let Some(newest) = own {
            let positions = newest.snapshot.positions()?;
            logs = positions.len();
            sources.seek(&config, proc_root, &positions);
            spool.take_over(&newest.header.lost, &[]);
            if newest.header.boot_id == host.boot_id {
                spool.take_over(&[], &newest.header.missed);
                last = Some(Duration::from_nanos(newest.snapshot.time()?.boottime_ns));
                reason = if newest.header.bye { ticks::STOPPED } else { reason };
            }
        }
        log_start(&chain, start, host.host_id, logs);
        if let Some(missed) = ticks::missed_before(last, boottime(), config.interval, reason) {
            spool.declare_missed(missed);
        }
        let proc_root = proc_root.to_owned();
        let in_memory = spool.state().memory_only;
        let reading = Reading::default();
        Ok(Self { spool, config, proc_root, sources, reading, chain, in_memory, cost: Vec::new() })
    }

    /// Another configuration, from the next tick on. Sources whose settings changed are opened again.
    ///
    /// # Errors
    /// When the host has no identity any more; the sources then stay as they were.
    pub fn configure(&mut self, config: Arc<Config>) -> std::io::Result<()> {
        let settings = |config: &Config| {
            let psad = (config.psad_dir.clone(), config.packet_log.clone());
            (config.labels.clone(), config.files_per_process_max, psad)
        };
        if settings(&config) != settings(&self.config) {
            self.sources = Sources::open(&config, &self.proc_root, self.reading.positions())?;
        }
        self.config = config;
        Ok(())
    }

    /// Takes one snapshot and puts its frame into the spool. `stops` is asked as late as possible: when it says so,
    /// this frame is the last one and says `bye`.
    ///
    /// # Errors
    /// When no frame could be made of the snapshot; then a later frame names the tick.
    pub fn tick(&mut self, stops: impl Fn() -> bool) -> Result<Made, FrameError> {
        let now = boottime();
        self.sources.read(&self.config, &self.proc_root, &mut self.reading);
        if self.in_memory && self.spool.probe(self.chain.key_bytes().max(PROBE_BYTES_MIN)) {
            log::info!("the spool takes frames again");
            self.in_memory = false;
            self.chain.begin(new_epoch());
        }
        let bye = stops();
        let mut made = self.make(now, bye);
        if let Err(error) = &made {
            edr_daemon::limited!(log::Level::Error, "no frame of a snapshot: {error}; once more without psad");
            self.reading.shed(&error.to_string());
            made = self.make(now, bye);
        }
        match &made {
            Ok(made) => self.cost = made.cost.clone(),
            Err(_) => self.spool.declare_missed(MissedTicks {
                from_boottime_ns: nanos(now),
                to_boottime_ns: nanos(now),
                ticks: 1,
                reason: "too_large".to_owned(),
            }),
        }
        made
    }

    /// Makes the frame and puts it where it is accepted.
    fn make(&mut self, now: Duration, bye: bool) -> Result<Made, FrameError> {
        loop {
            let mut cost = self.reading.cost.clone();
            let raw = measured(&mut cost, "encode", || {
                let raw = self.reading.encode(&self.agent());
                let bytes = raw.len();
                (raw, bytes)
            });
            let wants_key = self.spool.wants_key();
            let base = self.chain.base(now, self.config.key_interval).filter(|_| !wants_key);
            let header = self.header(base.map(|(seq, _)| seq), bye);
            let frame = measured(&mut cost, "frame", || {
                let frame =
                    EncodedFrame::encode(&header, &raw, base.map(|(_, raw)| raw), self.config.kafka.part_bytes_max);
                let bytes = frame.as_ref().map_or(0, EncodedFrame::byte_len);
                (frame, bytes)
            })?;
            let id = FrameId { epoch: header.epoch, seq: header.seq };
            let (raw_bytes, bytes) = (raw.len(), frame.byte_len());
            if let Err(error) = measured(&mut cost, "spool", || (self.put(&header, frame), bytes)) {
                // (epoch, seq) may be on the disk after all and must not be used again: same snapshot, other epoch.
                edr_daemon::limited!(log::Level::Error, "{error}; frames are kept in memory until the disk takes them");
                self.in_memory = true;
                self.chain.begin(new_epoch());
                continue;
            }
            self.chain.accepted(header.kind, raw, bytes, now);
            return Ok(Made { id, kind: header.kind, raw_bytes, bytes, bye, cost });
        }
    }

    fn put(&self, header: &FrameHeader, frame: EncodedFrame) -> Result<(), SpoolError> {
        if self.in_memory {
            self.spool.put_in_memory(header, frame);
            return Ok(());
        }
        self.spool.put(header, &frame)
    }

    fn header(&self, base_seq: Option<u64>, bye: bool) -> FrameHeader {
        let (lost, missed) = self.spool.declarations();
        FrameHeader {
            host_id: self.reading.host.host_id,
            epoch: self.chain.epoch(),
            seq: self.chain.seq(),
            kind: if base_seq.is_some() { FrameKind::Delta } else { FrameKind::Key },
            base_seq: base_seq.unwrap_or(self.chain.seq()),
            boot_id: self.reading.host.boot_id.clone(),
            previous_epoch: self.chain.previous(),
            captured_ns: self.reading.time.wall_ns,
            lost,
            missed,
            bye,
        }
    }

    fn agent(&self) -> Agent {
        Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            epoch: self.chain.epoch(),
            seq: self.chain.seq(),
            interval_ns: nanos(self.config.interval),
            config_hash: self.config.hash(),
            degraded: Vec::new(),
            cost: self.cost.clone(),
            spool: self.spool.state(),
        }
    }
}

/// A new epoch's id: random.
fn new_epoch() -> Epoch {
    let mut id = [0; 8];
    if let Err(error) = getrandom::fill(&mut id) {
        // Before the kernel has gathered entropy. Time and pid are as good for telling two runs of a host apart.
        log::warn!("no random numbers for an epoch: {error}");
        id = (nanos(boottime()) ^ u64::from(std::process::id()).rotate_left(40)).to_be_bytes();
    }
    Epoch(id)
}

fn log_start(chain: &Chain, start: Start, host_id: HostId, logs: usize) {
    let why = match start {
        Start::Continued => "goes on",
        Start::Fresh => "is new: the spool is empty",
        Start::NewBoot => "is new: the machine was booted",
        Start::OtherHost => "is new: the spool is of another machine",
        Start::Unproven => "is new: the newest frame in the spool does not prove that it was the last one",
    };
    let (epoch, seq) = (chain.epoch(), chain.seq());
    log::info!(
        edr_host = host_id.to_string(), edr_epoch = epoch.to_string(), edr_seq = seq;
        "epoch {epoch} {why}; the next frame is {seq}, {logs} logs go on where they were read"
    );
}
