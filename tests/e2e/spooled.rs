//! The frames in the agent's spool, read by a program without code of this project.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::AgentPlan;
use edr_tests::kafka::Broker;
use edr_tests::load::{COMM, Hostile};
use edr_tests::reader;
use edr_tests::scene::Scene;
use edr_wire::frame::{Frame, FrameKind, Record, split_records};
use edr_wire::snapshot::Snapshot;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

/// A key frame and all deltas after it must give the same rows in `tests/reader/read_frame.py` and in this project.
pub(crate) fn frames_are_read_without_our_code(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    Scene::run("reader", |scene| {
        let hostile = Hostile::start(scene.path())?;
        // The broker does not run, so the frames stay in the spool.
        let nobody = Broker::prepare(&scene.folder("kafka")?)?;
        let plan = AgentPlan::new(&scene.folder("agent")?, &nobody.address(), "edr.snapshots");
        let mut agent = plan.start()?;
        let files = agent.has_spooled(4, Duration::from_secs(60))?;
        agent.process.terminate(Duration::from_secs(10))?;

        let mut key = None;
        let mut deltas = 0;
        for file in &files {
            let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            let records: Result<Vec<Record>> =
                split_records(&bytes).map(|record| Ok(Record::decode(record?)?)).collect();
            let frame = Frame::assemble(records?)?;
            let key_file = match frame.header.kind {
                FrameKind::Key => None,
                FrameKind::Delta => key.as_ref(),
            };
            let raw = frame.open(key_file.map(|(raw, _): &(Vec<u8>, _)| raw.as_slice()))?;
            let snapshot: Snapshot = rmp_serde::from_slice(&raw)?;
            let theirs = reader::snapshot(file, key_file.map(|(_, path): &(_, std::path::PathBuf)| path.as_path()))?;
            ensure!(theirs == serde_json::to_value(&snapshot)?, "{} reads differently", file.display());
            let rows = theirs["processes"].as_array().context("a snapshot without processes")?;
            let row = rows.iter().find(|row| row["pid"] == hostile.process.pid());
            let row = row.context("a snapshot without the hostile process")?;
            ensure!(row["comm"] == edr_wire::escaped(COMM), "comm is {}", row["comm"]);
            match frame.header.kind {
                FrameKind::Key => key = Some((raw, file.clone())),
                FrameKind::Delta => deltas += 1,
            }
        }
        ensure!(key.is_some() && deltas >= 2, "{deltas} deltas of {} frames", files.len());
        PASSED
    })
}
