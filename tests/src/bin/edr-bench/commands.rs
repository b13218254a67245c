//! One snapshot as a command, against the commands that show the same.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use crate::Bench;
use crate::table::{Table, median, ms, times};

/// Odd, so that the middle one was measured.
const RUNS: usize = 7;

pub(crate) fn measure(bench: &Bench, table: &mut Table, name: &str) -> Result<()> {
    let config = bench.plan(&format!("{name}-command"), "127.0.0.1:1")?.write_config()?;
    let config = config.to_string_lossy().into_owned();
    let agent = runs(&bench.agent, &["snapshot", "--format", "msgpack", "--config", &config])?;
    let floor = runs(&bench.floor, &["full", "1"])?;
    let lsof = runs(Path::new("lsof"), &["-nP", "-Ki"])?;
    let ps = runs(Path::new("ps"), &["auxww"])?;
    let before = Cost { wall: lsof.wall + ps.wall, cpu: lsof.cpu + ps.cpu };
    table.set("one command: edr-agentd snapshot, wall", ms(agent.wall));
    table.set("  lsof -nP -Ki and ps auxww, wall", ms(before.wall));
    table.set("  they take longer by", times(before.wall, agent.wall));
    table.set("  they take more CPU by", times(before.cpu, agent.cpu));
    table.set("  least system calls, in C (bench/proc_floor.c full)", ms(floor.wall));
    table.set("  edr-agentd takes longer than that by", times(agent.wall, floor.wall));
    Ok(())
}

struct Cost {
    wall: f64,
    cpu: f64,
}

fn runs(program: &Path, args: &[&str]) -> Result<Cost> {
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
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
        // lsof ends with 1 when a process went while it looked.
        ensure!(status.code().is_some_and(|code| code <= 1), "{} ended with {status}", program.display());
    }
    Ok(Cost { wall: median(&walls).context("no run")?, cpu: median(&cpus).context("no run")? })
}

/// User and system time of every child that has ended, seconds.
fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for the time of children")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
