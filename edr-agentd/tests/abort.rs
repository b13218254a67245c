//! The watchdog's signal: the log names the state of every thread, and the agent ends by the same signal, even when
//! threads hang.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edr_agentd::spool::verify;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far longer than every step of these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent that samples every second and has no broker; ends with the test.
struct AbortingAgent {
    process: Child,
    dir: tempfile::TempDir,
}

impl AbortingAgent {
    fn start(standard_error: impl FnOnce(&Path) -> Stdio) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        let state = dir.path().join("state");
        let text = format!("interval = \"1s\"\nstate-dir = {state:?}\n[kafka]\nbrokers = [\"127.0.0.1:1\"]\n");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edr-agentd"));
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let process = command.stderr(standard_error(&dir.path().join("log"))).spawn().unwrap();
        Self { process, dir }
    }

    fn with_log() -> Self {
        let agent = Self::start(|log| fs::File::create(log).unwrap().into());
        wait_until("the agent is ready", || agent.log().contains("ready: "));
        agent
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// True when the thread `thread` is in the system call `number`.
    fn is_in(&self, thread: &str, number: i64) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let number = format!("{number} ");
        tasks.map(|task| task.unwrap().path()).any(|task| {
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            read("comm").trim_end() == thread && read("syscall").starts_with(&number)
        })
    }

    /// Sends the watchdog's signal.
    fn abort(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGABRT).unwrap();
    }

    /// Waits for the end of the agent, and returns the signal that ended the process.
    fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.signal();
            }
            assert!(started.elapsed() < PATIENCE, "SIGABRT does not end it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for AbortingAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < PATIENCE, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The log line about the thread `thread`.
fn line<'log>(log: &'log str, thread: &str) -> &'log str {
    let name = format!("({thread}): ");
    log.lines().find(|line| line.contains(&name)).unwrap_or_else(|| panic!("nothing of {thread}: {log}"))
}

#[test]
fn a_healthy_agent_reports_its_threads_and_ends_by_the_signal() {
    let mut agent = AbortingAgent::with_log();
    agent.abort();
    assert_eq!(agent.end(), Some(libc::SIGABRT));
    let log = agent.log();
    let sender = format!("SIGABRT from pid {} ", std::process::id());
    assert!(log.contains(&sender), "{log}");
    for heartbeat in ["sampler ", "shipper "] {
        let said = log.lines().find(|line| line.contains(&format!("error {heartbeat}"))).unwrap();
        assert!(said.contains("waits for its next work") || said.contains("has not moved for "), "{said}");
    }
    for thread in ["edr-agentd", "sampler", "shipper", "abort"] {
        assert!(line(&log, thread).contains(": state "), "{log}");
    }
    assert!(line(&log, "abort").contains("state R"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let (frames, findings) = verify(&agent.state()).unwrap();
    assert!(!frames.is_empty() && findings.is_empty(), "{findings:?}");
}

/// The sampler hangs in the storage: a tracer holds the thread at the entry of fsync(2).
#[test]
fn a_hung_thread_is_named_with_its_stage_its_call_and_its_file() {
    let mut agent = AbortingAgent::with_log();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=600000000"]);
    let Ok(mut strace) = strace.args(["-p", &agent.process.id().to_string()]).stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: strace is not installed");
        return;
    };
    let started = Instant::now();
    while !agent.is_in("sampler", libc::SYS_fsync) {
        if strace.try_wait().unwrap().is_some() {
            eprintln!("skipped: strace may not attach here");
            return;
        }
        if started.elapsed() > PATIENCE {
            let _ = strace.kill();
            panic!("the sampler does not come to fsync");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Like a watchdog, waits long enough for the report to count as a hang.
    std::thread::sleep(Duration::from_millis(1_500));
    agent.abort();
    // The tracer keeps its tracee from ending, so the tracer is removed as soon as the report is there.
    let started = Instant::now();
    while !agent.log().contains("(sampler): ") && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = strace.kill();
    let _ = strace.wait();
    assert_eq!(agent.end(), Some(libc::SIGABRT));
    let log = agent.log();
    assert!(log.contains("error sampler has not moved for "), "{log}");
    assert!(log.contains("stage of the tick: spool, for "), "{log}");
    let sampler = line(&log, "sampler");
    assert!(sampler.contains(&format!(", in fsync on {}", agent.state().display())), "{sampler}");
}

/// `main` hangs in writing to the log, so the report cannot be written either.
#[test]
fn a_blocked_log_does_not_keep_the_agent_alive() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let room = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
    writer.write_all(&vec![b'x'; usize::try_from(room).unwrap()]).unwrap();
    let mut agent = AbortingAgent::start(|_| writer.into());
    wait_until("main hangs in its log", || agent.is_in("edr-agentd", libc::SYS_write));
    agent.abort();
    assert_eq!(agent.end(), Some(libc::SIGALRM));
    drop(reader);
}
