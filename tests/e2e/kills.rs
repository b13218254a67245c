//! Repeated kill -9: nothing is lost, and nothing is counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;
use edr_tests::topic::{self, KafkaRecord, records};
use edr_tests::wait;
use edr_wire::frame::Record;
use edr_wire::{Epoch, HostId};

use crate::archive::{self, ArchivedRecord};
use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);
/// Each round kills the agent and the collector once.
const ROUNDS: usize = 4;

/// The agent's epoch must have no hole and only a single content for each sequence number, and the archive must have
/// every record of the topic once.
pub(crate) fn lose_and_double_nothing(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("kills", |scene| {
        let broker = shared.broker()?;
        let collector_plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let agent_plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic);
        let (mut collector, mut agent) = (collector_plan.start()?, agent_plan.start()?);
        for round in 1..=ROUNDS {
            grows(broker, &topic, 2)?;
            agent.process.kill_hard().with_context(|| format!("round {round}"))?;
            agent = agent_plan.start()?;
            grows(broker, &topic, 1)?;
            collector.process.kill_hard().with_context(|| format!("round {round}"))?;
            grows(broker, &topic, 1)?;
            collector = collector_plan.start()?;
        }
        collector.host_path(LIMIT)?;
        grows(broker, &topic, 1)?;
        agent.process.terminate(LIMIT)?;
        let sent = records(broker, &topic)?;
        let archived = archive::holds(&collector_plan.archive_dir(), sent.len(), LIMIT)?;
        collector.process.terminate(LIMIT)?;

        nothing_lost(&sent)?;
        nothing_doubled(&sent, &archived)?;
        PASSED
    })
}

/// Waits for `count` more records.
fn grows(broker: &Broker, topic: &str, count: usize) -> Result<()> {
    let before = records(broker, topic)?.len();
    let what = format!("{count} more records in the topic");
    wait::until(&what, LIMIT, || Ok((records(broker, topic)?.len() >= before + count).then_some(())))
}

/// Checks for a single epoch with `1..=n` without a hole, a final frame with `bye`, and equal content of repeated
/// frames.
fn nothing_lost(sent: &[KafkaRecord]) -> Result<()> {
    let mut frames: BTreeMap<(HostId, Epoch, u64), BTreeSet<[u8; 32]>> = BTreeMap::new();
    let mut said_goodbye = BTreeSet::new();
    for record in sent {
        let record = Record::decode(&record.value)?;
        let header = &record.header;
        ensure!(header.lost.is_empty(), "declared lost: {:?}", header.lost);
        frames.entry((header.host_id, header.epoch, header.seq)).or_default().insert(record.raw_hash);
        if header.bye {
            said_goodbye.insert(header.seq);
        }
    }
    let conflicts: Vec<_> = frames.iter().filter(|(_, contents)| contents.len() > 1).collect();
    ensure!(conflicts.is_empty(), "several contents under one number: {conflicts:?}");
    let epochs: BTreeSet<Epoch> = frames.keys().map(|(_, epoch, _)| *epoch).collect();
    ensure!(epochs.len() == 1, "a killed agent did not continue its epoch: {epochs:?}");
    let numbers: Vec<u64> = frames.keys().map(|(_, _, seq)| *seq).collect();
    let last = numbers.len() as u64;
    ensure!(numbers.iter().copied().eq(1..=last), "holes in {numbers:?}");
    ensure!(said_goodbye.contains(&last), "the last frame, {last}, says no goodbye");
    Ok(())
}

/// Checks that the archive has exactly one row for each record of the topic, with the same bytes, and no further rows.
fn nothing_doubled(sent: &[KafkaRecord], archived: &[ArchivedRecord]) -> Result<()> {
    let places: BTreeSet<(i32, i64)> = archived.iter().map(|row| (row.partition, row.offset)).collect();
    ensure!(places.len() == archived.len(), "{} rows for {} records", archived.len(), places.len());
    let wanted: BTreeMap<(i32, i64), &[u8]> =
        sent.iter().map(|record| ((record.partition, record.offset), record.value.as_slice())).collect();
    ensure!(places.iter().eq(wanted.keys()), "other records than the topic's: {places:?}");
    for row in archived {
        ensure!(row.fault.is_none(), "a sound record with a fault: {:?}", row.fault);
        ensure!(
            Some(&row.record.as_slice()) == wanted.get(&(row.partition, row.offset)),
            "other bytes than the topic's"
        );
    }
    Ok(())
}

/// Records that are no frames must be archived with their fault, and later records must still arrive.
pub(crate) fn a_record_that_is_no_frame_is_kept(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("fault", |scene| {
        let broker = shared.broker()?;
        let plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let mut agent = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic).start()?;
        grows(broker, &topic, 1)?;
        let sound = records(broker, &topic)?;
        let [first, ..] = sound.as_slice() else { anyhow::bail!("no record") };
        let mut damaged = first.value.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        // In the partition of the agent's records, so that later records of the agent come behind the hostile records.
        let hostile: [&[u8]; 4] = [b"", b"<script>alert(1)</script>", &damaged, &first.value[..first.value.len() - 1]];
        for value in hostile {
            topic::produce(broker, &topic, first.partition, &first.key, value)?;
        }
        topic::produce(broker, &topic, first.partition, b"\xff no host", &first.value)?;

        let mut collector = plan.start()?;
        grows(broker, &topic, 2)?;
        let host = collector.host_path(LIMIT)?;
        agent.process.terminate(LIMIT)?;
        let sent = records(broker, &topic)?;
        let archived = archive::holds(&plan.archive_dir(), sent.len(), LIMIT)?;
        let faulty: Vec<_> = archived.iter().filter(|row| row.fault.is_some()).collect();
        for value in hostile {
            let found = faulty.iter().any(|row| row.record == value);
            ensure!(found, "no row with a fault for {:?}", String::from_utf8_lossy(&value[..value.len().min(40)]));
        }
        let behind = archived.iter().filter(|row| row.fault.is_none() && row.partition == first.partition).count();
        ensure!(behind >= 3, "{behind} sound records in the partition");
        // The page must show the newest frame.
        let last = sent.iter().filter_map(|record| Record::decode(&record.value).ok()).map(|r| r.header.seq).max();
        let last = last.context("no frame")?;
        collector.page(&host, &format!("frame {last}"), LIMIT, |body| {
            edr_tests::http::text_of(body).contains(&format!("number {last} of epoch"))
        })?;
        PASSED
    })
}
