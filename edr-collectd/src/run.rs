//! The daemon. All tasks are spawned here, except the stages of [`consume`](crate::consume), and all signals arrive
//! here.
//!
//! The task `consumer` runs the stages from Kafka to the readers; `facts` opens the newest snapshot of each host whose
//! snapshot changed; `page` answers requests; `status` reports to systemd. SIGHUP reads the configuration again; an
//! invalid configuration is reported and the old one stays. On SIGTERM and SIGINT the consumer commits the current
//! batch and saves the hosts, and the page finishes its requests. Records of a commit that exceeds the time limit are
//! read again from Kafka at the next start.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use edr_archive::{Frames, HostsTable, Reader};
use edr_daemon::journal::{self, Few};
use edr_daemon::state_dir::{explain, refuse_foreign};
use edr_daemon::systemd::ServiceManager;
use nix::sys::signal::{SigSet, Signal};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{Config, STATE_DIR};
use crate::consume::{ArchiveAccess, Consumer, DerivedTables, Progress, Schedule, Vitals};
use crate::event::Event;
use crate::newest::{Newest, catch_up};
use crate::query::{HostAnswers, OmittedFrames};

/// Interval between two updates of the status line.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// Interval between two entries with the status in the log.
const HOUR: Duration = Duration::from_secs(3_600);
/// Extra start time, requested from systemd at each sign of progress.
const START_EXTENSION: Duration = Duration::from_secs(120);
/// Time limit for all tasks together to stop.
const STOP_MAX: Duration = Duration::from_millis(4_500);

/// Error: another collector has locked the same state folder.
#[derive(Debug, thiserror::Error)]
#[error("another edr-collectd holds {}; stop it, or give this one a state-dir of its own", .0.display())]
pub struct AlreadyRunning(PathBuf);

/// Builds the Tokio runtime for commands and the daemon.
///
/// # Errors
/// When the kernel refuses to create threads.
pub fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the start failed, or a task ended on its own.
pub fn run(path: &Path) -> anyhow::Result<()> {
    // An invalid configuration also goes to the status line, so that `systemctl status` shows the cause.
    let config = Config::load(path).inspect_err(|report| ServiceManager::from_env().status(&report.in_one_line()))?;
    journal::install("edr-collectd", config.log_level).context("open the log")?;
    // The parent process may have blocked these signals, and a blocked signal never arrives. Unblocking precedes all
    // threads, because threads inherit the signal mask.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_unblock().context("unblock signals")?;
    let runtime = runtime()?;
    let result = runtime.block_on(daemon(path, config));
    // A library thread that waits for a broker must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn daemon(path: &Path, config: Config) -> anyhow::Result<()> {
    let manager = ServiceManager::from_env();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    refuse_foreign("edr-collectd", &config.state_dir, Path::new(STATE_DIR))?;
    let _lock = lock(&config.state_dir)?;
    let instance = instance(&config.state_dir)?;
    let listener = TcpListener::bind(config.web.listen)
        .await
        .with_context(|| format!("listen on {} (web.listen)", config.web.listen))?;
    manager.status("opening the archive");
    let begin = Instant::now();
    let archive = &config.archive.dir;
    let frames = Frames::open(archive).await?;
    // Two handles: reading at a start of partitions must not wait for a save.
    let (mut saved, derived) = (HostsTable::open(archive).await?, DerivedTables::open(archive).await?);
    let newest = Arc::new(Newest::default());
    let reader = Arc::new(Reader::new(archive));
    let answers = Arc::new(HostAnswers::new(Arc::clone(&newest), Arc::clone(&reader)));
    catch_up(&newest, &reader, Some(&mut saved), &|| manager.extend(START_EXTENSION)).await?;
    log::info!("{} hosts read from {} in {:?}", newest.len(), archive.display(), begin.elapsed());

    let archive = ArchiveAccess { frames, reader, saved, derived, schedule: Schedule::default() };
    let (settings, followed) = watch::channel(config.clone());
    let consumer = Consumer::new(&config, &instance, archive, Arc::clone(&newest))
        .context("make a Kafka consumer")?
        .follow(followed);
    let (progress, vitals) = (consumer.progress(), consumer.vitals());
    let (stop, stopped) = watch::channel(false);
    let mut tasks: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    {
        let stopped = stopped.clone();
        tasks.spawn(async move { ("consumer", consumer.run(stopped).await) });
    }
    {
        let (answers, vitals, stopped) = (Arc::clone(&answers), Arc::clone(&vitals), stopped.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = until(stopped) => {}
                () = facts(&answers, &vitals) => {}
            }
            ("facts", Ok(()))
        });
    }
    {
        let (answers, stopped) = (Arc::clone(&answers), stopped.clone());
        tasks.spawn(async move {
            let served = edr_web::serve(listener, answers, edr_web::Options::default(), until(stopped)).await;
            ("page", served.context("serve the page"))
        });
    }
    {
        let (newest, stopped) = (Arc::clone(&newest), stopped.clone());
        let answers = Arc::clone(&answers);
        let service = Service { manager: ServiceManager::from_env(), newest, answers, progress, vitals };
        tasks.spawn(async move {
            tokio::select! {
                () = until(stopped) => {}
                () = service.report() => {}
            }
            ("status", Ok(()))
        });
    }
    edr_daemon::event!(log::Level::Info, Event::Ready, "the page is on http://{}/", config.web.listen);
    manager.ready();

    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => reload(path, &settings),
            ended = tasks.join_next() => break ended,
        }
    };
    manager.stopping();
    stop.send_replace(true);
    let mut result = ended.map_or(Ok(()), |ended| Err(by_itself(ended)));
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            if let (Ok(()), Ok((name, Err(error)))) = (&result, ended) {
                result = Err(error.context(format!("stop {name}")));
            }
        }
    };
    if tokio::time::timeout(STOP_MAX, rest).await.is_err() {
        log::warn!("not everything stopped within {STOP_MAX:?}");
    }
    if result.is_ok() {
        edr_daemon::event!(log::Level::Info, Event::Stopped, "stopped");
    }
    result
}

/// Reads the configuration again. The log level and the Kafka settings take effect at once; other changes need a
/// restart. An invalid configuration changes nothing.
fn reload(path: &Path, settings: &watch::Sender<Config>) {
    let new = match Config::load(path) {
        Ok(new) => new,
        Err(report) => {
            edr_daemon::event!(
                log::Level::Error,
                Event::ConfigurationRefused,
                "SIGHUP: the old configuration stays; {report}"
            );
            return;
        }
    };
    log::set_max_level(new.log_level);
    let old = settings.borrow().clone();
    let taken = Config { log_level: new.log_level, kafka: new.kafka.clone(), ..old };
    if taken == new {
        edr_daemon::event!(log::Level::Info, Event::ConfigurationTaken, "SIGHUP: the configuration was read again");
    } else {
        edr_daemon::event!(
            log::Level::Warn,
            Event::ConfigurationRefused,
            "SIGHUP: state-dir, archive and web take a restart; the rest was taken over"
        );
    }
    settings.send_replace(taken);
}

/// Returns the error for a task that ended without a request to stop.
fn by_itself(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("{name} ended")),
        Err(error) => anyhow::Error::new(error).context("a task ended"),
    }
}

/// Computes the facts of every host whose newest snapshot changed, one host at a time. The queue holds a host once, so
/// under load only the newest of several waiting snapshots is opened.
async fn facts(answers: &HostAnswers, vitals: &Vitals) {
    loop {
        answers.facts_are_stale().await;
        loop {
            let _step = vitals.list.step();
            if !answers.refresh_next().await {
                break;
            }
        }
    }
}

/// Waits for the request to stop.
async fn until(mut stopped: watch::Receiver<bool>) {
    // After an error the daemon has dropped the sender: the wait ends as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Reports to systemd: the status line and the watchdog.
struct Service {
    manager: ServiceManager,
    newest: Arc<Newest>,
    answers: Arc<HostAnswers>,
    progress: watch::Receiver<Progress>,
    vitals: Arc<Vitals>,
}

impl Service {
    /// Renews status line and watchdog, and logs the status once an hour. The watchdog is not renewed while a stage
    /// hangs.
    async fn report(self) {
        let period = self.manager.watchdog().map_or(STATUS_PERIOD, |limit| (limit / 2).min(STATUS_PERIOD));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_hour = Instant::now() + HOUR;
        let (mut named, few) = (BTreeSet::new(), Few::default());
        loop {
            ticks.tick().await;
            match self.vitals.hung() {
                None => self.manager.alive(),
                Some((stage, silence)) => edr_daemon::limited!(
                    log::Level::Error,
                    "stage {stage} gave no sign of life for {silence:?}; the watchdog is not renewed"
                ),
            }
            let progress = self.progress.borrow().clone();
            self.name_damaged_files(&mut named, &few);
            let status = status(&progress, self.newest.len(), self.answers.omitted());
            self.answers.set_trouble(progress.trouble());
            self.manager.status(&status);
            if Instant::now() >= next_hour {
                next_hour += HOUR;
                edr_daemon::event!(log::Level::Info, Event::Hour, "{status}");
            }
        }
    }
}

impl Service {
    /// Names newly found damaged files in the log, the first few of a minute one by one. `named` has the files named so
    /// far; a repaired file that is damaged again is named again.
    fn name_damaged_files(&self, named: &mut BTreeSet<String>, few: &Few) {
        let files = self.answers.damaged_files();
        let now = std::time::Instant::now();
        for file in files.iter().filter(|file| !named.contains(&file.path)) {
            if few.admit(now) {
                edr_daemon::event!(log::Level::Warn, Event::FileDamaged, EDR_SOURCE = "archive", "{file}");
            }
        }
        if let Some(more) = few.left_out(now) {
            edr_daemon::event!(
                log::Level::Warn,
                Event::FileDamaged,
                EDR_SOURCE = "archive",
                "{more} more files of the archive cannot be read"
            );
        }
        *named = files.into_iter().map(|file| file.path).collect();
    }
}

fn status(progress: &Progress, hosts: usize, omitted: OmittedFrames) -> String {
    let Progress { archived, faults, partitions, commit, .. } = progress;
    let mut status =
        format!("{hosts} hosts; {archived} records archived, {faults} of them no frames; {partitions} partitions");
    if progress.unreadable > 0 {
        status.push_str(&format!("; {} batches unreadable", progress.unreadable));
    }
    if progress.commits > 0 {
        status.push_str(&format!("; last commit {} ms", commit.as_millis()));
    }
    for sentence in omitted.sentences() {
        status.push_str(&format!("; {sentence}"));
    }
    match progress.trouble() {
        Some(reason) => format!("{reason}; {status}"),
        None => status,
    }
}

/// Locks the state folder for this collector, and creates the folder when missing.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(state_dir).with_context(|| format!("make the folder {}", state_dir.display()))?;
    let path = state_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| match explain(&error, state_dir, &path) {
            Some(why) => anyhow::Error::new(error).context(why),
            None => error.into(),
        })
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AlreadyRunning(path).into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Returns this collector's name in the consumer group: a random id, made at the first start and kept in the state
/// folder.
fn instance(state_dir: &Path) -> anyhow::Result<String> {
    let path = state_dir.join("instance-id");
    let is_name = |text: &str| text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if let Ok(text) = std::fs::read_to_string(&path)
        && is_name(text.trim())
    {
        return Ok(text.trim().to_owned());
    }
    // getrandom(2) instead of `/proc/sys/kernel/random/uuid`: the file is hidden under `ProcSubset=pid`.
    let mut random = [0; 16];
    getrandom::fill(&mut random).context("ask the kernel for a random id")?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    let temporary = state_dir.join("instance-id.tmp");
    std::fs::write(&temporary, &id).with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_keeps_its_name_and_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().downcast_ref::<AlreadyRunning>().is_some());
        drop(held);
        lock(dir.path()).unwrap();
        let name = instance(dir.path()).unwrap();
        assert_eq!(instance(dir.path()).unwrap(), name);
        std::fs::write(dir.path().join("instance-id"), "cut").unwrap();
        assert_ne!(instance(dir.path()).unwrap(), name);
    }
}
