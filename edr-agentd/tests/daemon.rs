//! The daemon as a process: its start, notifications to systemd, signals, and its end. There is no broker, with no
//! effect on these.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use edr_agentd::spool::{Listing, verify};
use edr_wire::frame::FrameKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far longer than every step of these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host with a configuration, a state folder, and a listener in the place of systemd.
struct TestHost {
    dir: tempfile::TempDir,
    systemd: UnixDatagram,
}

impl TestHost {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let systemd = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = Self { dir, systemd };
        host.configure("");
        host
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("agent.toml")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// No process listens on port 1.
    fn configure(&self, more: &str) {
        let state = self.state();
        let text = format!(
            "interval = \"1s\"\nstate-dir = {state:?}\n{more}\n[kafka]\nbrokers = [\"127.0.0.1:1\"]\nmessage-timeout \
            = \"1s\"\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edr-agentd"));
        command.args(words).arg("--config").arg(self.config());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn start(&self) -> AgentProcess {
        let mut command = self.command(&["run"]);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify")).env("WATCHDOG_USEC", "3000000");
        let log = self.dir.path().join("log");
        let log_file = fs::File::options().create(true).append(true).open(&log).unwrap();
        AgentProcess { process: command.stderr(log_file).stdin(Stdio::null()).spawn().unwrap(), log }
    }

    /// Waits for a notification to systemd that starts with `word`.
    fn told(&self, word: &str) -> String {
        let started = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            let len = self.systemd.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.starts_with(word) {
                return text;
            }
            assert!(started.elapsed() < PATIENCE, "systemd was not told {word}");
        }
    }

    fn frames(&self) -> Vec<Listing> {
        let (frames, findings) = verify(&self.state()).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        frames
    }
}

/// A running agent; ends with the test.
struct AgentProcess {
    process: Child,
    log: PathBuf,
}

impl AgentProcess {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn end(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the sampler waits for its next tick.
    fn waits_for_its_tick(&self) {
        let started = Instant::now();
        let waits = |task: PathBuf| {
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            read("comm") == "sampler\n" && read("syscall").starts_with(&format!("{} ", nix::libc::SYS_ppoll))
        };
        let tasks = format!("/proc/{}/task", self.process.id());
        while !fs::read_dir(&tasks).unwrap().any(|task| waits(task.unwrap().path())) {
            assert!(started.elapsed() < PATIENCE, "the sampler does not wait:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the log has `words`.
    fn logs(&self, words: &str) {
        let started = Instant::now();
        while !self.log().contains(words) {
            assert!(started.elapsed() < PATIENCE, "{words:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_broker_the_agent_is_ready_samples_and_ends_with_a_bye() {
    let host = TestHost::new();
    let mut daemon = host.start();
    host.told("READY=1");
    assert!(!host.frames().is_empty(), "ready means that a snapshot is in the spool");
    host.told("WATCHDOG=1");
    let status = host.told("STATUS=seq ");
    assert!(status.contains("last snapshot 0 s ago (") && status.contains(", unsent "), "{status}");
    daemon.logs("127.0.0.1:1");
    let started = Instant::now();
    while !host.told("STATUS=seq ").contains("; Kafka for ") {
        assert!(started.elapsed() < PATIENCE, "the status does not tell of the outage");
    }
    let asked = Instant::now();
    daemon.signal(Signal::SIGTERM);
    host.told("STOPPING=1");
    assert_eq!(daemon.end(), Some(0));
    edr_tests::wait::within("a stop", Duration::from_secs(5), asked.elapsed()).unwrap();
    let frames = host.frames();
    let headers: Vec<_> = frames.iter().map(|frame| frame.header.as_ref().unwrap()).collect();
    assert!(headers.len() >= 2);
    assert!(headers.iter().enumerate().all(|(n, header)| header.seq == n as u64 + 1), "seq has no holes");
    assert!(headers.iter().enumerate().all(|(n, header)| header.bye == (n + 1 == headers.len())), "one bye, the last");
    assert_eq!(headers[0].kind, FrameKind::Key);
    assert!(headers[1].kind == FrameKind::Delta && frames[1].bytes < frames[0].bytes);
    // The outage is logged once, not at each attempt.
    let log = daemon.log();
    assert!(log.matches("nothing acknowledged").count() + log.matches("no broker of").count() <= 2, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn the_running_agent_answers_status_and_clients_cannot_block_it() {
    let host = TestHost::new();
    let ask = |format: &str| host.run(&["status", "--format", format]);
    let alone = ask("json");
    assert_eq!(alone.status.code(), Some(1));
    assert!(text(&alone.stderr).contains("no edr-agentd answers on "), "{}", text(&alone.stderr));
    let mut daemon = host.start();
    host.told("READY=1");
    daemon.logs("127.0.0.1:1");
    let status: serde_json::Value = serde_json::from_slice(&ask("json").stdout).unwrap();
    assert_eq!(status["pid"], daemon.process.id());
    assert!(status["snapshot"]["seq"].as_u64().unwrap() >= 1, "{status}");
    assert!(status["snapshot"]["cpu_ms"].as_u64().unwrap() <= status["up_ms"].as_u64().unwrap(), "{status}");
    assert_eq!(status["spool"]["memory_only"], false);
    assert!(status["kafka"]["last_error"].as_str().unwrap().contains("127.0.0.1:1"), "{status}");
    let checked = text(&host.run(&["check"]).stdout);
    assert!(checked.contains(status["config_hash"].as_str().unwrap()), "{checked}");
    let told = text(&ask("table").stdout);
    assert!(told.contains("frame          seq ") && told.contains("last error"), "{told}");
    // Connections without reads, some with writes.
    let socket = host.state().join("status.sock");
    let held: Vec<UnixStream> = (0..300)
        .map_while(|n| {
            let mut stream = UnixStream::connect(&socket).ok()?;
            if n % 2 == 0 {
                let _ = stream.write_all(b"STOP");
            }
            Some(stream)
        })
        .collect();
    let before = status["snapshot"]["seq"].as_u64().unwrap();
    let started = Instant::now();
    loop {
        let status = ask("json");
        let seq = serde_json::from_slice::<serde_json::Value>(&status.stdout).ok();
        if seq.and_then(|status| status["snapshot"]["seq"].as_u64()).is_some_and(|seq| seq > before + 1) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{}", text(&status.stderr));
    }
    host.told("WATCHDOG=1");
    drop(held);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_killed_agent_continues_and_names_the_missed_ticks() {
    let host = TestHost::new();
    let mut daemon = host.start();
    host.told("READY=1");
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let before = host.frames();
    // Two ticks pass without an agent.
    std::thread::sleep(Duration::from_millis(2_500));
    let mut daemon = host.start();
    host.told("READY=1");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
    let after = host.frames();
    let next = after[before.len()].header.as_ref().unwrap();
    let last = before.last().unwrap().header.as_ref().unwrap();
    assert_eq!((next.epoch, next.seq, next.kind), (last.epoch, last.seq + 1, FrameKind::Key));
    let missed: Vec<_> = next.missed.iter().filter(|missed| missed.ticks < 60).collect();
    assert!(missed.iter().any(|missed| missed.ticks >= 2 && missed.reason == "not_running"), "{:?}", next.missed);
    // A clean stop is declared with another reason than a crash.
    let mut daemon = host.start();
    std::thread::sleep(Duration::from_millis(1));
    host.told("READY=1");
    daemon.signal(Signal::SIGTERM);
    daemon.end();
    let last = host.frames().pop().unwrap().header.unwrap();
    assert!(last.bye && last.epoch == next.epoch);
}

/// `kill -9` at each system call in the making of a frame: the files left are whole, stay unchanged, and the next start
/// continues after the last frame.
#[test]
fn a_kill_at_any_system_call_of_the_spool_loses_nothing_accepted() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let mut points = 0;
    for (call, times) in [("mkdir", 1..=2), ("fsync", 1..=6), ("rename", 1..=2), ("openat", 2..=2)] {
        for when in times {
            let host = TestHost::new();
            let agent = host.command(&["run"]);
            let only = host.state().join("spool");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
            if call == "openat" {
                // Of the many opened files, only the files of the spool.
                strace.arg("-P").arg(&only);
            }
            strace.arg(agent.get_program()).args(agent.get_args()).stderr(Stdio::null());
            let mut killed = strace.spawn().unwrap();
            let started = Instant::now();
            let ended = loop {
                if let Some(status) = killed.try_wait().unwrap() {
                    break Some(status);
                }
                if started.elapsed() > Duration::from_secs(10) {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            if ended.is_none() {
                // The call occurs less often: no such point.
                end_tracer(&mut killed);
                continue;
            }
            points += 1;
            let left = if only.exists() { verify(&host.state()).unwrap().0 } else { Vec::new() };
            let whole: Vec<_> = left.iter().map(|frame| (frame.id, frame.header.clone().unwrap())).collect();
            let mut daemon = host.start();
            host.told("READY=1");
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.end(), Some(0), "{call} {when}: {}", daemon.log());
            let frames = host.frames();
            for (id, header) in &whole {
                let now = frames.iter().find(|frame| frame.id == *id);
                assert_eq!(now.map(|frame| frame.header.as_ref().unwrap()), Some(header), "{call} {when}: {id}");
            }
            let seqs: Vec<u64> = frames.iter().map(|frame| frame.id.seq).collect();
            assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{call} {when}");
            assert!(frames.len() > whole.len());
        }
    }
    assert!(points >= 6, "only {points} points were reached");
}

/// One of the first fsyncs fails, each in turn. Before the first frame is accepted, the name of every new folder is on
/// the disk all the same.
#[test]
fn no_frame_is_accepted_in_a_folder_that_a_power_cut_would_take() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    for when in 1..=6 {
        let host = TestHost::new();
        let agent = host.command(&["run"]);
        let trace = host.state().with_extension("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-y", "-e", "trace=fsync", "-o"]).arg(&trace);
        strace.args(["-e", &format!("inject=fsync:error=EIO:when={when}")]);
        strace.env("NOTIFY_SOCKET", host.dir.path().join("notify")).env_remove("WATCHDOG_USEC");
        strace.arg(agent.get_program()).args(agent.get_args()).stderr(Stdio::null());
        let mut traced = strace.spawn().unwrap();
        host.told("READY=1");
        end_tracer(&mut traced);
        let spool = host.state().join("spool");
        let frame = host.frames();
        if frame.is_empty() {
            // The frame is in memory: nothing is claimed to be on the disk.
            continue;
        }
        let calls = fs::read_to_string(&trace).unwrap();
        let folder = spool.join(frame[0].id.epoch.to_string());
        let made =
            [folder.as_path(), spool.as_path(), &host.state(), host.state().parent().unwrap()].map(Path::to_owned);
        for folder in made {
            let synced = format!("<{}>)", folder.display());
            assert!(
                calls.lines().any(|call| call.contains(&synced) && call.ends_with("= 0")),
                "fsync {when}: {} in {calls}",
                folder.display()
            );
        }
    }
}

/// Ends the tracee, then the tracer: after SIGTERM a tracer lets its tracee continue.
fn end_tracer(tracer: &mut Child) {
    let children = format!("/proc/{0}/task/{0}/children", tracer.id());
    for pid in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
        let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
    }
    let _ = tracer.kill();
    let _ = tracer.wait();
}

#[test]
fn a_stopped_process_misses_ticks_and_does_not_catch_up() {
    let host = TestHost::new();
    let mut daemon = host.start();
    host.told("READY=1");
    // READY=1 comes a moment before the wait for the next tick. An agent stopped in that moment would have overrun its
    // time.
    daemon.waits_for_its_tick();
    let before = host.frames().len();
    daemon.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(3_500));
    daemon.signal(Signal::SIGCONT);
    daemon.logs("ticks missed: not_scheduled");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
    let frames = host.frames();
    let missed: Vec<_> = frames.last().unwrap().header.as_ref().unwrap().missed.clone();
    let stopped = missed.iter().find(|missed| missed.reason == "not_scheduled").unwrap();
    assert!((2..=4).contains(&stopped.ticks), "{missed:?}");
    assert!(frames.len() - before <= 4, "a burst of {} frames", frames.len() - before);
}

#[test]
fn a_second_agent_exits_with_75_and_names_the_first() {
    let host = TestHost::new();
    let daemon = host.start();
    host.told("READY=1");
    let second = host.run(&["run"]);
    assert_eq!(second.status.code(), Some(75));
    let said = text(&second.stderr);
    assert!(said.contains(&format!("another edr-agentd (pid {}) holds", daemon.process.id())), "{said}");
    // A listing of the spool is allowed meanwhile.
    assert_eq!(host.run(&["spool", "list"]).status.code(), Some(0));
    assert_eq!(host.run(&["spool", "verify"]).status.code(), Some(0));
}

#[test]
fn a_wrong_configuration_exits_with_78_and_all_problems_and_a_reload_changes_nothing() {
    let host = TestHost::new();
    let mut daemon = host.start();
    host.told("READY=1");
    host.configure("intervall = 3\nkey-interval = \"x\"");
    for words in [&["run"][..], &["check"], &["snapshot"]] {
        let refused = host.run(words);
        assert_eq!(refused.status.code(), Some(78), "{words:?}");
        let said = text(&refused.stderr);
        assert!(said.contains("agent.toml:3: intervall") && said.contains("agent.toml:4: key-interval"), "{said}");
    }
    daemon.signal(Signal::SIGHUP);
    daemon.logs("SIGHUP: the old configuration stays; configuration: 2 problems");
    host.configure("log-level = \"debug\"");
    daemon.signal(Signal::SIGHUP);
    daemon.logs("SIGHUP: configuration");
    daemon.logs("debug frame");
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn verify_reports_a_damaged_frame_with_exit_1() {
    let host = TestHost::new();
    let mut daemon = host.start();
    host.told("READY=1");
    daemon.signal(Signal::SIGTERM);
    daemon.end();
    let frame = first_frame(&host.state());
    let mut bytes = fs::read(&frame).unwrap();
    bytes[30] ^= 1;
    fs::write(&frame, bytes).unwrap();
    let verified = host.run(&["spool", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified.stdout).contains("checksum does not fit"), "{}", text(&verified.stdout));
    assert!(text(&host.run(&["spool", "list"]).stdout).contains("checksum does not fit"));
}

fn first_frame(state: &Path) -> PathBuf {
    let folder = fs::read_dir(state.join("spool")).unwrap().next().unwrap().unwrap().path();
    let mut frames: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    frames.sort();
    frames.remove(0)
}

#[test]
fn one_snapshot_has_this_process_in_every_format() {
    let host = TestHost::new();
    let json = host.run(&["snapshot", "--format", "json"]);
    assert_eq!(json.status.code(), Some(0), "{}", text(&json.stderr));
    let snapshot: edr_wire::snapshot::Snapshot = serde_json::from_slice(&json.stdout).unwrap();
    let myself = snapshot.processes.iter().find(|process| process.pid == std::process::id()).unwrap();
    assert!(!myself.argv.is_empty());
    let msgpack = host.run(&["snapshot", "--format", "msgpack"]).stdout;
    let view = edr_wire::snapshot::SnapshotView::parse(msgpack).unwrap();
    assert!(view.processes().any(|process| process.unwrap().pid == std::process::id()));
    let table = text(&host.run(&["snapshot"]).stdout);
    for words in ["processes:", "open files", "sockets:", "psad:", "not seen:", &format!("{:>8} ", std::process::id())]
    {
        assert!(table.contains(words), "{words:?} is not in the table");
    }
    assert!(!host.state().exists(), "a snapshot touches no state");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let host = TestHost::new();
    let mut snapshot = host.command(&["snapshot", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    let mut out = snapshot.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let ended = snapshot.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
}
