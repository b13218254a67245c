//! A tick: read the sources, encode the snapshot, choose key or delta, make the frame, store the frame in the spool.

mod chain;
mod framer;
mod settings;
pub mod ticks;
mod usual;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use edr_daemon::journal::Few;
use edr_sources::host::HostIdentity;
use edr_sources::{Sources, Tick};
use edr_wire::frame::{FrameError, MissedTicks};
use edr_wire::snapshot::{Agent, SourceCost};

pub use self::framer::{AcceptedFrame, Framer, Moment, Shape};
pub use self::settings::{budget, redactor, source_settings};
use crate::clock::{boottime, nanos};
use crate::config::Config;
use crate::event::Event;
use crate::heartbeat::Heartbeat;
use crate::spool::{FrameId, Resume, Spool};

/// Takes snapshots and makes the frames.
#[derive(Debug)]
pub struct Sampler {
    spool: Arc<Spool>,
    config: Arc<Config>,
    proc_root: PathBuf,
    sources: Sources,
    /// The last reading.
    tick: Tick,
    framer: Framer,
    /// Cost of each stage in the last tick: a snapshot cannot contain its own end.
    cost: Vec<SourceCost>,
    /// Reasons for limited visibility that are in the log.
    degraded: Vec<String>,
    /// Words about the last frame, if the frame was unusually large: a snapshot cannot contain its own size.
    large: Option<String>,
    /// Limits the messages about limited visibility: a process can make the reasons change at each tick.
    messages: Few,
    heartbeat: Arc<Heartbeat>,
}

impl Sampler {
    /// Opens the sources and continues after the newest frame of the spool. A tick beats on `heartbeat` at each
    /// progress.
    ///
    /// # Errors
    /// When the host has no identity.
    pub fn start(
        config: Arc<Config>,
        proc_root: &Path,
        spool: Arc<Spool>,
        resume: &Resume,
        heartbeat: Arc<Heartbeat>,
    ) -> io::Result<Self> {
        let HostIdentity { host_id, boot_id } = HostIdentity::read(proc_root)?;
        let (framer, positions) = Framer::start(Arc::clone(&spool), resume, host_id, &boot_id, config.interval);
        Ok(Self {
            sources: Sources::open(source_settings(&config, proc_root, &heartbeat)?, &positions)?,
            tick: Tick::new(budget(&config)),
            framer: framer.beating(&heartbeat),
            cost: Vec::new(),
            degraded: Vec::new(),
            large: None,
            messages: Few::default(),
            proc_root: proc_root.to_owned(),
            spool,
            config,
            heartbeat,
        })
    }

    /// Uses another configuration from the next tick on. Sources with changed settings are opened again.
    ///
    /// # Errors
    /// When the host has no identity any more; then the sources stay unchanged.
    pub fn configure(&mut self, config: Arc<Config>) -> io::Result<()> {
        let settings = |config: &Config| {
            let limits = (config.sources_max, config.packets_max);
            let psad = (config.psad_dir.clone(), config.packet_log.clone(), limits);
            (config.labels.clone(), config.interval, config.processes, config.redact.clone(), psad)
        };
        if settings(&config) != settings(&self.config) {
            let settings = source_settings(&config, &self.proc_root, &self.heartbeat)?;
            self.sources = Sources::open(settings, &self.tick.positions)?;
        }
        self.tick.budget = budget(&config);
        self.config = config;
        Ok(())
    }

    /// Takes a snapshot and stores its frame in the spool. `stops` is called as late as possible: after true, this
    /// frame is the last frame and has `bye` set.
    ///
    /// # Errors
    /// When no frame can be made of the snapshot; a later frame then names the missed tick.
    pub fn tick(&mut self, stops: impl Fn() -> bool) -> Result<AcceptedFrame, FrameError> {
        let began = boottime();
        self.sources.read(&mut self.tick);
        self.report_degraded();
        let moment = Moment {
            host_id: self.tick.host.host_id,
            boot_id: self.tick.host.boot_id.clone(),
            captured_ns: self.tick.time.wall_ns,
            boottime: began,
            bye: stops(),
        };
        let mut made = self.frame(&moment);
        if let Err(error) = &made {
            edr_daemon::limited!(
                log::Level::Error,
                Event::SnapshotLost,
                EDR_SOURCE = "psad",
                "no frame of a snapshot: {error}; once more without psad"
            );
            self.tick.shed(&error.to_string());
            made = self.frame(&moment);
        }
        if let Ok(made) = &made {
            self.note_size(made);
        }
        if made.is_err() {
            self.spool.declare_missed(MissedTicks {
                from_boottime_ns: nanos(began),
                to_boottime_ns: nanos(began),
                ticks: 1,
                reason: "too_large".to_owned(),
            });
        }
        made
    }

    /// Cost of each stage in the last tick.
    pub fn cost(&self) -> &[SourceCost] {
        &self.cost
    }

    /// Reasons for missing facts in the last snapshot.
    pub fn degraded(&self) -> &[String] {
        &self.tick.degraded
    }

    /// Logs new reasons for limited visibility, and the end of all reasons.
    fn report_degraded(&mut self) {
        let now = Instant::now();
        if let Some(left_out) = self.messages.left_out(now) {
            log::warn!("{left_out} more messages about what snapshots do not show were left out");
        }
        if self.tick.degraded == self.degraded {
            return;
        }
        let before = std::mem::replace(&mut self.degraded, self.tick.degraded.clone());
        for reason in self.degraded.iter().filter(|reason| !before.contains(reason)) {
            if self.messages.admit(now) {
                edr_daemon::event!(log::Level::Warn, Event::Degraded, EDR_SOURCE = "processes", "{reason}");
            }
        }
        if self.degraded.is_empty() && self.messages.admit(now) {
            let words = "snapshots show everything again";
            edr_daemon::event!(log::Level::Info, Event::Whole, EDR_SOURCE = "processes", "{words}");
        }
    }

    /// Logs an unusually large frame, to be named in the next snapshot.
    fn note_size(&mut self, made: &AcceptedFrame) {
        self.large = made.usual_bytes.map(|usual| {
            let AcceptedFrame { id, bytes, .. } = made;
            let words = format!(
                "frame {} has {bytes} bytes, usual are {usual}: many arguments, names or files change at each snapshot",
                id.seq
            );
            edr_daemon::limited!(
                log::Level::Warn,
                Event::FrameLarge,
                EDR_SOURCE = "sample",
                EDR_EPOCH = id.epoch.to_string(),
                EDR_SEQ = id.seq,
                "{words}"
            );
            words
        });
    }

    fn frame(&mut self, moment: &Moment) -> Result<AcceptedFrame, FrameError> {
        let Self { spool, config, tick, framer, large, .. } = self;
        let shape = Shape { key_interval: config.key_interval, part_bytes_max: config.kafka.part_bytes_max };
        let mut agent = Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            interval_ns: nanos(config.interval),
            config_hash: config.hash(),
            cost: std::mem::take(&mut self.cost),
            spool: spool.state(),
            degraded: tick.degraded.iter().chain(large.as_ref()).cloned().collect(),
            ..Agent::default()
        };
        let mut cost = tick.cost.clone();
        let made = framer.frame(moment, shape, &mut cost, |FrameId { epoch, seq }| {
            (agent.epoch, agent.seq) = (epoch, seq);
            tick.encode(&agent)
        });
        self.cost = cost;
        made
    }
}
