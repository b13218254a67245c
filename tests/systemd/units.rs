//! Tests of the unit files with systemd's own analysis, and of the limits set in the kernel.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use edr_tests::cache::checkout;
use edr_tests::scene::Scene;
use edr_tests::systemd::Machine;

use crate::installed::{configure, place, show, systemctl};
use crate::{BOOT_MAX, RunResult, scenario};

/// Highest exposure by systemd-analyze(1), 0 to 10. The rest is needed by the daemons for their work.
const EXPOSURE_MAX: [(&str, f64); 2] = [("edr-agentd", 2.1), ("edr-collectd", 1.1)];

/// Fails when a restricting line of a unit is dropped.
pub(crate) fn are_hardly_exposed() -> RunResult {
    for (unit, most) in EXPOSURE_MAX {
        let path = checkout().join(format!("packaging/systemd/{unit}.service"));
        let output =
            Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(&path).output();
        let said = String::from_utf8_lossy(&output.context("run systemd-analyze")?.stdout).into_owned();
        // `→ Overall exposure level for edr-agentd.service: 2.1 OK 🙂`
        let level = said.lines().find_map(|line| line.split_once("exposure level for")?.1.split_whitespace().nth(1));
        let level: f64 = level.with_context(|| format!("no level in {said}"))?.parse().context("a level")?;
        ensure!(level <= most, "{unit} is exposed by {level}:\n{said}");
    }
    Ok(())
}

/// Exists only with version 2 of the control groups.
const UNIFIED: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Returns the reason when limits of version 2 of the control groups cannot be tested here.
pub(crate) fn no_second_version() -> Option<String> {
    let is_there = Path::new(UNIFIED).exists();
    (!is_there).then(|| {
        "CPUQuota=, MemoryHigh= and MemorySwapMax= need version 2 of the control groups here; this machine has 1"
            .to_owned()
    })
}

/// The limits in the units must be the limits set in the kernel.
pub(crate) fn hold_their_ceilings() -> RunResult {
    in_a_machine("ceilings")
}

/// The same for limits of version 2 of the control groups.
pub(crate) fn hold_more_ceilings() -> RunResult {
    in_a_machine("more-ceilings")
}

fn in_a_machine(name: &str) -> RunResult {
    Scene::run(name, |scene| {
        let mut machine = Machine::new(scene.path())?;
        place(&machine)?;
        println!("{}", machine.boot(&scenario(name)?, BOOT_MAX)?);
        Ok(())
    })
}

/// Inside: starts the agent, without a broker, and returns the control group.
fn group() -> anyhow::Result<String> {
    configure("edr-agentd", "50-test", "[kafka]\nbrokers = [\"127.0.0.1:1\"]\n")?;
    systemctl(&["start", "edr-agentd"])?;
    show("edr-agentd", "ControlGroup")
}

/// Inside: memory and tasks, in both versions.
pub(crate) fn ceilings() -> RunResult {
    let group = group()?;
    let wanted = if Path::new(UNIFIED).exists() {
        [("", "memory.max", "201326592"), ("", "pids.max", "128")]
    } else {
        [("/memory", "memory.limit_in_bytes", "201326592"), ("/pids", "pids.max", "128")]
    };
    are(&group, &wanted)
}

/// Inside: throttling below the memory limit, no swap, and half a processor.
pub(crate) fn more_ceilings() -> RunResult {
    let wanted = [("memory.high", "167772160"), ("memory.swap.max", "0"), ("cpu.max", "50000 100000")];
    are(&group()?, &wanted.map(|(file, value)| ("", file, value)))
}

fn are(group: &str, wanted: &[(&str, &str, &str)]) -> RunResult {
    for (controller, file, value) in wanted {
        let path = format!("/sys/fs/cgroup{controller}{group}/{file}");
        let said = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        println!("{file}: {}", said.trim());
        ensure!(said.trim() == *value, "{path} is {said}, the unit says {value}");
    }
    Ok(())
}
