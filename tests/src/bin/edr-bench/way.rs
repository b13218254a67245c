//! The delay from a tick to the page.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::CollectorPlan;
use edr_tests::http::text_of;
use edr_tests::kafka::Broker;
use edr_tests::topic::records;
use edr_tests::wait;
use edr_wire::frame::Record;

use crate::Bench;
use crate::report::SummaryFigure;
use crate::table::{FigureTable, median, ms};

const LIMIT: Duration = Duration::from_secs(60);
/// Awaited snapshots.
const TICKS: usize = 10;

pub(crate) fn measure(bench: &Bench, table: &mut FigureTable, name: &str) -> Result<()> {
    let broker = Broker::start(&bench.scene.folder(&format!("{name}-kafka"))?)?;
    let folder = bench.scene.folder(&format!("{name}-collector"))?;
    let mut plan = CollectorPlan::new(&folder, &broker.address(), "edr.snapshots")?;
    plan.commit_interval = "5s".to_owned();
    plan.create_topic()?;
    let mut collector = plan.start()?;
    let mut plan = bench.plan(&format!("{name}-shown"), &broker.address())?;
    plan.interval = "2s".to_owned();
    let mut agent = plan.start()?;
    let host = collector.host_path(LIMIT)?;

    // For each sequence number the time of its first appearance on the page, ns since the epoch.
    let mut shown = BTreeMap::new();
    wait::until("the page to show new snapshots", LIMIT, || {
        ensure!(agent.process.is_running()?, "the agent ended; its log:\n{}", agent.process.log_tail());
        let text = text_of(&collector.get(&host)?.body);
        let seq = text.split_once("number ").and_then(|(_, rest)| rest.split_once(" of epoch")).map(|(seq, _)| seq);
        let seq: u64 = seq.context("the page shows no number")?.replace(',', "").parse().context("read the number")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_nanos();
        shown.entry(seq).or_insert(now);
        Ok((shown.len() > TICKS).then_some(()))
    })?;
    agent.process.terminate(LIMIT)?;
    let mut delays = Vec::new();
    for record in records(&broker, "edr.snapshots")? {
        let header = Record::decode(&record.value)?.header;
        // The first snapshot is left out: it was on the page before the first look.
        if let Some(when) = shown.get(&header.seq).filter(|_| Some(&header.seq) != shown.keys().next()) {
            delays.push((*when as f64 - header.captured_ns as f64) / 1e9);
        }
    }
    let slowest = delays.iter().copied().fold(0.0, f64::max);
    let usual = ms(median(&delays).context("nothing shown")?);
    table.summarize(SummaryFigure::Page, usual.as_str());
    table.set("from tick to page (asked every 50 ms, commits every 5 s)", usual);
    table.set("… slowest", ms(slowest));
    Ok(())
}
