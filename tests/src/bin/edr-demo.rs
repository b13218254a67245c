//! `script/demo`: the whole way of the data on this machine, from `/proc` to a page, with a replay of psad.
//!
//! All started programs listen only on 127.0.0.1, write into a single temporary folder, and end with the demo.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edr_tests::cache;
use edr_tests::daemons::{AgentPlan, CollectorDaemon, CollectorPlan};
use edr_tests::kafka::Broker;
use edr_tests::psad::Replay;
use edr_tests::scene::Scene;
use edr_tests::wait;
use nix::sys::signal::{SigSet, Signal};

/// The collector's default port; the demo uses another port when the default is taken.
const PORT: u16 = 8480;
/// Time limit from the first start to the page, on a busy machine.
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
    // Without a reader of standard error the message is lost.
    let _ = writeln!(std::io::stderr(), "demo: {line}");
}

/// Returns a channel of signals (Ctrl-C and similar). A signal also interrupts all waiting in [`wait`].
fn signals() -> Result<Receiver<Signal>> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // The mask applies to this thread and to all threads started later, so only the signal thread receives the signals.
    // Child processes start without blocked signals.
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

/// The lock of the running demo. The file describes the demo that holds the lock.
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
    // 5 s instead of the 10 s of a real host, so that changes appear sooner.
    plan.interval = "5s".to_owned();
    let mut agent = plan.start()?;
    // The first line about Kafka's acknowledgement; the wait ends at once when the agent does.
    agent.process.says("last ack", SHOWN_LIMIT)?;

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
    // In the order of the data: the collector still receives the agent's last frames.
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

/// Checks that the page shows a known process, open file, socket and attacker.
fn shows_everything(collector: &mut CollectorDaemon, host: &str) -> Result<()> {
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
        // The filter itself is part of the page, so its text must appear once more than as the filter.
        let times = usize::from(filter == shown) + 1;
        collector.page(&format!("{host}/{view}{query}"), &shown, SHOWN_LIMIT, |body| {
            let is_found = filter.is_empty() || !body.contains("class=\"empty\"");
            is_found && body.matches(&shown).count() >= times
        })?;
        say(&format!("{view}: {shown}"));
    }
    Ok(())
}

/// Opens the page in a browser when there is a desktop.
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
