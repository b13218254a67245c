//! A daemon started by hand as root, beside a unit with a separate user.

use std::process::Command;

use anyhow::{Context as _, ensure};
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;
use edr_tests::systemd::Machine;

use crate::installed::{configure, journal, place, run, systemctl};
use crate::{BOOT_MAX, RunResult, scenario};

const DAEMONS: [&str; 2] = ["edr-agentd", "edr-collectd"];

/// The start by root is refused, and no command leaves a file unreadable for the service. Where such a file already
/// exists, the error names the owner of the file and the command that changes the owner.
pub(crate) fn root_by_hand_does_not_lock_the_service_out() -> RunResult {
    Scene::run("owner", |scene| {
        let mut machine = Machine::new(scene.path())?;
        place(&machine)?;
        println!("{}", machine.boot(&scenario("by-hand")?, BOOT_MAX)?);
        Ok(())
    })
}

/// Inside: the scenario of [`root_by_hand_does_not_lock_the_service_out`].
pub(crate) fn by_hand() -> RunResult {
    let broker = Broker::start(std::path::Path::new("/var/tmp/kafka"))?;
    let settings = format!("[kafka]\nbrokers = [{:?}]\n", broker.address());
    for daemon in DAEMONS {
        configure(daemon, "50-test", &settings)?;
        let folder = format!("/var/lib/{daemon}");
        let program = format!("/usr/sbin/{daemon}");
        // The package's user exists, but the folder was never made.
        run("systemd-sysusers", &[&format!("{daemon}.conf")])?;
        let _ = std::fs::remove_dir(&folder);
        refused(&program, daemon)?;
        ensure!(!std::path::Path::new(&folder).exists(), "{folder} was made by root");
        run("systemd-tmpfiles", &["--create", &format!("{daemon}.conf")])?;
        refused(&program, daemon)?;
        for command in [
            &["check", "--online"][..],
            &["check"],
            &["spool", "verify"],
            &["spool", "list"],
            &["snapshot"],
            &["hosts"],
        ] {
            // Some commands belong to only one daemon, and a view fails without an archive: only leftover files matter
            // here.
            let _ = Command::new(&program).args(command).output().with_context(|| format!("run {program}"))?;
        }
        ensure!(foreign(&folder, daemon)?.is_empty(), "left behind: {}", foreign(&folder, daemon)?);
        // A file left by a program that ran before the user existed.
        std::fs::write(format!("{folder}/lock"), "")?;
        run("chmod", &["600", &format!("{folder}/lock")])?;
        ensure!(systemctl(&["start", daemon]).is_err(), "{daemon} started with a lock that it cannot open");
        systemctl(&["stop", daemon])?;
        let said = journal(daemon)?;
        let remedy = format!("run: chown -R {daemon}: {folder}");
        ensure!(said.contains("belongs to root (uid 0)") && said.contains(&remedy), "no remedy in\n{said}");
        run("sh", &["-c", remedy.trim_start_matches("run: ")])?;
        systemctl(&["start", daemon])?;
        systemctl(&["stop", daemon])?;
    }
    Ok(())
}

fn refused(program: &str, daemon: &str) -> RunResult {
    let output = Command::new(program).arg("run").output().with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{program} run as root: {}\n{said}", output.status);
    ensure!(
        said.contains(&format!("belongs to {daemon} (uid "))
            && said.contains(&format!("run: systemctl start {daemon}")),
        "{program} run as root says\n{said}"
    );
    Ok(())
}

/// The files below a folder that belong to another user.
fn foreign(folder: &str, user: &str) -> anyhow::Result<String> {
    run("find", &[folder, "!", "-user", user])
}
