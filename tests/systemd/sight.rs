//! The agent's unit: it may see everything on the host, and may do nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use edr_tests::scene::Scene;
use edr_tests::systemd::Machine;
use serde_json::Value;

use crate::installed::{drop_in, place, run, show, start, systemctl};
use crate::sights::{Sights, works};
use crate::{BOOT_MAX, RunResult, credentials, scenario};

/// Error codes of a refusal. `EAFNOSUPPORT` is the refusal of a socket family that the unit does not need.
const REFUSED: [&str; 4] = ["EPERM", "EACCES", "EROFS", "EAFNOSUPPORT"];

/// Tests that the archive has facts visible only to root, and that every attempt from inside the agent's unit is
/// refused.
pub(crate) fn sees_everything_and_can_do_nothing_else() -> RunResult {
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

/// Inside: the scenario of [`sees_everything_and_can_do_nothing_else`].
pub(crate) fn sight() -> RunResult {
    let (broker, authority) = credentials::broker(Path::new("/var/lib/edr-test-kafka"))?;
    let sights = Sights::new()?;
    start(&broker.address(), "interval = \"2s\"\n")?;
    works(&sights)?;
    is_not_blinded()?;
    credentials::are_handed_over(&broker, &authority)?;
    println!("memory at most: {} bytes", memory_peak()?);
    systemctl(&["stop", "edr-agentd"])?;
    is_harmless()
}

/// A snapshot taken inside the unit must have the same facts of every process as a snapshot taken by root outside of
/// the unit.
fn is_not_blinded() -> Result<()> {
    let root = run("/usr/sbin/edr-agentd", &["snapshot", "--format", "json"])?;
    // The agent's own unit with another command.
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
    // Root runs in the pid namespace of the test machine too, so both snapshots name this restriction.
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
        // Skips processes that have ended in between, and the two snapshot commands.
        let Some(seen) = within.get(key) else { continue };
        compared += 1;
        for field in ["exe", "cwd", "root", "argv", "capabilities", "namespaces", "uids", "cgroup"] {
            ensure!(row[field] == seen[field], "{key:?} {field}: {} and to root {}", seen[field], row[field]);
        }
        for field in ["io", "limits", "oom_score_adj", "loginuid", "mapped"] {
            ensure!(row[field].is_null() == seen[field].is_null(), "{key:?}: {field} is seen by one alone");
        }
        let count = |row: &Value| row["files_total"].as_u64().unwrap_or(0);
        // The number of open files varies; hidden files would be a far larger difference.
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

/// The peak memory of the unit's control group, bytes.
fn memory_peak() -> Result<u64> {
    let group = show("edr-agentd", "ControlGroup")?;
    let path = format!("/sys/fs/cgroup/memory{group}/memory.max_usage_in_bytes");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.trim().parse().context("a number of bytes")
}

/// A program in the agent's place inside the unit is refused everything. The same program as root outside is not.
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
    // CAP_DAC_READ_SEARCH is 2, CAP_SYS_PTRACE is 19 (capability.h).
    let two = format!("{:016x}", 1_u64 << 2 | 1 << 19);
    for key in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        ensure!(is(key)? == two, "{key} is {}", is(key)?);
    }
    ensure!(is("Uid")? != "0" && is("Gid")? != "0", "it is root");
    ensure!(is("NoNewPrivs")? == "1" && is("Seccomp")? == "2", "no filter");
    Ok(())
}
