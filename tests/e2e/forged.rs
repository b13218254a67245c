//! Frames of a client that may write the topic and is no agent: with impossible numbers and times, without their key,
//! and with contents that cannot be shown.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::http::text_of;
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;
use edr_tests::topic::{produce, records};
use edr_tests::wait;
use edr_wire::frame::{EncodedFrame, Frame, FrameHeader, FrameKind, Record};
use edr_wire::limits::PART_BYTES;
use edr_wire::{Epoch, HostId};

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);

/// Forged frames are alarms on the page and in `hosts`, and the host's next frames are shown all the same.
pub(crate) fn frames_hide_no_later_frame(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("forged", |scene| {
        let broker = shared.broker()?;
        let plan = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?;
        let mut collector = plan.start()?;
        let mut agent = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic).start()?;
        let host = collector.host_path(LIMIT)?;
        let (header, raw) = first_key(broker, &topic)?;

        // Invented hosts, each with a delta whose key never comes.
        for n in 0..100_u8 {
            let orphan = FrameHeader { seq: 5, kind: FrameKind::Delta, base_seq: 4, ..header.clone() };
            send(broker, &topic, &FrameHeader { host_id: HostId([n; 16]), ..orphan }, &raw, Some(&raw))?;
        }
        let highest = FrameHeader { seq: 1 << 62, base_seq: 1 << 62, ..header.clone() };
        send(broker, &topic, &highest, &raw, None)?;
        let of_2262 =
            FrameHeader { epoch: Epoch([0xfe; 8]), seq: 1, base_seq: 1, captured_ns: i64::MAX, ..header.clone() };
        send(broker, &topic, &of_2262, &raw, None)?;
        collector.page(&host, "the alarms", LIMIT, |body| {
            let text = text_of(body);
            text.contains("a number that the host cannot have reached: 1")
                && text.contains("captured later than they were received: 1")
        })?;
        let id = host.trim_start_matches("/hosts/");
        let seq = |after: u64| {
            wait::until("a later frame of the host in the list", LIMIT, || {
                let hosts = plan.view(&["hosts"])?;
                let row = hosts.as_array().into_iter().flatten().find(|row| row["host_id"] == id);
                let row = row.with_context(|| format!("no host {id} in {hosts}"))?;
                let alarms = row["alarms"].as_str().unwrap_or_default();
                ensure!(alarms.contains("cannot have reached") && alarms.contains("captured later"), "{row}");
                Ok(row["seq"].as_u64().filter(|seq| *seq > after && *seq < 1 << 62))
            })
        };
        let last = seq(header.seq)?;
        seq(last)?;
        // The frame of the year 2262 is archived, and its moment shows it with an alarm.
        let future =
            collector.page(&format!("{host}?at=2262-04-11T23:47:16.854775807Z"), "the forged frame", LIMIT, |body| {
                text_of(body).contains("is in doubt: its number or its time cannot be right")
            });
        future?;

        // The newest frame cannot be shown: the page shows the one before, and the reason.
        agent.process.terminate(LIMIT)?;
        let sent = records(broker, &topic)?;
        let of_host = sent.iter().filter_map(|record| Record::decode(&record.value).ok().map(|record| record.header));
        let newest =
            of_host.filter(|other| other.epoch == header.epoch && other.seq < 1 << 62).max_by_key(|other| other.seq);
        let newest = newest.context("no frame of the host")?;
        let mut broken = raw.clone();
        let field = memchr::memmem::find(&broken, b"\xa6kernel").context("no field kernel")?;
        broken[field + 6] = b'x';
        let next = newest.seq + 1;
        let unshown = FrameHeader { seq: next, base_seq: next, kind: FrameKind::Key, bye: false, ..newest };
        send(broker, &topic, &unshown, &broken, None)?;
        for view in ["", "/processes", "/psad", "/losses"] {
            collector.page(&format!("{host}{view}"), "the snapshot before, and the reason", LIMIT, |body| {
                let text = text_of(body);
                text.contains(&format!("(seq {next}) cannot be read: "))
                    && text.contains("newest snapshot that can be read")
            })?;
        }
        let notes = String::from_utf8(plan.command_output(&["processes", "--host", id])?.stderr)?;
        ensure!(notes.contains("cannot be read: ") && notes.contains(&format!("seq {}", next - 1)), "{notes}");
        collector.process.terminate(LIMIT)?;
        PASSED
    })
}

/// Returns the first key frame in the topic.
fn first_key(broker: &Broker, topic: &str) -> Result<(FrameHeader, Vec<u8>)> {
    let sent = records(broker, topic)?;
    let decoded: Vec<Record> = sent.iter().map(|record| Record::decode(&record.value)).collect::<Result<_, _>>()?;
    let first = decoded.iter().find(|record| record.header.kind == FrameKind::Key).context("no key frame")?;
    let parts = decoded.iter().filter(|record| record.key == first.key).cloned().collect();
    Ok((first.header.clone(), Frame::assemble(parts)?.open(None)?))
}

/// Sends a frame of a host.
fn send(broker: &Broker, topic: &str, header: &FrameHeader, raw: &[u8], key_raw: Option<&[u8]>) -> Result<()> {
    for bytes in EncodedFrame::encode(header, raw, key_raw, PART_BYTES)?.records {
        produce(broker, topic, 0, &header.host_id.0, &bytes)?;
    }
    Ok(())
}
