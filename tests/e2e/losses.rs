//! Losses that a reader must see, on the page and by command: frames dropped by the spool's quota, a stopped agent, and
//! a row deleted from the archive.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use deltalake::datafusion::logical_expr::{col, lit};
use edr_tests::daemons::{AgentPlan, CollectorDaemon, CollectorPlan};
use edr_tests::http::text_of;
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_tests::wait;
use edr_wire::frame::Record;
use serde_json::Value;

use crate::archive;
use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);
/// The reasons of frames without room in the spool.
const DROPPED: [&str; 2] = ["thinned", "spool_full"];

/// Without a broker, and with less free room than the quota leaves, the agent drops old frames, at first all but one a
/// minute, and declares the loss. The collector names the dropped frames, with the reason.
pub(crate) fn a_frame_dropped_by_quota(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    Scene::run("quota", |scene| {
        let mut broker = Broker::prepare(&scene.folder("kafka")?)?;
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), "edr.snapshots");
        // No disk has so much free room: only the newest frames stay.
        plan.kafka = "\n[spool]\nfree-bytes-min = \"1024GiB\"\n".to_owned();
        let mut agent = plan.start()?;
        wait::until("frame 1 to be dropped", LIMIT, || {
            ensure!(agent.process.is_running()?, "the agent ended; its log:\n{}", agent.process.log_tail());
            let spooled = agent.spooled()?;
            let seq = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
            Ok(spooled.iter().filter_map(seq).min().is_some_and(|oldest| oldest > 1).then_some(()))
        })?;
        broker.resume()?;
        let collector_plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), "edr.snapshots")?;
        collector_plan.create_topic()?;
        let mut collector = collector_plan.start()?;
        collector.host_path(LIMIT)?;
        agent.process.terminate(LIMIT)?;

        // The declared frames that did not arrive, from the topic. Frames of the same minute as a later frame are
        // thinned, and the last frame of a minute is dropped for want of room.
        let (mut arrived, mut declared) = (BTreeSet::new(), BTreeSet::new());
        let sent = records(&broker, "edr.snapshots")?;
        for record in &sent {
            let header = Record::decode(&record.value)?.header;
            arrived.insert(header.seq);
            for lost in header.lost {
                ensure!(lost.epoch == header.epoch && DROPPED.contains(&lost.reason.as_str()), "{lost:?}");
                declared.extend(lost.first_seq..=lost.last_seq);
            }
        }
        let missing: BTreeSet<u64> = declared.difference(&arrived).copied().collect();
        // A frame that Kafka's client already held arrives although the frame was declared lost.
        ensure!(!missing.is_empty(), "declared: {declared:?}, arrived: {arrived:?}");
        archive::holds(&collector_plan.archive_dir(), sent.len(), LIMIT)?;
        let dropped = |losses: &Value| -> Result<BTreeSet<u64>> {
            let of_reasons: Result<Vec<_>> = DROPPED.iter().map(|reason| ranges(losses, "lost", reason)).collect();
            Ok(of_reasons?.into_iter().flatten().collect())
        };
        let losses = losses(&collector_plan, |losses| Ok(dropped(losses)? == missing))?;
        ensure!(dropped(&losses)? == missing, "{losses} instead of {missing:?}");
        let host = host(&collector_plan)?;
        ensure!(host["lost"] == missing.len() && host["unexplained"] == 0, "{host}");
        for reason in DROPPED {
            if ranges(&losses, "lost", reason)?.is_empty() {
                continue;
            }
            names(&host, &format!("reason {reason}"))?;
            shows(&mut collector, reason, "declared lost by the host")?;
        }
        PASSED
    })
}

/// A stopped agent declares the ticks until its next start as missed.
pub(crate) fn a_stopped_agent(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("stopped", |scene| {
        let broker = shared.broker()?;
        let plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let mut collector = plan.start()?;
        let agent_plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic);
        let mut agent = agent_plan.start()?;
        collector.host_path(LIMIT)?;
        agent.process.terminate(LIMIT)?;
        let stopped_ms = now_ms()?;
        std::thread::sleep(Duration::from_secs(5));
        let started_ms = now_ms()?;
        let mut agent = agent_plan.start()?;

        let stopped = |losses: &Value| -> Option<Value> {
            let rows = losses.as_array()?;
            rows.iter()
                .find(|row| row["what"] == "missed" && row["reason"] == "stopped" && !row["from"].is_null())
                .cloned()
        };
        let losses = losses(&plan, |losses| Ok(stopped(losses).is_some()))?;
        let row = stopped(&losses).context("no missed ticks")?;
        let ticks = row["count"].as_u64().context("count")?;
        ensure!((4..30).contains(&ticks), "{row}");
        let at = |name: &str| -> Result<i64> {
            let text = row[name].as_str().with_context(|| format!("{name} of {row}"))?;
            Ok(text.parse::<jiff::Timestamp>()?.as_millisecond())
        };
        // The last snapshot was taken within a second of the stop.
        ensure!((stopped_ms - 3_000..=started_ms).contains(&at("from")?), "{row}; stopped at {stopped_ms}");
        ensure!((started_ms - 2_000..=now_ms()?).contains(&at("to")?), "{row}; started at {started_ms}");
        let host = host(&plan)?;
        ensure!(host["missed"].as_u64() >= Some(ticks) && host["missing"] != "complete", "{host}");
        names(&host, "reason stopped")?;
        shows(&mut collector, "stopped", "ticks without a frame, declared by the host")?;
        let header = String::from_utf8(plan.command_output(&["processes"])?.stderr)?;
        ensure!(header.contains("reason stopped") && header.contains("last seq"), "{header}");
        agent.process.terminate(LIMIT)?;
        PASSED
    })
}

/// A row deleted from the table `frames` leaves an unexplained number, found by a command at once and by the collector
/// at its next start.
pub(crate) fn a_deleted_row(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("deleted", |scene| {
        let broker = shared.broker()?;
        let plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let mut collector = plan.start()?;
        let mut agent = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic).start()?;
        wait::until("five frames", LIMIT, || Ok((records(broker, &topic)?.len() >= 5).then_some(())))?;
        agent.process.terminate(LIMIT)?;
        archive::holds(&plan.archive_dir(), records(broker, &topic)?.len(), LIMIT)?;
        let page = collector.host_path(LIMIT)?;
        collector.process.terminate(LIMIT)?;
        let before = host(&plan)?;
        ensure!(before["unexplained"] == 0 && before["lost"] == 0, "{before}");

        delete(&plan.archive_dir(), 3)?;
        let three = BTreeSet::from([3]);
        let losses = losses(&plan, |_| Ok(true))?;
        ensure!(ranges(&losses, "unexplained", "")? == three, "{losses}");
        let host = host(&plan)?;
        ensure!(host["unexplained"] == 1, "{host}");
        ensure!(host["archived"].as_u64() == before["archived"].as_u64().map(|count| count - 1), "{host}");
        names(&host, "unexplained: 1 frame, seq 3 of epoch")?;

        let mut collector = plan.start()?;
        let text = "unexplained, or not yet arrived";
        let body = collector.page(&page, text, LIMIT, |body| text_of(body).contains(text))?;
        ensure!(body.contains(&format!("<td>{text}</td><td></td><td>3</td>")), "no range on the page:\n{body}");
        collector.page("/", "the number of losses", LIMIT, |body| body.contains("/losses\">"))?;
        collector.process.says("the day is counted again", LIMIT)?;
        collector.process.terminate(LIMIT)?;
        PASSED
    })
}

/// Deletes the rows of a frame, as someone with access to the files would.
fn delete(archive: &Path, seq: i64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        let url = deltalake::ensure_table_uri(archive.join("frames").to_string_lossy())?;
        let table = deltalake::open_table(url).await?;
        let (_, metrics) = table.delete().with_predicate(col("seq").eq(lit(seq))).await?;
        ensure!(metrics.num_deleted_rows == Some(1), "{metrics:?}");
        Ok(())
    })
}

/// Waits until the losses of the only host fit, and returns the losses.
fn losses(plan: &CollectorPlan, fits: impl Fn(&Value) -> Result<bool>) -> Result<Value> {
    wait::until("the losses", LIMIT, || {
        let losses = plan.view(&["losses"])?;
        Ok(fits(&losses)?.then_some(losses))
    })
}

/// Returns the sequence numbers of a kind and a reason.
fn ranges(losses: &Value, what: &str, reason: &str) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for row in losses.as_array().context("losses is no list")? {
        if row["what"] == what && row["reason"].as_str().unwrap_or_default() == reason {
            let end = |name: &str| row[name].as_u64().with_context(|| format!("{name} of {row}"));
            numbers.extend(end("first_seq")?..=end("last_seq")?);
        }
    }
    Ok(numbers)
}

/// Returns the only host.
fn host(plan: &CollectorPlan) -> Result<Value> {
    plan.view(&["hosts"])?.get(0).cloned().context("no host")
}

/// Checks the words of `edr-collectd hosts`.
fn names(host: &Value, words: &str) -> Result<()> {
    ensure!(host["losses"].as_str().is_some_and(|losses| losses.contains(words)), "no {words:?} in {host}");
    Ok(())
}

/// Checks that the page of the host and the table of losses show a loss.
fn shows(collector: &mut CollectorDaemon, reason: &str, meaning: &str) -> Result<()> {
    let page = collector.host_path(LIMIT)?;
    collector.page(&page, reason, LIMIT, |body| {
        let text = text_of(body);
        text.contains(reason) && text.contains(meaning) && text.contains("Not complete: ")
    })?;
    collector.page(&format!("{page}/losses"), reason, LIMIT, |body| text_of(body).contains(reason))?;
    Ok(())
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
