//! `script/demo`: the whole way on this machine, from `/proc` to a page, and psad at work beside it.
//!
//! Everything it starts listens on 127.0.0.1 only, writes into one temporary folder, and ends with it.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edr_tests::cache;
use edr_tests::daemons::{AgentPlan, Collector, CollectorPlan};
use edr_tests::kafka::Broker;
use edr_tests::psad::Replay;
use edr_tests::scene::Scene;
use edr_tests::wait;
use nix::sys::signal::{SigSet, Signal};

/// The collector's own default; another one is taken where it is in use.
const PORT: u16 = 8480;
/// From the first start to the page, on a machine that is busy with other things.
const SHOWN_LIMIT: Duration = Duration::from_secs(120);
/// A daemon that takes longer to stop is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// An attacker of the replayed fixture.
const ATTACKER: &str = "198.51.100.66";

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [arg] if arg == "--once" => true,
        _ => {
            say("usage: script/demo [--once]");
            return ExitCode::from(2);
        }
    };
    match signals().and_then(|signals| demo(once, &signals)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Where nobody reads there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "demo: {line}");
}

/// Ctrl-C and its like, as messages; what waits for something else meanwhile ends with an error.
fn signals() -> Result<Receiver<Signal>> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // In this thread and all it starts: one thread alone hears them. A child starts with none blocked.
    set.thread_block().context("block signals")?;
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = set.wait() {
                wait::interrupt();
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })
        .context("start a thread")?;
    Ok(receiver)
}

/// Held while a demo runs; the file says which.
fn only_one() -> Result<File> {
    let path = cache::dir().join("demo.lock");
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = open.with_context(|| format!("open {}", path.display()))?;
    if file.try_lock().is_err() {
        let mut running = String::new();
        let _ = file.read_to_string(&mut running);
        bail!("a demo already runs: {}", running.trim());
    }
    Ok(file)
}

fn note(lock: &mut File, text: &str) -> Result<()> {
    lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{text}")).context("write the lock file")
}

fn demo(once: bool, signals: &Receiver<Signal>) -> Result<()> {
    let mut lock = only_one()?;
    note(&mut lock, &format!("pid {}, about to start", std::process::id()))?;
    let start = Instant::now();
    let scene = Scene::new("demo")?;
    let seconds = || format!("{:.1} s", start.elapsed().as_secs_f32());

    let broker = Broker::start(&scene.folder("kafka")?)?;
    say(&format!("Kafka answers on {} ({})", broker.address(), seconds()));

    let mut plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), "edr.snapshots")?;
    if TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).is_ok() {
        plan.port = PORT;
    }
    plan.create_topic()?;
    let mut collector = plan.start()?;

    let mut replay = Replay::start(&scene.folder("psad")?)?;
    let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), "edr.snapshots");
    plan.psad_dir = replay.tree().dir.clone();
    plan.packet_log = Some(replay.tree().packet_log.clone());
    // A hand's breadth from the ten seconds of a real host, so that one need not wait to see something move.
    plan.interval = "5s".to_owned();
    let mut agent = plan.start()?;

    let host =
        collector.host_path(SHOWN_LIMIT).with_context(|| format!("the agent's log:\n{}", agent.process.log_tail()))?;
    let page = collector.plan.url("/");
    note(&mut lock, &format!("pid {}, its page is {page}", std::process::id()))?;
    say(&format!(
        "agent (pid {}) and collector (pid {}) run; the page shows this host ({})",
        agent.process.pid(),
        collector.process.pid(),
        seconds()
    ));
    say(&page);

    let outcome = if once {
        shows_everything(&mut collector, &host).inspect(|()| say(&format!("all of it is shown ({})", seconds())))
    } else {
        open_browser(&page);
        say("Ctrl-C stops everything");
        stay(signals, || {
            ensure!(agent.process.is_running()?, "the agent ended; its log:\n{}", agent.process.log_tail());
            ensure!(collector.process.is_running()?, "the collector ended; its log:\n{}", collector.process.log_tail());
            replay.step()
        })
    };
    wait::resume();
    // In the order of the data: what the agent still sends, the collector still gets.
    for (name, process) in [("agent", &mut agent.process), ("collector", &mut collector.process)] {
        if let Err(error) = process.terminate(STOP_LIMIT) {
            say(&format!("the {name} does not stop and is killed: {error:#}"));
        }
    }
    outcome
}

/// Calls `step` every second until a signal comes.
fn stay(signals: &Receiver<Signal>, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    loop {
        match signals.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => step()?,
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// The page shows a process, an open file, a socket and an attacker, each one that is known to be there.
fn shows_everything(collector: &mut Collector, host: &str) -> Result<()> {
    let pid = std::process::id();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen, to be shown")?;
    let port = listener.local_addr().context("ask for the port")?.port();
    let file = tempfile::Builder::new().prefix("edr-demo-shown-").tempfile().context("make a file, to be shown")?;
    let name = file.path().file_name().context("the file has a name")?.to_string_lossy().into_owned();
    let checks = [
        ("processes", format!("pid:{pid}"), "edr-demo".to_owned()),
        ("files", name.clone(), name),
        ("sockets", format!("local_port:{port}"), format!(">{port}<")),
        ("psad", String::new(), ATTACKER.to_owned()),
    ];
    for (view, filter, shown) in checks {
        let query = if filter.is_empty() { String::new() } else { format!("?filter={filter}") };
        // The filter stands in the page, too: what is looked for must be there more often than as the filter.
        let times = usize::from(filter == shown) + 1;
        collector.page(&format!("{host}/{view}{query}"), &shown, SHOWN_LIMIT, |body| {
            body.matches(&shown).count() >= times
        })?;
        say(&format!("{view}: {shown}"));
    }
    Ok(())
}

/// Only where there is a desktop to open it on.
fn open_browser(page: &str) {
    let desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if desktop {
        let open =
            Command::new("xdg-open").arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if open.is_err() {
            say("no xdg-open here; open the page yourself");
        }
    }
}
