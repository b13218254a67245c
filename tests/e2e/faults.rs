//! Faults of the environment: no broker, no rights, no psad, an invalid configuration, a stop.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::binaries;
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::http::text_of;
use edr_tests::kafka::Broker;
use edr_tests::notify::NotifySocket;
use edr_tests::psad::PsadTree;
use edr_tests::running::Program;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_tests::wait;
use edr_wire::frame::Record;
use libtest_mimic::Completion;
use nix::unistd::geteuid;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);
/// Time limit for a daemon to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Without a broker the agent becomes ready, samples into its spool and reports the missing broker once a minute. With
/// a broker the agent sends all spooled frames.
pub(crate) fn a_broker_that_comes_later(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    Scene::run("later", |scene| {
        let mut broker = Broker::prepare(&scene.folder("kafka")?)?;
        let notify = NotifySocket::new(scene.path())?;
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), "edr.snapshots");
        plan.notify = Some(notify.path().to_owned());
        // A broker that does not answer within this time counts as away.
        plan.kafka = "message-timeout = \"2s\"\n".to_owned();
        let mut agent = plan.start()?;
        notify.receive("READY=1", LIMIT)?;
        agent.has_spooled(6, LIMIT)?;
        let said = complaints(&agent.process.log(), &broker.address());
        ensure!(said == 1, "{said} lines about the broker in six seconds:\n{}", agent.process.log_tail());

        broker.resume()?;
        let collector = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), "edr.snapshots")?;
        collector.create_topic()?;
        wait::until("the spool to be sent", LIMIT, || {
            ensure!(agent.process.is_running()?, "the agent ended; its log:\n{}", agent.process.log_tail());
            // The newest frame and the key stay in the spool.
            Ok((agent.spooled()?.len() <= 2).then_some(()))
        })?;
        agent.process.terminate(LIMIT)?;
        let mut numbers = Vec::new();
        for record in records(&broker, "edr.snapshots")? {
            numbers.push(Record::decode(&record.value)?.header.seq);
        }
        numbers.dedup();
        let last = numbers.len() as u64;
        ensure!(last >= 7 && numbers.iter().copied().eq(1..=last), "not every frame once and in order: {numbers:?}");
        PASSED
    })
}

/// In 90 seconds without a broker the agent logs the outage in two or three lines.
pub(crate) fn a_broker_that_stays_away(shared: &TestBed) -> TestResult {
    if std::env::var_os("EDR_TEST_LONG").is_none() {
        return Ok(Completion::ignored_with("takes 90 s: script/test --long"));
    }
    let _beside = shared.beside_others();
    Scene::run("away", |scene| {
        let broker = Broker::prepare(&scene.folder("kafka")?)?;
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), "edr.snapshots");
        plan.kafka = "message-timeout = \"2s\"\n".to_owned();
        let mut agent = plan.start()?;
        agent.has_spooled(90, 3 * LIMIT)?;
        let said = complaints(&agent.process.log(), &broker.address());
        ensure!((2..=3).contains(&said), "{said} lines about the broker in 90 s:\n{}", agent.process.log_tail());
        PASSED
    })
}

/// The number of log lines that name the broker.
fn complaints(log: &str, broker: &str) -> usize {
    log.lines().filter(|line| line.contains(broker)).count()
}

/// Every problem of a configuration is reported at once, each with file, line, key, rule and remedy; exit code 78.
pub(crate) fn a_wrong_configuration(_: &TestBed) -> TestResult {
    let agent = (
        &binaries()?.agent,
        "agent.toml",
        "intervall = \"10s\"\nkey-interval = 5\n\n[kafka]\nbrokers = [\"localhost\"]\npart-bytes-max = \"9GiB\"\n",
        vec![
            "agent.toml:1: intervall",
            "did you mean interval",
            "agent.toml:2: key-interval",
            "agent.toml:5: kafka.brokers",
            "agent.toml:6: kafka.part-bytes-max",
        ],
    );
    let collector = (
        &binaries()?.collector,
        "collector.toml",
        "state-dir = \"relative\"\n\n[kafka]\ngroup = \"a b\"\n\n[web]\nlisten = \"0.0.0.0:80\"\nport = 1\n",
        vec![
            "collector.toml:1: state-dir",
            "kafka.brokers",
            "collector.toml:4: kafka.group",
            "collector.toml:7: web.listen",
            "collector.toml:8: web.port",
        ],
    );
    for (program, name, text, wanted) in [agent, collector] {
        Scene::run("config", |scene| {
            let path = scene.path().join(name);
            std::fs::write(&path, text)?;
            for command in ["check", "run"] {
                let output =
                    Program::new("check", scene.path(), program).arg(command).arg("--config").arg(&path).output()?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(output.status.code() == Some(78), "{command}: {}\n{said}", output.status);
                for part in &wanted {
                    ensure!(said.contains(part), "{command} does not say {part:?}:\n{said}");
                }
            }
            Ok(())
        })?;
    }
    PASSED
}

/// Without rights for other users' descriptors the agent continues, and snapshot and page name the missing part.
pub(crate) fn no_rights(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("rights", |scene| {
        let broker = shared.broker()?.address();
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker, &topic);
        if geteuid().is_root() {
            // The user without rights needs readable copies of the program and of the folders.
            let program = scene.path().join("edr-agentd");
            std::fs::copy(&binaries()?.agent, &program).context("copy the agent")?;
            for path in [scene.path(), &program] {
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
            }
            std::fs::set_permissions(&plan.dir, PermissionsExt::from_mode(0o777))?;
            plan.program = Some(program);
            let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL", "--"];
            plan.behind = nobody.map(Into::into).to_vec();
        }
        let snapshot = plan.snapshot()?;
        let degraded = says_degraded(&snapshot["agent"]["degraded"])?;
        ensure!(degraded.contains("run as"), "the remedy is missing: {degraded}");
        ensure!(snapshot["processes"].as_array().is_some_and(|rows| rows.len() > 1), "it sees only itself");

        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker, &topic)?.start()?;
        let _agent = plan.start()?;
        let host = collector.host_path(LIMIT)?;
        collector.page(&host, &degraded, LIMIT, |body| text_of(body).contains(&degraded))?;
        PASSED
    })
}

fn says_degraded(reasons: &serde_json::Value) -> Result<String> {
    let first = reasons.as_array().and_then(|reasons| reasons.first()).and_then(|reason| reason.as_str());
    first.map(str::to_owned).context("the snapshot does not say that it is degraded")
}

/// psad is detected when it appears, without a restart of the agent. The view of a scanned port names the listening
/// process.
pub(crate) fn psad_that_comes_later(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("psad", |scene| {
        let broker = shared.broker()?.address();
        let tree = PsadTree::new(&scene.folder("psad")?);
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker, &topic);
        plan.psad_dir = tree.dir.clone();
        plan.packet_log = Some(tree.packet_log.clone());
        ensure!(plan.snapshot()?["psad"]["mode"] == "absent", "psad is there before it is");
        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker, &topic)?.start()?;
        let mut agent = plan.start()?;
        let host = collector.host_path(LIMIT)?;
        collector.page(&format!("{host}/psad"), "that psad is absent", LIMIT, |body| {
            text_of(body).contains("There is no psad")
        })?;
        tree.show("autoblock/t1")?;
        // The snapshot command reads psad at once.
        let attackers = plan.snapshot()?["psad"]["top_attackers"].clone();
        let attackers = attackers.as_array().context("the snapshot has no attackers")?;
        ensure!(attackers.iter().any(|row| row["ip"] == "198.51.100.66"), "the attackers are {attackers:?}");
        for (view, shown) in [("attackers", "198.51.100.66"), ("prefixes", "EGRESS")] {
            collector.page(&format!("{host}/{view}"), shown, LIMIT, |body| text_of(body).contains(shown))?;
        }
        let (_listener, port) = on_a_scanned_port()?;
        let pid = std::process::id();
        collector.page(&format!("{host}/exposed"), "who listens on a scanned port", LIMIT, |body| {
            body.contains(&format!(">{port}<")) && body.contains(&format!(">{pid}<"))
        })?;
        let id = host.trim_start_matches("/hosts/");
        let exposed = wait::until("the same from the archive", LIMIT, || {
            let rows = collector.plan.view(&["psad", "--section", "exposed", "--host", id])?;
            let rows = rows.as_array().context("exposed is no list")?;
            Ok(rows.iter().find(|row| row["port"] == port && row["pid"] == pid).cloned())
        })?;
        ensure!(exposed["listening"] == "yes" && exposed["address"] == "0.0.0.0", "the row is {exposed}");
        let exe = std::env::current_exe()?.display().to_string();
        ensure!(exposed["exe"] == exe && exposed["start_time"].is_string(), "the row is {exposed}");
        ensure!(agent.process.is_running()?, "the agent ended");
        PASSED
    })
}

/// A listening socket of this process on a port scanned in `autoblock/t1`.
fn on_a_scanned_port() -> Result<(std::net::TcpListener, u16)> {
    let ranking = edr_tests::cache::checkout().join("tests/fixtures/psad/autoblock/t1/var/log/psad/top_ports");
    let text = std::fs::read_to_string(&ranking).with_context(|| format!("read {}", ranking.display()))?;
    let ports = text.lines().filter_map(|line| line.strip_prefix("tcp ")?.split(' ').next()?.parse::<u16>().ok());
    let mut free = ports.filter_map(|port| Some((std::net::TcpListener::bind(("0.0.0.0", port)).ok()?, port)));
    free.next().context("none of the scanned ports is free here")
}

/// SIGTERM ends the agent within five seconds, with a final frame marked `bye`, even when the broker hangs.
pub(crate) fn a_stop(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("stop", |scene| {
        let broker = shared.broker()?;
        let mut agent = AgentPlan::new(&scene.folder("one")?, &broker.address(), &topic).start()?;
        agent.has_spooled(1, LIMIT)?;
        stops(&mut agent.process)?;
        ends_with_goodbye(&agent.spooled()?)?;

        // A broker that accepts connections and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = silent.local_addr()?.to_string();
        let mut agent = AgentPlan::new(&scene.folder("two")?, &address, &topic).start()?;
        agent.has_spooled(2, LIMIT)?;
        stops(&mut agent.process)?;
        ends_with_goodbye(&agent.spooled()?)?;

        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?.start()?;
        collector.host_path(LIMIT)?;
        stops(&mut collector.process)?;
        PASSED
    })
}

fn stops(process: &mut edr_tests::running::Running) -> Result<()> {
    let (status, time) = process.terminate(LIMIT)?;
    ensure!(status.success(), "it ended with {status}; its log:\n{}", process.log_tail());
    ensure!(time <= STOP_LIMIT, "it took {:.1} s to stop", time.as_secs_f32());
    Ok(())
}

fn ends_with_goodbye(frames: &[std::path::PathBuf]) -> Result<()> {
    let newest: &Path = frames.last().context("nothing is left in the spool")?;
    let bytes = std::fs::read(newest)?;
    let record = edr_wire::frame::split_records(&bytes).next().context("an empty frame file")??;
    ensure!(Record::decode(record)?.header.bye, "{} says no goodbye", newest.display());
    Ok(())
}
