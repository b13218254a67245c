//! A snapshot as a command, compared with commands for the same data.

use std::path::Path;

use anyhow::Result;

use crate::Bench;
use crate::run::{CommandTime, runs};
use crate::table::{FigureTable, ms, times};

/// An odd number, so that the median is a measured value.
const RUNS: usize = 5;

pub(crate) fn measure(bench: &Bench, table: &mut FigureTable, name: &str) -> Result<()> {
    let config = bench.config(&format!("{name}-command"))?;
    let agent = runs(&bench.agent, &["snapshot", "--format", "msgpack", "--config", &config], RUNS)?;
    let (lsof, ps) = (runs(Path::new("lsof"), &["-nP", "-Ki"], RUNS)?, runs(Path::new("ps"), &["auxww"], RUNS)?);
    let before = CommandTime { wall: lsof.wall + ps.wall, cpu: lsof.cpu + ps.cpu };
    table.set("one command, `edr-agentd snapshot`: wall", ms(agent.wall));
    table.set("`lsof -nP -Ki` and `ps auxww`: wall", ms(before.wall));
    table.set("… they take longer by", times(before.wall, agent.wall));
    table.set("… they take more CPU by", times(before.cpu, agent.cpu));
    Ok(())
}
