//! `script/bench`: what a snapshot costs, how large a frame is and how soon it is seen, beside what they replace, in one
//! run on one machine: the ratios are worth more than the figures.

mod agent;
mod commands;
mod page;
mod table;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::{binaries, release_agent};
use edr_tests::cache::checkout;
use edr_tests::daemons::AgentPlan;
use edr_tests::load::Load;
use edr_tests::scene::Scene;
use table::Table;

/// The load generator's: processes, and things opened in each (three of eight are pairs, so 1.25 times as many
/// descriptors).
const LOAD: (usize, usize) = (400, 60);

/// What is measured with.
struct Bench {
    scene: Scene,
    agent: std::path::PathBuf,
    floor: std::path::PathBuf,
}

impl Bench {
    /// A plan for the release build in a folder of its own.
    fn plan(&self, name: &str, broker: &str) -> Result<AgentPlan> {
        let mut plan = AgentPlan::new(&self.scene.folder(name)?, broker, "edr.snapshots");
        plan.program = Some(self.agent.clone());
        Ok(plan)
    }
}

fn main() -> Result<()> {
    table::say("building edr-agentd as it is shipped (minutes at first)");
    let agent = release_agent()?;
    binaries()?;
    let scene = Scene::new("bench")?;
    let floor = scene.path().join("proc_floor");
    let cc = std::process::Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&floor)
        .arg(checkout().join("bench/proc_floor.c"))
        .status()
        .context("run cc")?;
    ensure!(cc.success(), "bench/proc_floor.c does not compile");
    let bench = Bench { scene, agent, floor };

    let mut table = Table::new(&["own load", &format!("{} processes more", LOAD.0)]);
    table::say("the machine's own load");
    measure(&bench, &mut table, "own")?;
    table::say(&format!("{} processes with {} descriptors each", LOAD.0, LOAD.1 * 5 / 4));
    let load = Load::idle(LOAD.0, LOAD.1)?;
    // What they did to start is not what is measured.
    std::thread::sleep(Duration::from_secs(2));
    measure(&bench, &mut table, "load")?;
    drop(load);
    table.print()
}

fn measure(bench: &Bench, table: &mut Table, name: &str) -> Result<()> {
    commands::measure(bench, table, name)?;
    agent::measure(bench, table, name)?;
    page::measure(bench, table, name)
}
