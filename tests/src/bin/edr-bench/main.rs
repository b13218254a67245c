//! `script/bench`: the cost of a snapshot, the size of a frame and the delay until a snapshot is shown, compared with
//! the replaced tools. All in one run on one machine, because ratios tell more than single figures.

mod collect;
mod commands;
mod frames;
mod maps;
mod memory;
mod psad;
mod redact;
mod report;
mod run;
mod table;
mod way;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::{binaries, release_agent, release_psad_bench};
use edr_tests::cache::checkout;
use edr_tests::daemons::AgentPlan;
use edr_tests::load::Load;
use edr_tests::scene::Scene;
use table::FigureTable;

/// The load: number of processes, and of items opened in each (two of eight are pairs, so 75 descriptors).
const LOAD: (usize, usize) = (400, 60);
/// A usual host: processes and descriptors.
const USUAL: (usize, usize) = (300, 5_000);

/// The programs and the folder of a run.
struct Bench {
    scene: Scene,
    agent: PathBuf,
    floor: PathBuf,
}

impl Bench {
    /// A plan for the release build, in a separate folder.
    fn plan(&self, name: &str, broker: &str) -> Result<AgentPlan> {
        let mut plan = AgentPlan::new(&self.scene.folder(name)?, broker, "edr.snapshots");
        plan.program = Some(self.agent.clone());
        Ok(plan)
    }

    /// Compiles a program of `bench/`.
    fn compile(&self, name: &str) -> Result<PathBuf> {
        let program = self.scene.path().join(name);
        let mut cc = std::process::Command::new("cc");
        cc.args(["-O2", "-o"]).arg(&program).arg(checkout().join(format!("bench/{name}.c")));
        ensure!(cc.status().context("run cc")?.success(), "bench/{name}.c does not compile");
        Ok(program)
    }

    /// Writes the configuration as shipped, with an interval of ten seconds.
    fn config(&self, name: &str) -> Result<String> {
        let mut plan = self.plan(name, "127.0.0.1:1")?;
        plan.interval = "10s".to_owned();
        Ok(plan.write_config()?.to_string_lossy().into_owned())
    }
}

fn main() -> Result<()> {
    table::say("building edr-agentd as it is shipped (minutes at first)");
    let agent = release_agent()?;
    // All builds come before the measurements, because a build would disturb the figures.
    release_psad_bench()?;
    binaries()?;
    let start = Instant::now();
    let scene = Scene::new("bench")?;
    let mut bench = Bench { scene, agent, floor: PathBuf::new() };
    bench.floor = bench.compile("proc_floor")?;

    let mut table = FigureTable::new(&["own load", "a usual host", "400 processes more"]);
    table::say("the machine's own load");
    collect::measure(&bench, &mut table, "own", 2)?;
    commands::measure(&bench, &mut table, "own")?;
    frames::measure(&bench, &mut table, "own", None)?;
    way::measure(&bench, &mut table, "own")?;
    psad::measure(&mut table)?;
    redact::measure(&bench, &mut table)?;

    table.at(1);
    let load = usual_host()?;
    collect::measure(&bench, &mut table, "usual", 2)?;
    commands::measure(&bench, &mut table, "usual")?;
    frames::measure(&bench, &mut table, "usual", Some(24.0))?;
    way::measure(&bench, &mut table, "usual")?;
    memory::measure(&bench, &mut table, "usual")?;
    maps::measure(&bench, &mut table)?;
    drop(load);

    table.at(2);
    table::say(&format!("{} processes with {} descriptors each", LOAD.0, LOAD.1 * 5 / 4));
    let load = idle(LOAD)?;
    collect::measure(&bench, &mut table, "load", 2)?;
    commands::measure(&bench, &mut table, "load")?;
    frames::measure(&bench, &mut table, "load", Some(64.0))?;
    way::measure(&bench, &mut table, "load")?;
    drop(load);
    table::say(&format!("measured for {:.1} minutes", start.elapsed().as_secs_f64() / 60.0));
    report::write(&table)
}

/// Starts as many idle processes as are missing for a usual host.
fn usual_host() -> Result<Load> {
    let (mut processes, mut descriptors) = (0, 0);
    for entry in std::fs::read_dir("/proc").context("list processes")?.flatten() {
        if entry.file_name().to_string_lossy().parse::<u32>().is_ok() {
            processes += 1;
            descriptors += std::fs::read_dir(entry.path().join("fd")).map_or(0, Iterator::count);
        }
    }
    let more = USUAL.0.saturating_sub(processes + 1).max(1);
    // Each process has three descriptors, and the parent holds two for each process.
    let each = (USUAL.1.saturating_sub(descriptors) / more).saturating_sub(5);
    table::say(&format!("{more} processes more, to make it {} with {} descriptors", USUAL.0, USUAL.1));
    idle((more, each * 4 / 5))
}

fn idle((processes, files): (usize, usize)) -> Result<Load> {
    let load = Load::idle(processes, files)?;
    // The start of the processes is not measured.
    std::thread::sleep(Duration::from_secs(2));
    Ok(load)
}
