//! What systemd says of the units as text.

use std::process::Command;

use anyhow::{Context as _, ensure};
use edr_tests::cache::checkout;

use crate::Verdict;

/// Exposure by systemd-analyze(1), 0 to 10: what is left is what the daemons are for.
const EXPOSURE_MAX: [(&str, f64); 2] = [("edr-agentd", 2.1), ("edr-collectd", 1.1)];

/// No line of a unit was dropped that kept something out.
pub(crate) fn are_hardly_exposed() -> Verdict {
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
