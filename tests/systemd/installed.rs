//! The daemons as installed by their packages, and queries to systemd about the units.
//!
//! Functions marked "Outside" run on the host, functions marked "Inside" in the test machine.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use edr_tests::binaries::binaries;
use edr_tests::cache::checkout;
use edr_tests::systemd::Machine;
use edr_tests::wait;
use serde_json::Value;

/// Time limit on a busy machine: for a daemon to be ready, and for a snapshot to be in the archive.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Outside: puts programs, units, users, folders and configuration into the places of the packages.
pub(crate) fn place(machine: &Machine) -> Result<()> {
    let programs = binaries()?;
    for (name, program, config) in
        [("edr-agentd", &programs.agent, "agent.toml"), ("edr-collectd", &programs.collector, "collector.toml")]
    {
        let shipped = checkout().join("packaging");
        machine.place(program, &format!("/usr/sbin/{name}"))?;
        machine.place(&shipped.join(format!("config/{config}")), &format!("/etc/{name}/{config}"))?;
        for (suffix, to) in [
            ("service", format!("/usr/lib/systemd/system/{name}.service")),
            ("sysusers", format!("/usr/lib/sysusers.d/{name}.conf")),
            ("tmpfiles", format!("/usr/lib/tmpfiles.d/{name}.conf")),
        ] {
            machine.place(&shipped.join(format!("systemd/{name}.{suffix}")), &to)?;
        }
        let examples = shipped.join("examples").join(name);
        machine.place(&examples, &format!("/usr/share/doc/{name}/examples"))?;
    }
    Ok(())
}

/// Inside: adds an operator's settings to the shipped configuration of a daemon.
pub(crate) fn configure(daemon: &str, name: &str, text: &str) -> Result<()> {
    let folder = format!("/etc/{daemon}/conf.d");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
    std::fs::write(format!("{folder}/{name}.toml"), text).with_context(|| format!("configure {daemon}"))
}

/// Inside: adds a drop-in to a unit.
pub(crate) fn drop_in(unit: &str, text: &str) -> Result<()> {
    let folder = format!("/etc/systemd/system/{unit}.service.d");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
    std::fs::write(format!("{folder}/test.conf"), text).with_context(|| format!("a drop-in of {unit}"))?;
    systemctl(&["daemon-reload"]).map(drop)
}

/// Inside: runs `systemctl` and returns the output.
pub(crate) fn systemctl(args: &[&str]) -> Result<String> {
    run("systemctl", args)
}

/// Inside: runs a command to a successful end and returns the output.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{program} {}: {}\n{}{}", args.join(" "), output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Inside: returns a property of a unit, as printed by `systemctl show`.
pub(crate) fn show(unit: &str, property: &str) -> Result<String> {
    Ok(systemctl(&["show", "--value", "--property", property, unit])?.trim().to_owned())
}

/// Inside: returns the pid of a unit's main process; 0 without a process.
pub(crate) fn main_pid(unit: &str) -> Result<i32> {
    show(unit, "MainPID")?.parse().context("a pid")
}

/// Inside: waits until a unit is active with another main process than `before`, and returns the new pid.
pub(crate) fn comes_back(unit: &str, before: i32) -> Result<i32> {
    wait::until(&format!("{unit} to be back"), LIMIT, || {
        let pid = main_pid(unit)?;
        Ok((show(unit, "ActiveState")? == "active" && pid != 0 && pid != before).then_some(pid))
    })
}

/// Inside: waits until `fits` accepts the status line of a unit, and returns the line.
pub(crate) fn status(unit: &str, what: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    wait::until(&format!("the status of {unit} to say {what}"), LIMIT, || {
        last = show(unit, "StatusText")?;
        Ok(fits(&last).then(|| last.clone()))
    })
    .with_context(|| format!("it says {:?}", show(unit, "StatusText").unwrap_or_default()))
}

/// Inside: returns the messages of a unit in the journal.
pub(crate) fn journal(unit: &str) -> Result<String> {
    run("journalctl", &["--sync"])?;
    run("journalctl", &["-b", "-u", unit, "-o", "cat", "--no-pager"])
}

/// Inside: returns the rows of a view of the archive.
pub(crate) fn view(args: &[&str]) -> Result<Vec<Value>> {
    let text = run("/usr/sbin/edr-collectd", &[args, &["--format", "json"]].concat())?;
    let rows: Value = serde_json::from_str(&text).context("read the JSON of a view")?;
    match rows {
        Value::Array(rows) => Ok(rows),
        other => bail!("{args:?} gives no list: {other}"),
    }
}

/// Inside: makes the topic and starts both daemons as an operator would. Returns when the daemons are ready.
pub(crate) fn start(broker: &str, agent: &str) -> Result<()> {
    configure(
        "edr-agentd",
        "50-test",
        &format!("{agent}\n[kafka]\nbrokers = [{broker:?}]\nmessage-timeout = \"2s\"\n"),
    )?;
    configure(
        "edr-collectd",
        "50-test",
        &format!("[kafka]\nbrokers = [{broker:?}]\n[archive]\ncommit-interval = \"1s\"\n"),
    )?;
    run("/usr/sbin/edr-collectd", &["check", "--online", "--create-topic", "--partitions", "1"])?;
    systemctl(&["enable", "--now", "edr-collectd", "edr-agentd"])?;
    for unit in ["edr-agentd", "edr-collectd"] {
        ensure!(show(unit, "ActiveState")? == "active", "{unit} is {}", show(unit, "ActiveState")?);
    }
    Ok(())
}
