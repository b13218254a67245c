//! Tests of the test machine.

use std::process::Command;

use anyhow::{Context as _, ensure};
use edr_tests::scene::Scene;
use edr_tests::systemd::{BootEnd, Machine};

use crate::{BOOT_MAX, RunResult, scenario};

const BOOT_ID: &str = "3f0c86ee-2f66-4d6a-9a53-5a1e0f7a0001";

/// Files of the product that a host may have: from a package, or from a program started by hand.
const LEFT_OUTSIDE: [&str; 5] = [
    "/usr/sbin/edr-agentd",
    "/usr/lib/systemd/system/edr-collectd.service",
    "/etc/edr-agentd/conf.d/kafka.toml",
    "/var/lib/edr-agentd/lock",
    "/var/lib/edr-collectd/lock",
];

/// Boots twice. The second boot has another boot id and finds the files of the first boot; nothing is left on the host.
pub(crate) fn keeps_its_files_and_leaves_nothing() -> RunResult {
    Scene::run("machine", |scene| {
        let mut machine = Machine::new(scene.path())?;
        machine.write("/usr/share/edr-test/placed", "placed\n")?;
        for left in LEFT_OUTSIDE {
            machine.write_outside(left, "left by an earlier installation\n")?;
        }
        machine.boot(&scenario("first-boot")?, BOOT_MAX)?;
        let mut second = scenario("second-boot")?;
        (second.boot_id, second.end) = (Some(BOOT_ID.to_owned()), BootEnd::Shutdown);
        let said = machine.boot(&second, BOOT_MAX)?;
        ensure!(said.contains("second boot"), "the log of the scenario is {said:?}");
        let failing = edr_tests::systemd::Scenario::new(["/bin/false"]);
        ensure!(machine.boot(&failing, BOOT_MAX).is_err(), "a failing scenario passed");
        drop(machine);
        for folder in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory"] {
            let left = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let ours = format!("edr-test-{}-", std::process::id());
            let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours)).collect();
            ensure!(left.is_empty(), "left over: {left:?}");
        }
        ensure!(!std::path::Path::new("/var/lib/edr-test-written").exists(), "the outside was written to");
        Ok(())
    })
}

/// Inside, first boot.
pub(crate) fn first_boot() -> RunResult {
    ensure!(std::fs::read_to_string("/usr/share/edr-test/placed")? == "placed\n");
    for left in LEFT_OUTSIDE {
        ensure!(!std::path::Path::new(left).exists(), "{left} of the machine outside is visible inside");
    }
    std::fs::write("/var/lib/edr-test-written", "written")?;
    let init = std::fs::read_to_string("/proc/1/comm")?;
    ensure!(init == "systemd\n", "PID 1 is {init}");
    let state = Command::new("systemctl").args(["is-active", "systemd-journald"]).output()?;
    ensure!(state.stdout == b"active\n", "journald is {}", String::from_utf8_lossy(&state.stdout));
    // The network of the host is not reachable.
    let links = Command::new("ip").args(["-o", "link"]).output().context("run ip")?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    ensure!(links.lines().count() == 1, "the machine has other links than lo:\n{links}");
    Ok(())
}

/// Inside, second boot.
pub(crate) fn second_boot() -> RunResult {
    ensure!(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim() == BOOT_ID);
    ensure!(std::fs::read_to_string("/var/lib/edr-test-written")? == "written");
    let boots = Command::new("journalctl").arg("--list-boots").output().context("run journalctl")?;
    let boots = String::from_utf8_lossy(&boots.stdout).into_owned();
    let own = boots.lines().filter(|line| !line.contains("BOOT ID")).count();
    ensure!(own == 2, "the journal has other boots: {boots}");
    println!("second boot");
    Ok(())
}
