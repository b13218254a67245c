//! Runs a command and measures the time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use crate::table::median;

/// Time used by a command, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandTime {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// The median of `runs` runs. The output of the program is discarded.
pub(crate) fn runs(program: &Path, args: &[&str], runs: usize) -> Result<CommandTime> {
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (start, before) = (Instant::now(), children_cpu()?);
        let status = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("run {}", program.display()))?;
        walls.push(start.elapsed().as_secs_f64());
        cpus.push(children_cpu()? - before);
        // lsof ends with 1 when a process vanished while lsof was reading.
        ensure!(status.code().is_some_and(|code| code <= 1), "{} ended with {status}", program.display());
    }
    Ok(CommandTime { wall: median(&walls).context("no run")?, cpu: median(&cpus).context("no run")? })
}

/// User and system time of all ended children and their descendants, seconds.
fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for the time of children")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
