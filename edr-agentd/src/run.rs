//! The daemon: spawns all threads, and handles all signals.
//!
//! `main` waits for signals and notifies systemd; `sampler` makes frames; `shipper` sends frames. SIGTERM: the sampler
//! finishes with a last frame marked `bye`, the shipper gets a moment to deliver the frame, and all undelivered frames
//! stay in the spool. SIGHUP: the configuration is read again; a wrong configuration is reported and the old
//! configuration stays. SIGABRT: thread `abort` logs the state of all threads, and the process ends.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edr_daemon::state_dir::{explain, refuse_foreign};
use edr_daemon::systemd::ServiceManager;
use edr_wire::snapshot::SourceCost;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::abort::Aborts;
use crate::config::{Config, STATE_DIR};
use crate::event::Event;
use crate::heartbeat::{Heartbeat, Observer};
use crate::sample::ticks::Ticks;
use crate::sample::{AcceptedFrame, Sampler};
use crate::ship::{Health, Shipper};
use crate::spool::{Spool, SpoolError};
use crate::status::{KafkaStatus, SnapshotStatus, SpoolStatus, Status, StatusListener};
use crate::stop::Stop;

/// How often the status line is renewed.
const STATUS_PERIOD: Duration = Duration::from_secs(5);
/// Time between two status lines in the log without events.
const HOUR: Duration = Duration::from_secs(3600);
/// Time limit for the first summary, which otherwise comes with the arrival of the first snapshot.
const FIRST_SUMMARY_MAX: Duration = Duration::from_secs(60);
/// Time limit for the sampler's last frame.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// How long the Kafka client may take to close. All limits of a stop together are below 5 s.
const CLOSE_MAX: Duration = Duration::from_millis(750);
/// How long a stopping agent waits for Kafka to take the last frame.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Settings from the command line, in the place of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--proc-root`.
    pub proc_root: Option<PathBuf>,
    /// `--psad-dir`.
    pub psad_dir: Option<PathBuf>,
    /// `--packet-log`.
    pub packet_log: Option<PathBuf>,
}

impl Overrides {
    /// Returns the configuration with these settings.
    pub fn over(&self, mut config: Config) -> Config {
        config.psad_dir = self.psad_dir.clone().or(config.psad_dir);
        config.packet_log = self.packet_log.clone().or(config.packet_log);
        config
    }

    /// The folder that is read as `/proc`.
    pub fn proc_root(&self) -> &Path {
        self.proc_root.as_deref().unwrap_or(Path::new("/proc"))
    }
}

/// The last snapshot.
#[derive(Debug, Clone)]
struct LastSnapshot {
    at: Instant,
    made: AcceptedFrame,
    wall: Duration,
    cpu: Duration,
    degraded: Vec<String>,
}

/// State shared by the threads.
struct DaemonState {
    started: Instant,
    config: Mutex<Arc<Config>>,
    /// Why the configuration of the last SIGHUP was refused.
    refused: Mutex<Option<String>>,
    last: Mutex<Option<LastSnapshot>>,
    spool: Arc<Spool>,
    health: Arc<Health>,
    manager: ServiceManager,
    stop: Stop,
    stop_shipping: Stop,
    sampling: Arc<Heartbeat>,
    shipping: Arc<Heartbeat>,
}

impl DaemonState {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock())
    }

    fn status(&self, now: Instant) -> Status {
        let last = self.last.lock().clone();
        let config = self.config();
        let spool = self.spool.state();
        let (memory_frames, memory_bytes) = self.spool.in_memory();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            up_ms: millis(now.saturating_duration_since(self.started)),
            interval_ms: millis(config.interval),
            config_hash: config.hash(),
            refused: self.refused.lock().clone(),
            snapshot: last.as_ref().map(|last| SnapshotStatus {
                epoch: last.made.id.epoch.to_string(),
                seq: last.made.id.seq,
                age_ms: millis(now.saturating_duration_since(last.at)),
                wall_ms: millis(last.wall),
                cpu_ms: millis(last.cpu),
                raw_bytes: last.made.raw_bytes as u64,
                frame_bytes: last.made.bytes as u64,
            }),
            spool: SpoolStatus {
                unsent_frames: spool.unsent_frames,
                unsent_bytes: spool.unsent_bytes,
                dropped_frames: spool.dropped_frames,
                memory_only: spool.memory_only,
                memory_frames,
                memory_bytes,
                disk_fault: spool.memory_only.then(|| {
                    let fault = last.as_ref().and_then(|last| last.made.disk_fault).unwrap_or_default();
                    fault.in_words(&config.state_dir)
                }),
                trouble: self.spool.trouble(now),
            },
            kafka: KafkaStatus {
                brokers: config.kafka.brokers.clone(),
                topic: config.kafka.topic.clone(),
                security: config.kafka.security.summary(),
                ..self.health.status(now)
            },
            degraded: last.map(|last| last.degraded).unwrap_or_default(),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the agent cannot start ([`edr_daemon::config::Report`], [`crate::spool::SpoolError`]), or one of its threads
/// ended.
pub fn run(config_path: &Path, overrides: &Overrides) -> anyhow::Result<()> {
    // An error in a file also goes to the status line, since people look at `systemctl status` first.
    let config =
        Config::load(config_path).inspect_err(|report| ServiceManager::from_env().status(&report.in_one_line()))?;
    let config = Arc::new(overrides.over(config));
    edr_daemon::journal::install("edr-agentd", config.log_level)?;
    // Before the first thread, so that every thread inherits the mask and signals come only to `main`.
    let signals = block_signals().context("block signals")?;
    let (sampling, shipping) = (Arc::<Heartbeat>::default(), Arc::<Heartbeat>::default());
    let heartbeats = vec![("sampler", Arc::clone(&sampling)), ("shipper", Arc::clone(&shipping))];
    let aborts = Aborts::take(heartbeats).context("take SIGABRT")?;
    // Never joined: the thread ends with the process, or ends the process.
    let aborts = std::thread::Builder::new().name("abort".to_owned()).spawn(move || aborts.answer());
    let aborts = aborts.context("start thread abort")?;
    refuse_foreign("edr-agentd", &config.state_dir, Path::new(STATE_DIR))?;
    let (spool, resume) = Spool::open(&config.state_dir, &config.runtime_dir, config.spool)
        .map_err(|error| explained(error, &config.state_dir))?;
    let spool = Arc::new(spool);
    let sampler =
        Sampler::start(Arc::clone(&config), overrides.proc_root(), Arc::clone(&spool), &resume, Arc::clone(&sampling))
            .context("read the host's identity")?;
    drop(resume);
    let shared = Arc::new(DaemonState {
        started: Instant::now(),
        last: Mutex::new(None),
        spool: Arc::clone(&spool),
        health: Arc::default(),
        manager: ServiceManager::from_env(),
        stop: Stop::new()?,
        stop_shipping: Stop::new()?,
        sampling,
        shipping,
        config: Mutex::new(config),
        refused: Mutex::default(),
    });
    let sampler = spawn("sampler", &shared, |shared| sample(sampler, shared))?;
    let shipper = spawn("shipper", &shared, ship)?;
    let listener = listen(&shared.config());
    let threads = [&sampler, &shipper, &aborts];
    let supervised = supervise(&shared, &signals, listener, config_path, overrides, &threads);
    shared.manager.stopping();
    let stopped = stop(&shared, sampler, shipper);
    supervised.and(stopped)
}

fn spawn(
    name: &str,
    shared: &Arc<DaemonState>,
    work: impl FnOnce(&DaemonState) + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(move || work(&shared)).with_context(|| format!("start thread {name}"))
}

/// The error of a spool that cannot be opened, with the owner of the refused path.
fn explained(error: SpoolError, state_dir: &Path) -> anyhow::Error {
    let why = match &error {
        SpoolError::Folder { path, source, .. } => explain(source, state_dir, path),
        _ => None,
    };
    match why {
        Some(why) => anyhow::Error::new(error).context(why),
        None => error.into(),
    }
}

/// The socket for `edr-agentd status`. Without a socket the agent runs all the same.
fn listen(config: &Config) -> Option<StatusListener> {
    let path = config.status_socket();
    match StatusListener::bind(&path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            edr_daemon::event!(
                log::Level::Warn,
                Event::StatusUnavailable,
                "listen on {}: {error}; edr-agentd status gets no answer",
                path.display()
            );
            None
        }
    }
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits for signals; notifies systemd of the threads' progress and of the agent's status.
fn supervise(
    shared: &DaemonState,
    signals: &SignalFd,
    mut listener: Option<StatusListener>,
    config_path: &Path,
    overrides: &Overrides,
    threads: &[&JoinHandle<()>],
) -> anyhow::Result<()> {
    // A third: after a look just before progress there is time for another look.
    let period = shared.manager.watchdog().map_or(STATUS_PERIOD, |watchdog| STATUS_PERIOD.min(watchdog / 3));
    let (mut sampling, mut shipping) = (Observer::default(), Observer::default());
    let (mut next_look, mut next_hour) = (Instant::now(), Instant::now() + FIRST_SUMMARY_MAX);
    let mut is_first_summary = true;
    loop {
        let timeout = Timespec::try_from(next_look.saturating_duration_since(Instant::now())).ok();
        let mut watched = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        watched.extend(listener.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)));
        // EINTR is impossible with all signals blocked; after ENOMEM the next round polls again.
        let _ = poll(&mut watched, timeout.as_ref());
        let is_asked = watched.get(1).is_some_and(|listener| !listener.revents().is_empty());
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => reload(shared, config_path, overrides),
                Ok(signal) => {
                    log::info!("{signal}: finishing");
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        if let Some(ended) = threads.iter().find(|thread| thread.is_finished()) {
            bail!("thread {} ended unexpectedly", ended.thread().name().unwrap_or("?"));
        }
        if is_asked
            && let Some(asked) = &listener
            && let Err(error) = asked.answer(&shared.status(Instant::now()))
        {
            edr_daemon::event!(log::Level::Warn, Event::StatusUnavailable, "answer edr-agentd status: {error}");
            listener = None;
        }
        if Instant::now() < next_look {
            continue;
        }
        next_look = Instant::now() + period;
        // Both are asked: each look is also the start of the next one's span.
        let alive = [sampling.is_alive(&shared.sampling), shipping.is_alive(&shared.shipping)];
        if shared.manager.watchdog().is_some() && alive.iter().all(|alive| *alive) {
            shared.manager.alive();
        }
        let status = shared.status(Instant::now());
        shared.manager.status(&status.in_words());
        let has_arrived = status.snapshot.is_some() && status.kafka.last_ack_age_ms.is_some();
        if Instant::now() >= next_hour || (is_first_summary && has_arrived) {
            next_hour = Instant::now() + HOUR;
            is_first_summary = false;
            edr_daemon::event!(
                log::Level::Info,
                Event::Hour,
                EDR_EPOCH = status.snapshot.as_ref().map(|last| last.epoch.as_str()).unwrap_or_default(),
                EDR_SEQ = status.snapshot.as_ref().map_or(0, |last| last.seq),
                "{}",
                status.in_words()
            );
        }
    }
}

/// Reads the configuration again. A wrong configuration changes nothing.
fn reload(shared: &DaemonState, config_path: &Path, overrides: &Overrides) {
    let mut config = match Config::load(config_path) {
        Ok(config) => overrides.over(config),
        Err(report) => {
            edr_daemon::event!(
                log::Level::Error,
                Event::ConfigurationRefused,
                "SIGHUP: the old configuration stays; {report}"
            );
            *shared.refused.lock() = Some(report.in_one_line());
            return;
        }
    };
    *shared.refused.lock() = None;
    let old = shared.config();
    if config.state_dir != old.state_dir {
        edr_daemon::event!(
            log::Level::Error,
            Event::ConfigurationRefused,
            "SIGHUP: state-dir needs a restart and stays {}",
            old.state_dir.display()
        );
        config.state_dir.clone_from(&old.state_dir);
        config.runtime_dir.clone_from(&old.runtime_dir);
    }
    if config.runtime_dir != old.runtime_dir {
        edr_daemon::event!(
            log::Level::Error,
            Event::ConfigurationRefused,
            "SIGHUP: runtime-dir needs a restart and stays {}",
            old.runtime_dir.display()
        );
        config.runtime_dir.clone_from(&old.runtime_dir);
    }
    log::set_max_level(config.log_level);
    shared.spool.set_limits(config.spool);
    edr_daemon::event!(
        log::Level::Info,
        Event::ConfigurationTaken,
        "SIGHUP: configuration {} follows {}",
        config.hash(),
        old.hash()
    );
    *shared.config.lock() = Arc::new(config);
}

/// Thread `sampler`.
fn sample(mut sampler: Sampler, shared: &DaemonState) {
    let mut config = shared.config();
    let mut ticks = match Ticks::start(config.interval) {
        Ok(ticks) => ticks,
        Err(error) => {
            log::error!("create timer: {error}");
            return;
        }
    };
    let mut ready = false;
    loop {
        match shared.sampling.idle(|| ticks.wait(&shared.stop)) {
            Ok(None) => {}
            Ok(Some(missed)) => {
                edr_daemon::limited!(
                    log::Level::Warn,
                    Event::TicksMissed,
                    EDR_SOURCE = "sample",
                    "{} ticks missed: {}",
                    missed.ticks,
                    missed.reason
                );
                shared.spool.declare_missed(missed);
            }
            Err(error) => {
                edr_daemon::limited!(log::Level::Error, "set timer: {error}");
                shared.stop.wait(config.interval);
            }
        }
        let current = shared.config();
        if current != config {
            if let Err(error) = sampler.configure(Arc::clone(&current)) {
                log::error!("sources keep their old settings: {error}");
            }
            ticks.set_interval(current.interval);
            config = current;
        }
        let stops = match sampler.tick(|| shared.stop.is_requested()) {
            Ok(made) => {
                let (kind, bytes, bye) = (made.kind, made.bytes, made.bye);
                log::debug!(
                    edr_epoch = made.id.epoch.to_string(), edr_seq = made.id.seq, edr_bytes = bytes;
                    "frame {}: {kind:?} of {bytes} bytes, snapshot of {}", made.id, made.raw_bytes
                );
                let seq = made.id.seq;
                let sum = |field: fn(&SourceCost) -> u64| Duration::from_nanos(sampler.cost().iter().map(field).sum());
                let (wall, cpu) = (sum(|cost| cost.wall_ns), sum(|cost| cost.cpu_ns));
                let last = LastSnapshot { at: Instant::now(), made, wall, cpu, degraded: sampler.degraded().to_vec() };
                *shared.last.lock() = Some(last);
                if !ready {
                    ready = true;
                    shared.manager.ready();
                    shared.manager.status(&shared.status(Instant::now()).in_words());
                    edr_daemon::event!(
                        log::Level::Info,
                        Event::Ready,
                        EDR_SEQ = seq,
                        "ready: the first snapshot is in the spool"
                    );
                }
                bye
            }
            Err(error) => {
                edr_daemon::limited!(
                    log::Level::Error,
                    Event::SnapshotLost,
                    EDR_SOURCE = "sample",
                    "a snapshot became no frame: {error}"
                );
                shared.stop.is_requested()
            }
        };
        shared.sampling.beat();
        if stops {
            return;
        }
    }
}

/// Thread `shipper`.
fn ship(shared: &DaemonState) {
    let kafka = shared.config().kafka.clone();
    let mut shipper = Shipper::new(Arc::clone(&shared.spool), Arc::clone(&shared.health), kafka);
    shipper.run(&shared.stop_shipping, &shared.shipping, || shared.config().kafka.clone());
}

/// Ends the threads within 5 s, in every state of the threads.
fn stop(shared: &DaemonState, sampler: JoinHandle<()>, shipper: JoinHandle<()>) -> anyhow::Result<()> {
    shared.stop.request();
    if !join(sampler, FINISH_MAX)? {
        bail!("thread sampler does not end; its frames are in the spool, or in memory if the disk takes none");
    }
    // A last frame is delivered if Kafka takes the frame at once; undelivered frames stay in the spool.
    if !shared.health.is_in_trouble() {
        shared.spool.wait_until_sent(GOODBYE_MAX);
    }
    shared.stop_shipping.request();
    shared.spool.wake();
    if !join(shipper, CLOSE_MAX)? {
        // librdkafka's client closes when its brokers allow. Undelivered frames are in the spool.
        log::warn!("the Kafka client does not close in time; ending without it");
    }
    let (state, (in_memory, _)) = (shared.spool.state(), shared.spool.in_memory());
    if in_memory > 0 {
        edr_daemon::event!(
            log::Level::Error,
            Event::Stopped,
            "{in_memory} frames in memory were not sent and end here; {} stay in the spool",
            state.unsent_frames.saturating_sub(in_memory)
        );
    } else {
        edr_daemon::event!(
            log::Level::Info,
            Event::Stopped,
            "stopped; {} frames stay in the spool",
            state.unsent_frames
        );
    }
    Ok(())
}

/// Joins a thread that was asked to end; false after `timeout`.
fn join(thread: JoinHandle<()>, timeout: Duration) -> anyhow::Result<bool> {
    let name = thread.thread().name().unwrap_or("?").to_owned();
    let deadline = Instant::now() + timeout;
    // A handle cannot be waited for with a time limit; this runs once in a process's life.
    while !thread.is_finished() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if thread.join().is_err() {
        bail!("thread {name} panicked");
    }
    Ok(true)
}
