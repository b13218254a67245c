//! The slowdown of a process that maps and unmaps memory without pause, while the agent reads the mapped files of
//! processes.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::Bench;
use crate::table::{FigureTable, grouped, times};

/// Seconds of each measurement.
const SECONDS: &str = "4";

/// Measures the process alone, beside an agent that reads everything but mapped files, and beside an agent with mapped
/// files. The agent reads without pause, a thousand times as often as in operation, so that the effect is measurable.
pub(crate) fn measure(bench: &Bench, table: &mut FigureTable) -> Result<()> {
    let program = bench.compile("map_loop")?;
    let turns = || -> Result<(f64, f64)> {
        let output = Command::new(&program).arg(SECONDS).output().context("run map_loop")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(turns)), Some(Ok(longest_ms))) => Ok((turns, longest_ms)),
            _ => anyhow::bail!("map_loop printed {text:?}"),
        }
    };
    let alone = turns()?;
    let beside = |mapped: bool| -> Result<(f64, f64)> {
        let mut plan = bench.plan(&format!("maps-{mapped}"), "127.0.0.1:1")?;
        plan.kafka = format!("\n[processes]\nmapped = {mapped}\n");
        let config = plan.write_config()?;
        let reading = Command::new(&bench.agent)
            .args(["cost", "--rounds", "10000", "--every", "0", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .spawn()
            .context("run edr-agentd cost")?;
        let mut reading = ChildReader(reading);
        let measured = turns()?;
        ensure!(reading.0.try_wait().context("look at edr-agentd")?.is_none(), "edr-agentd cost ended early");
        Ok(measured)
    };
    let (without, with) = (beside(false)?, beside(true)?);
    let text = |(turns, longest_ms): (f64, f64)| format!("{}, {longest_ms:.1} ms", grouped(turns as u64));
    table.set("a process that maps and unmaps: turns a CPU second, longest turn", text(alone));
    table.set("… while the agent reads without pause, but no mapped files", text(without));
    table.set("… while the agent reads without pause, mapped files too", text(with));
    table.set("… what reading mapped files leaves it of its pace", times(with.0, without.0));
    Ok(())
}

/// A child process that ends when this value is dropped.
struct ChildReader(Child);

impl Drop for ChildReader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
