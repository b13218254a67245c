//! The daemons as their packages install them, and what is asked of systemd about them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use edr_tests::binaries::binaries;
use edr_tests::cache::checkout;
use edr_tests::systemd::Machine;
use edr_tests::wait;
use serde_json::Value;

/// Within this, whatever a busy machine does, a daemon is ready and a snapshot is in the archive.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Outside: places programs, units, users, folders and configuration where the packages have them.
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

/// Inside: what an operator adds to the shipped configuration of a daemon.
pub(crate) fn configure(daemon: &str, name: &str, text: &str) -> Result<()> {
    let folder = format!("/etc/{daemon}/conf.d");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
    std::fs::write(format!("{folder}/{name}.toml"), text).with_context(|| format!("configure {daemon}"))
}

/// Inside: a drop-in for a unit.
pub(crate) fn drop_in(unit: &str, text: &str) -> Result<()> {
    let folder = format!("/etc/systemd/system/{unit}.service.d");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
    std::fs::write(format!("{folder}/test.conf"), text).with_context(|| format!("a drop-in of {unit}"))?;
    systemctl(&["daemon-reload"]).map(drop)
}

/// Inside: `systemctl`; gives what it prints.
pub(crate) fn systemctl(args: &[&str]) -> Result<String> {
    run("systemctl", args)
}

/// Inside: a command that must do; gives what it prints.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{program} {}: {}\n{}{}", args.join(" "), output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Inside: a property of a unit, as `systemctl show` says it.
pub(crate) fn show(unit: &str, property: &str) -> Result<String> {
    Ok(systemctl(&["show", "--value", "--property", property, unit])?.trim().to_owned())
}

/// Inside: pid of a unit's main process; 0 while there is none.
pub(crate) fn main_pid(unit: &str) -> Result<i32> {
    show(unit, "MainPID")?.parse().context("a pid")
}

/// Inside: waits until a unit is up with another main process than `before`, and gives the pid.
pub(crate) fn comes_back(unit: &str, before: i32) -> Result<i32> {
    wait::until(&format!("{unit} to be back"), LIMIT, || {
        let pid = main_pid(unit)?;
        Ok((show(unit, "ActiveState")? == "active" && pid != 0 && pid != before).then_some(pid))
    })
}

/// Inside: waits until the status line of a unit fits, and gives it.
pub(crate) fn status(unit: &str, what: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    wait::until(&format!("the status of {unit} to say {what}"), LIMIT, || {
        last = show(unit, "StatusText")?;
        Ok(fits(&last).then(|| last.clone()))
    })
    .with_context(|| format!("it says {:?}", show(unit, "StatusText").unwrap_or_default()))
}

/// Inside: the journal of a unit, its messages alone.
pub(crate) fn journal(unit: &str) -> Result<String> {
    run("journalctl", &["--sync"])?;
    run("journalctl", &["-b", "-u", unit, "-o", "cat", "--no-pager"])
}

/// Inside: rows of a view of the archive.
pub(crate) fn view(args: &[&str]) -> Result<Vec<Value>> {
    let text = run("/usr/sbin/edr-collectd", &[args, &["--format", "json"]].concat())?;
    let rows: Value = serde_json::from_str(&text).context("read the JSON of a view")?;
    match rows {
        Value::Array(rows) => Ok(rows),
        other => bail!("{args:?} gives no list: {other}"),
    }
}

/// Inside: starts broker's topic and both daemons as an operator does; they are ready when this returns.
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
