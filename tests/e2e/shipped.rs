//! Shipped configuration files and units, checked by their consumers.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::binaries;
use edr_tests::cache::checkout;
use edr_tests::scene::Scene;
use libtest_mimic::Completion;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

/// A shipped configuration must mention every key of the program, and every mentioned default must be the program's
/// default.
pub(crate) fn config_files_say_what_the_programs_do(_: &TestBed) -> TestResult {
    for (program, name) in [(&binaries()?.agent, "agent.toml"), (&binaries()?.collector, "collector.toml")] {
        Scene::run("config", |scene| {
            let text = std::fs::read_to_string(checkout().join("packaging/config").join(name))?;
            let text = with_a_broker(program, scene.path(), name, &text)?;
            let as_shipped = check(program, scene.path(), name, &text)?;
            // `#key = value` is a default, `# …` is prose.
            let spelled_out: String = text
                .lines()
                .map(|line| match line.strip_prefix('#') {
                    Some(default) if default.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{default}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            ensure!(spelled_out != text, "{name} mentions no default");
            let with_defaults = check(program, scene.path(), name, &spelled_out)?;
            ensure!(as_shipped == with_defaults, "{name}: a default is another one:\n{as_shipped}\n{with_defaults}");
            for line in as_shipped.lines() {
                let Some((key, _)) = line.split_once(" = ") else { continue };
                let key = key.rsplit('.').next().unwrap_or(key);
                ensure!(spelled_out.contains(&format!("\n{key} = ")), "{name} does not mention {key}");
            }
            Ok(())
        })?;
    }
    PASSED
}

/// Adds a broker to a shipped configuration. As shipped the file names no broker; the program must refuse the file and
/// name the line for the broker.
fn with_a_broker(program: &Path, dir: &Path, name: &str, text: &str) -> Result<String> {
    const PLACEHOLDER: &str = "# brokers = [\"HOST:PORT\"]";
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    let line = 1 + text.lines().position(|line| line == PLACEHOLDER).context("there is no line for the brokers")?;
    let output = Command::new(program).arg("check").arg("--config").arg(&path).output().context("run check")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(78), "{name} as shipped: {}\n{said}", output.status);
    let wanted = format!("{}:{line}: kafka.brokers: is not set", path.display());
    ensure!(said.contains(&wanted), "{name} as shipped: {wanted}\nis not in\n{said}");
    Ok(text.replace(PLACEHOLDER, "brokers = [\"localhost:9092\"]"))
}

fn check(program: &Path, dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    let output = Command::new(program).arg("check").arg("--config").arg(path).output().context("run check")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "check of {name}: {}\n{said}", output.status);
    ensure!(!output.stdout.is_empty(), "check of {name} does not print what is in effect");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// systemd must accept every line of the units without a message.
pub(crate) fn units_are_understood(_: &TestBed) -> TestResult {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return Ok(Completion::ignored_with("no systemd-analyze here"));
    }
    Scene::run("units", |scene| {
        for (unit, program) in [("edr-agentd", &binaries()?.agent), ("edr-collectd", &binaries()?.collector)] {
            let text = std::fs::read_to_string(checkout().join(format!("packaging/systemd/{unit}.service")))?;
            let installed = format!("ExecStart=/usr/sbin/{unit} ");
            ensure!(text.contains(&installed), "{unit}.service does not start /usr/sbin/{unit}");
            let path = scene.path().join(format!("{unit}.service"));
            std::fs::write(&path, text.replace(&installed, &format!("ExecStart={} ", program.display())))?;
            let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // systemd-analyze also reports on the units of the host.
            let about_us: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
            ensure!(about_us.is_empty() && output.status.success(), "{unit}: {}\n{said}", output.status);
        }
        PASSED
    })
}
