//! The daemon: the one place where threads are spawned, and where signals arrive.
//!
//! `main` waits for signals and tells systemd how things are; `sampler` makes frames; `shipper` sends them. SIGTERM:
//! the sampler finishes with a frame that says `bye`, the shipper gets a moment to deliver it, everything else stays
//! in the spool. SIGHUP: the configuration is read again; a wrong one is reported and the old one stays.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edr_daemon::systemd::ServiceManager;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::heartbeat::{Heartbeat, Observer};
use crate::sample::ticks::Ticks;
use crate::sample::{Made, Sampler};
use crate::ship::{Health, Shipper};
use crate::spool::Spool;
use crate::stop::Stop;

/// How often the status line is renewed.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// How long the sampler may take to finish its last frame.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// How long the Kafka client may take to close. All limits of a stop together are below 5 s.
const CLOSE_MAX: Duration = Duration::from_millis(750);
/// How long a stopping agent waits for Kafka to take the last frame.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// What the command line says instead of the configuration.
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
    /// The configuration with them.
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

/// What the threads share.
struct Shared {
    config: Mutex<Arc<Config>>,
    last: Mutex<Option<(Instant, Made)>>,
    spool: Arc<Spool>,
    health: Arc<Health>,
    manager: ServiceManager,
    stop: Stop,
    stop_shipping: Stop,
    sampling: Heartbeat,
    shipping: Heartbeat,
}

impl Shared {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn status(&self, now: Instant) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sampled = last.map_or_else(
            || "no snapshot yet".to_owned(),
            |(at, made)| {
                let age = now.saturating_duration_since(at).as_secs();
                format!("snapshot {} s ago (frame {}, {} bytes)", age, made.id, made.bytes)
            },
        );
        let spool = self.spool.state();
        let place = if spool.memory_only { "memory, the disk cannot be used" } else { "the spool" };
        let shipping = self.health.in_words(now);
        format!("{sampled}; {} frames wait in {place}; {shipping}", spool.unsent_frames)
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors When the agent cannot start ([`edr_daemon::config::Report`], [`crate::spool::SpoolError`]), or one of its
/// threads ended.
pub fn run(config_path: &Path, overrides: &Overrides) -> anyhow::Result<()> {
    // A daemon that does not start because of a file says so where people look first: `systemctl status`.
    let config =
        Config::load(config_path).inspect_err(|report| ServiceManager::from_env().status(&report.in_one_line()))?;
    let config = Arc::new(overrides.over(config));
    edr_daemon::journal::install("edr-agentd", config.log_level)?;
    // Before the first thread, so that every thread inherits it and signals come to `main` alone.
    let signals = block_signals().context("block signals")?;
    let (spool, resume) = Spool::open(&config.state_dir, config.spool)?;
    let spool = Arc::new(spool);
    let sampler = Sampler::start(Arc::clone(&config), overrides.proc_root(), Arc::clone(&spool), &resume)
        .context("read the host's identity")?;
    drop(resume);
    let shared = Arc::new(Shared {
        last: Mutex::new(None),
        spool: Arc::clone(&spool),
        health: Arc::default(),
        manager: ServiceManager::from_env(),
        stop: Stop::new()?,
        stop_shipping: Stop::new()?,
        sampling: Heartbeat::default(),
        shipping: Heartbeat::default(),
        config: Mutex::new(config),
    });
    let sampler = spawn("sampler", &shared, |shared| sample(sampler, shared))?;
    let shipper = spawn("shipper", &shared, ship)?;
    let supervised = supervise(&shared, &signals, config_path, overrides, &[&sampler, &shipper]);
    shared.manager.stopping();
    let stopped = stop(&shared, sampler, shipper);
    supervised.and(stopped)
}

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(move || work(&shared)).with_context(|| format!("start thread {name}"))
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits for signals; tells systemd that the threads move, and how things are.
fn supervise(
    shared: &Shared,
    signals: &SignalFd,
    config_path: &Path,
    overrides: &Overrides,
    threads: &[&JoinHandle<()>],
) -> anyhow::Result<()> {
    // A third: one look that comes too early to see progress still leaves time for the next.
    let period = shared.manager.watchdog().map_or(STATUS_PERIOD, |watchdog| STATUS_PERIOD.min(watchdog / 3));
    let (mut sampling, mut shipping) = (Observer::default(), Observer::default());
    loop {
        let timeout = Timespec::try_from(period).ok();
        // EINTR is impossible with all signals blocked; on ENOMEM the next round does it.
        let _ = poll(&mut [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)], timeout.as_ref());
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
        // Both are asked: each look is also the start of the next one's span.
        let alive = [sampling.is_alive(&shared.sampling), shipping.is_alive(&shared.shipping)];
        if shared.manager.watchdog().is_some() && alive.iter().all(|alive| *alive) {
            shared.manager.alive();
        }
        shared.manager.status(&shared.status(Instant::now()));
    }
}

/// Reads the configuration again. A wrong one changes nothing.
fn reload(shared: &Shared, config_path: &Path, overrides: &Overrides) {
    let mut config = match Config::load(config_path) {
        Ok(config) => overrides.over(config),
        Err(report) => {
            log::error!("SIGHUP: the old configuration stays; {report}");
            return;
        }
    };
    let old = shared.config();
    if config.state_dir != old.state_dir {
        log::error!("SIGHUP: state-dir takes a restart; it stays {}", old.state_dir.display());
        config.state_dir.clone_from(&old.state_dir);
    }
    log::set_max_level(config.log_level);
    shared.spool.set_limits(config.spool);
    log::info!("SIGHUP: configuration {} follows {}", config.hash(), old.hash());
    *shared.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
}

/// Thread `sampler`.
fn sample(mut sampler: Sampler, shared: &Shared) {
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
                edr_daemon::limited!(log::Level::Warn, "{} ticks missed: {}", missed.ticks, missed.reason);
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
                *shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), made));
                if !ready {
                    ready = true;
                    shared.manager.ready();
                    shared.manager.status(&shared.status(Instant::now()));
                    log::info!("ready: the first snapshot is in the spool");
                }
                bye
            }
            Err(error) => {
                edr_daemon::limited!(log::Level::Error, "a snapshot became no frame: {error}");
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
fn ship(shared: &Shared) {
    let kafka = shared.config().kafka.clone();
    let mut shipper = Shipper::new(Arc::clone(&shared.spool), Arc::clone(&shared.health), kafka);
    shipper.run(&shared.stop_shipping, &shared.shipping, || shared.config().kafka.clone());
}

/// Ends the threads, within 5 s whatever they do.
fn stop(shared: &Shared, sampler: JoinHandle<()>, shipper: JoinHandle<()>) -> anyhow::Result<()> {
    shared.stop.request();
    if !join(sampler, FINISH_MAX)? {
        bail!("thread sampler does not end; the frames it made are in the spool");
    }
    // A last frame is delivered when Kafka takes it at once; what cannot be delivered stays in the spool.
    if !shared.health.is_in_trouble() {
        shared.spool.wait_until_sent(GOODBYE_MAX);
    }
    shared.stop_shipping.request();
    shared.spool.wake();
    if !join(shipper, CLOSE_MAX)? {
        // librdkafka's client closes when its brokers let it. What it did not deliver is in the spool.
        log::warn!("the Kafka client does not close; leaving it behind");
    }
    let state = shared.spool.state();
    if state.memory_only && state.unsent_frames > 0 {
        log::error!("{} frames in memory were not sent and end here", state.unsent_frames);
    } else {
        log::info!("stopped; {} frames stay in the spool", state.unsent_frames);
    }
    Ok(())
}

/// Joins a thread that was asked to end; false when it does not within `timeout`.
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
