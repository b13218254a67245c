//! The agent's unit sees everything, and can do nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use edr_tests::kafka::Broker;
use edr_tests::psad::PsadTree;
use edr_tests::scene::Scene;
use edr_tests::systemd::Machine;
use edr_tests::wait;
use serde_json::Value;

use crate::installed::{LIMIT, drop_in, journal, place, run, show, start, status, systemctl, view};
use crate::{BOOT_MAX, Verdict, scenario};

/// What the listener in a network namespace of its own listens on.
const PORT: u16 = 4711;
/// How the unit says no. (`EAFNOSUPPORT`: a family of sockets it has no use for.)
const REFUSED: [&str; 4] = ["EPERM", "EACCES", "EROFS", "EAFNOSUPPORT"];

/// The agent as installed: the archive has what only root may see; from inside its unit nothing can be done.
pub(crate) fn sees_everything_and_can_do_nothing_else() -> Verdict {
    Scene::run("unit", |scene| {
        let mut machine = Machine::new(scene.path())?;
        place(&machine)?;
        let intruder = std::env::current_exe()?;
        let intruder =
            intruder.parent().and_then(Path::parent).context("where programs are built")?.join("edr-intruder");
        machine.place(&intruder, "/usr/libexec/edr-intruder")?;
        println!("{}", machine.boot(&scenario("sight")?, BOOT_MAX)?);
        Ok(())
    })
}

/// Things to see, each ended with this value.
struct Sights {
    started: Vec<Child>,
    /// This process holds it open, and nobody but root may read it.
    secret: File,
    other_mount: u32,
    deleted: u32,
    other_network: u32,
}

impl Sights {
    fn new() -> Result<Self> {
        let secret = "/root/edr-secret";
        fs::write(secret, "secret")?;
        fs::set_permissions(secret, PermissionsExt::from_mode(0o600))?;
        let gone = "/run/gone-sleep";
        fs::copy("/bin/sleep", gone)?;
        let deleted = Command::new(gone).arg("1000").spawn().context("start a program that will be deleted")?;
        fs::remove_file(gone)?;
        let script = "mkdir -p /run/other && mount -t tmpfs tmpfs /run/other && cp /bin/sleep /run/other/other-sleep && \
                      exec /run/other/other-sleep 1000";
        let unshare = |args: &[&str]| Command::new("unshare").args(args).stdin(Stdio::null()).spawn();
        let other_mount = unshare(&["--mount", "--propagation", "private", "sh", "-c", script])?;
        let own = std::env::current_exe()?.display().to_string();
        let other_network = unshare(&["--net", &own, "--inside", "listen"])?;
        Ok(Self {
            secret: File::open(secret)?,
            other_mount: other_mount.id(),
            deleted: deleted.id(),
            other_network: other_network.id(),
            started: vec![other_mount, deleted, other_network],
        })
    }
}

impl Drop for Sights {
    fn drop(&mut self) {
        for child in &mut self.started {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Inside, in a network namespace of its own.
pub(crate) fn listen() -> Verdict {
    run("ip", &["link", "set", "lo", "up"])?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", PORT)).context("listen")?;
    // Until it is killed.
    let _ = listener.accept();
    Ok(())
}

/// Inside.
pub(crate) fn sight() -> Verdict {
    let mut broker = Broker::prepare(Path::new("/var/lib/edr-test-kafka"))?;
    broker.resume()?;
    let sights = Sights::new()?;
    let psad = PsadTree::new(Path::new("/var/log"));
    psad.show("autoblock/t1")?;
    fs::set_permissions(&psad.dir, PermissionsExt::from_mode(0o700))?;
    start(&broker.address(), "interval = \"2s\"\n")?;
    works(&sights)?;
    is_not_blinded()?;
    println!("memory at most: {} bytes", memory_peak()?);
    systemctl(&["stop", "edr-agentd"])?;
    is_harmless()
}

/// Journal and status say that it works, and the archive has what only root may see.
fn works(sights: &Sights) -> Result<()> {
    wait::until("the journal to say ready", LIMIT, || Ok(journal("edr-agentd")?.contains("ready: ").then_some(())))?;
    let line = status("edr-agentd", "that Kafka acknowledged", |text| {
        text.contains("last ack ") || text.contains("Kafka acknowledged ")
    })?;
    println!("status: {line}");
    let own = std::process::id();
    let (mount, deleted, network) = (sights.other_mount, sights.deleted, sights.other_network);
    wait::until_ok("the sights to be in the archive", LIMIT, || {
        let processes = view(&["processes"])?;
        let process = |pid: u32| {
            processes.iter().find(|row| row["pid"] == pid).with_context(|| format!("no process {pid} in the archive"))
        };
        let exe = |pid| process(pid).map(|row| row["exe"].to_string());
        ensure!(exe(mount)?.contains("/run/other/other-sleep"), "exe in another mount namespace: {}", exe(mount)?);
        ensure!(exe(deleted)?.contains("/run/gone-sleep"), "deleted exe: {}", exe(deleted)?);
        let files = view(&["files"])?;
        let has = |pid: u32, path: &str| {
            files.iter().any(|row| row["pid"] == pid && row["path"].as_str().is_some_and(|own| own.contains(path)))
        };
        ensure!(has(own, "/root/edr-secret"), "no descriptor of root's process");
        let sockets = view(&["sockets"])?;
        let listens =
            sockets.iter().any(|row| row["local_port"] == PORT && row.to_string().contains(&network.to_string()));
        ensure!(listens, "no socket of process {network} in another network namespace");
        let psad = run("/usr/sbin/edr-collectd", &["psad", "--format", "json"])?;
        ensure!(psad.contains("danger"), "psad's folder was not read: {psad}");
        Ok(())
    })?;
    // It was open all the time.
    ensure!(sights.secret.metadata()?.len() == 6);
    Ok(())
}

/// A snapshot taken inside the unit says of every process what root says outside of it.
fn is_not_blinded() -> Result<()> {
    let root = run("/usr/sbin/edr-agentd", &["snapshot", "--format", "json"])?;
    // The agent's own unit, with another command.
    let unit = fs::read_to_string("/usr/lib/systemd/system/edr-agentd.service")?;
    fs::write("/etc/systemd/system/edr-snapshot.service", unit)?;
    drop_in(
        "edr-snapshot",
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n\
         ExecStart=/usr/sbin/edr-agentd snapshot --format json\nStandardOutput=truncate:/run/in-unit.json\n",
    )?;
    systemctl(&["start", "edr-snapshot"])?;
    let inside = fs::read_to_string("/run/in-unit.json")?;
    fs::write("/out/in-unit.json", &inside)?;
    fs::write("/out/as-root.json", &root)?;
    let (root, inside): (Value, Value) = (serde_json::from_str(&root)?, serde_json::from_str(&inside)?);
    // Root lives in the machine's pid namespace, too, and says so.
    let degraded = |snapshot: &Value| snapshot["agent"]["degraded"].clone();
    ensure!(degraded(&inside) == degraded(&root), "the unit degrades it: {}", degraded(&inside));
    let denied = |snapshot: &Value| {
        let gaps = snapshot["gaps"].as_array().cloned().unwrap_or_default();
        let denied = gaps.into_iter().filter(|gap| gap["reason"] == "denied");
        denied.map(|gap| format!("{}/{}", gap["source"], gap["field"])).collect::<BTreeSet<_>>()
    };
    let blind: Vec<_> = denied(&inside).difference(&denied(&root)).cloned().collect();
    ensure!(blind.is_empty(), "denied in the unit, not to root: {blind:?}");
    let (outside, within) = (processes(&root), processes(&inside));
    let mut compared = 0;
    for (key, row) in &outside {
        // Whatever ended in between, and the two snapshot commands themselves.
        let Some(seen) = within.get(key) else { continue };
        compared += 1;
        for field in ["exe", "cwd", "root", "argv", "capabilities", "namespaces", "uids", "cgroup"] {
            ensure!(row[field] == seen[field], "{key:?} {field}: {} and to root {}", seen[field], row[field]);
        }
        for field in ["io", "limits", "oom_score_adj", "loginuid", "mapped"] {
            ensure!(row[field].is_null() == seen[field].is_null(), "{key:?}: {field} is seen by one alone");
        }
        let count = |row: &Value| row["files_total"].as_u64().unwrap_or(0);
        // A daemon opens and closes; what never shows in the unit would be far more.
        ensure!(count(seen) + 5 >= count(row), "{key:?}: {} files, root sees {}", count(seen), count(row));
    }
    ensure!(compared >= 10, "only {compared} processes were in both");
    ensure!(within.len() + 5 >= outside.len(), "{} processes, root sees {}", within.len(), outside.len());
    Ok(())
}

fn processes(snapshot: &Value) -> BTreeMap<(u64, u64), Value> {
    let rows = snapshot["processes"].as_array().cloned().unwrap_or_default();
    let key = |row: &Value| Some((row["pid"].as_u64()?, row["start_ticks"].as_u64()?));
    rows.into_iter().filter_map(|row| Some((key(&row)?, row))).collect()
}

/// What the unit's control group had at most.
fn memory_peak() -> Result<u64> {
    let group = show("edr-agentd", "ControlGroup")?;
    let path = format!("/sys/fs/cgroup/memory{group}/memory.max_usage_in_bytes");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.trim().parse().context("a number of bytes")
}

/// Someone in the agent's place, inside its unit, is refused everything; the same program as root outside is not.
fn is_harmless() -> Result<()> {
    let mut target = Command::new("/bin/sleep").arg("1000").spawn().context("start a process of root")?;
    let pid = target.id().to_string();
    fs::rename("/usr/sbin/edr-agentd", "/usr/sbin/edr-agentd.real")?;
    fs::copy("/usr/libexec/edr-intruder", "/usr/sbin/edr-agentd")?;
    drop_in(
        "edr-agentd",
        &format!(
            "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n\
             ExecStart=/usr/sbin/edr-agentd {pid} /var/lib/edr-agentd\nStandardOutput=truncate:/run/intruder\n"
        ),
    )?;
    systemctl(&["start", "edr-agentd"])?;
    let inside = fs::read_to_string("/run/intruder")?;
    let outside = run("/usr/libexec/edr-intruder", &[&pid, "/var/lib"])?;
    let _ = target.kill();
    let _ = target.wait();
    println!("in the unit:\n{inside}\nas root:\n{outside}");

    let said = |text: &str| -> BTreeMap<String, String> {
        let lines = text.lines().filter(|line| !line.starts_with("is "));
        lines.filter_map(|line| line.split_once(' ')).map(|(name, how)| (name.to_owned(), how.to_owned())).collect()
    };
    let (refused, allowed) = (said(&inside), said(&outside));
    ensure!(refused.len() >= 30 && refused.keys().eq(allowed.keys()), "an attempt is missing");
    for (name, how) in &refused {
        let expected = if name == "write-own" { how == "ok" } else { REFUSED.contains(&how.as_str()) };
        ensure!(expected, "{name}: {how}");
        ensure!(!REFUSED.contains(&allowed[name].as_str()), "{name} is refused to root, too");
    }
    let is = |key: &str| {
        let line = inside.lines().find_map(|line| line.strip_prefix(&format!("is {key} ")));
        line.map(str::to_owned).with_context(|| format!("no {key}"))
    };
    // CAP_DAC_READ_SEARCH is 2, CAP_SYS_PTRACE 19 (capability.h).
    let two = format!("{:016x}", 1_u64 << 2 | 1 << 19);
    for key in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        ensure!(is(key)? == two, "{key} is {}", is(key)?);
    }
    ensure!(is("Uid")? != "0" && is("Gid")? != "0", "it is root");
    ensure!(is("NoNewPrivs")? == "1" && is("Seccomp")? == "2", "no filter");
    Ok(())
}
