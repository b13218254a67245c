//! A frame of more than 10 MB.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::load::Load;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_tests::wait;
use edr_wire::frame::{Frame, Record};

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

/// Time limit: a debug build compresses, cuts, sends, archives and decodes 12 MB of noise.
const LIMIT: Duration = Duration::from_secs(180);
const PROCESSES: usize = 200;
const ARGV_BYTES: usize = 60_000;

/// Random arguments cannot be compressed: a body of at least 10 MB must pass a broker with default limits, and every
/// byte must arrive.
pub(crate) fn passes_a_broker_with_default_limits(shared: &TestBed) -> TestResult {
    let _alone = shared.alone();
    let topic = shared.topic()?;
    Scene::run("bulk", |scene| {
        let load = Load::random_argv(PROCESSES, ARGV_BYTES)?;
        let broker = shared.broker()?;
        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?.start()?;
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic);
        plan.interval = "15s".to_owned();
        let mut agent = plan.start()?;

        // Processes of other tests may share the room of the first snapshots.
        let (parts, frame) = wait::until("a frame of 10 MB in the topic", LIMIT, || {
            ensure!(agent.process.is_running()?, "the agent ended; its log:\n{}", agent.process.log_tail());
            let mut frames: BTreeMap<u64, Vec<Record>> = BTreeMap::new();
            for record in records(broker, &topic)? {
                let record = Record::decode(&record.value)?;
                frames.entry(record.header.seq).or_default().push(record);
            }
            for parts in frames.into_values().filter(|parts| parts.len() == parts[0].parts as usize) {
                let (count, frame) = (parts.len(), Frame::assemble(parts)?);
                if frame.body.len() >= 10_000_000 {
                    return Ok(Some((count, frame)));
                }
            }
            Ok(None)
        })?;
        ensure!(parts >= 13, "{} bytes in {parts} parts", frame.body.len());

        // Shown completely: the page has as many rows as there are processes, and the archive has every byte of every
        // argument.
        let host = collector.host_path(LIMIT)?;
        let parent = load.pid();
        collector.page(&format!("{host}/processes?filter=parent:{parent}&rows=20"), "all of them", LIMIT, |body| {
            body.contains(&PROCESSES.to_string())
        })?;
        let hosts = collector.plan.archived_hosts(LIMIT)?;
        let name = hosts[0]["host_id"].as_str().context("hosts has no host_id")?.to_owned();
        let rows = collector.plan.view(&["processes", "--host", &name])?;
        let rows = rows.as_array().context("processes is no list")?;
        let mut shown = BTreeMap::new();
        for row in rows.iter().filter(|row| row["parent"] == parent) {
            shown.insert(row["pid"].as_u64().context("a row without pid")?, row.to_string());
        }
        ensure!(shown.len() == PROCESSES, "{} processes are shown", shown.len());
        for (pid, row) in shown {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).context("read a command line")?;
            let argument = cmdline.split(|byte| *byte == 0).nth(4).context("a command line without its noise")?;
            ensure!(argument.len() == ARGV_BYTES, "the noise has {} bytes", argument.len());
            let text = serde_json::to_string(&edr_wire::escaped(argument))?;
            ensure!(row.contains(text.trim_matches('"')), "the argument of pid {pid} is not whole");
        }
        PASSED
    })
}
