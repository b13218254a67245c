//! A damaged data file of the archive: one gap, named by commands, journal and page; everything else is shown.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::http::text_of;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_tests::wait;

use crate::archive;
use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);

/// Cuts a file between the first and the last one, so that key and newest frame of the host stay.
pub(crate) fn a_damaged_file(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("damaged", |scene| {
        let broker = shared.broker()?;
        let plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let mut collector = plan.start()?;
        let mut agent = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic).start()?;
        wait::until("three data files", LIMIT, || Ok((data_files(&plan)?.len() >= 3).then_some(())))?;
        agent.process.terminate(LIMIT)?;
        archive::holds(&plan.archive_dir(), records(broker, &topic)?.len(), LIMIT)?;
        let page = collector.host_path(LIMIT)?;
        collector.process.terminate(LIMIT)?;
        let whole = plan.command_output(&["hosts"])?;
        ensure!(whole.status.code() == Some(0), "{whole:?}");

        let files = data_files(&plan)?;
        let damaged = files.get(1).context("no file between the others")?;
        let bytes = std::fs::read(damaged)?;
        std::fs::write(damaged, &bytes[..bytes.len() / 2])?;
        let name = damaged.file_name().and_then(|name| name.to_str()).context("a file without a name")?;

        let host = plan.command_output(&["hosts", "--format", "json"])?;
        let hosts: serde_json::Value = serde_json::from_slice(&host.stdout)?;
        let id = hosts[0]["host_id"].as_str().context("no host is listed")?.to_owned();
        for args in [vec!["hosts"], vec!["processes", "--host", &id, "--at", "now"]] {
            let output = plan.command_output(&args)?;
            let notes = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(3) && notes.contains(name), "{args:?}: {}: {notes}", output.status);
            ensure!(!output.stdout.is_empty(), "{args:?} prints no rows");
        }

        let mut collector = plan.start()?;
        collector.process.says(name, LIMIT)?;
        collector.page("/", "the damaged file", LIMIT, |body| text_of(body).contains(name))?;
        collector.page(&page, "the host", LIMIT, |body| text_of(body).contains(name))?;
        collector.process.terminate(LIMIT)?;

        // A file that is whole again is read again.
        std::fs::write(damaged, bytes)?;
        let whole = plan.command_output(&["hosts"])?;
        ensure!(whole.status.code() == Some(0), "{whole:?}");
        PASSED
    })
}

/// The data files of `frames`, the oldest first.
fn data_files(plan: &CollectorPlan) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![plan.archive_dir().join("frames")];
    while let Some(folder) = folders.pop() {
        // Before the first commit there is no folder.
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if metadata.is_dir() && !path.ends_with("_delta_log") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                found.push((metadata.modified()?, path));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
