//! Measures the archive on this machine: commits, starts and questions, with HOSTS hosts (default 1000) and COMMITS
//! commits (default 200). Every second commit has one frame per host.
//!
//! `cargo run -p edr-collectd --example archive_cost -- [HOSTS] [COMMITS]`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use edr_archive::decode::decode;
use edr_archive::{Coverage, Frames, HostsTable, PartitionName, ReceivedRecord};
use edr_collectd::newest::Newest;
use edr_collectd::query::HostAnswers;
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind, Record};
use edr_wire::snapshot::{Host, OpenFile, Process, Snapshot};
use edr_wire::{Bytes, Epoch, HostId};

const PROCESSES: u32 = 100;
const FILES: u32 = 10;
const INTERVAL_NS: i64 = 10_000_000_000;
const BEGIN_NS: i64 = 1_773_112_360_000_000_000;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let hosts: u32 = args.next().map_or(Ok(1000), |text| text.parse())?;
    let commits: i64 = args.next().map_or(Ok(200), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(hosts, commits))
}

async fn measure(hosts: u32, commits: i64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let dir = tempfile::tempdir()?;
    let partition = PartitionName { cluster: "c".into(), topic: "edr.snapshots".into(), partition: 0, generation: 0 };
    let key_raw = raw(0)?;
    let delta_raw = raw(1)?;
    let mut frames = Frames::open(dir.path()).await?;
    frames.position(&partition).await?;
    let newest = Newest::default();
    let (mut offset, mut records, mut bytes) = (0_i64, 0_usize, 0_usize);
    let (mut decoding, mut committing, mut maintaining) = (Duration::ZERO, Vec::new(), Vec::new());
    let mut upkeep = edr_archive::upkeep(dir.path());
    for commit in 0..commits {
        let seq = u64::try_from(commit / 2 + 1)?;
        let mut rows = Vec::new();
        for host in (0..hosts).filter(|host| i64::from(host % 2) == commit % 2) {
            let is_key = seq == 1;
            let header = header(host, seq);
            let encoded = if is_key {
                EncodedFrame::encode(&header, &key_raw, None, 768 << 10)?
            } else {
                EncodedFrame::encode(&header, &delta_raw, Some(&key_raw), 768 << 10)?
            };
            for record in encoded.records {
                let begin = Instant::now();
                // Twice, as the collector does: before the commit, and after it with the body.
                let decoded = decode(&record).map_err(anyhow::Error::msg)?;
                let again = decode(&record).map_err(anyhow::Error::msg)?;
                let row = ReceivedRecord {
                    partition: partition.clone(),
                    offset,
                    kafka_timestamp_ms: None,
                    received_ns: BEGIN_NS + commit * INTERVAL_NS / 2 + i64::from(host),
                    key: Some(vec![0; 32]),
                    record: Some(record),
                    content: Ok(Record { body: Vec::new(), ..again }),
                };
                newest.offer(&partition, row.place(), decoded);
                decoding += begin.elapsed();
                bytes += row.byte_len();
                rows.push(row);
                offset += 1;
            }
        }
        records += rows.len();
        let begin = Instant::now();
        frames.append(&rows, &BTreeMap::from([(partition.clone(), offset)])).await?;
        committing.push(begin.elapsed());
        // The derive stage does upkeep once a minute.
        if commit % 12 == 11 {
            let begin = Instant::now();
            for table in &mut upkeep {
                table.run().await?;
            }
            maintaining.push(begin.elapsed());
        }
    }
    writeln!(
        out,
        "{records} records, {} MB, of {hosts} hosts in {commits} commits: decoded and noted {:.0}/s; archived {:.0}/s",
        bytes / 1_000_000,
        records as f64 / decoding.as_secs_f64(),
        records as f64 / committing.iter().sum::<Duration>().as_secs_f64()
    )?;
    let last: Vec<Duration> = committing.iter().rev().take(20).copied().collect();
    committing.sort_unstable();
    writeln!(
        out,
        "a commit: median {:?}, 99 % {:?}; the last 20 of them: mean {:?}",
        committing[committing.len() / 2],
        committing[committing.len() * 99 / 100],
        last.iter().sum::<Duration>() / u32::try_from(last.len())?
    )?;
    let longest = maintaining.iter().max().copied().unwrap_or_default();
    writeln!(out, "upkeep: {} rounds, the longest {longest:?}", maintaining.len())?;
    drop(frames);

    let begin = Instant::now();
    let answers = HostAnswers::from_archive(dir.path()).await?;
    writeln!(out, "a start that reads the columns of all of it: {:?}", begin.elapsed())?;
    drop(answers);
    let mut table = HostsTable::open(dir.path()).await?;
    let until_ns = BEGIN_NS + commits * INTERVAL_NS / 2;
    let coverage: Coverage = BTreeMap::from([(partition, (offset, until_ns))]);
    let begin = Instant::now();
    table.save(newest.save(|_| true), &coverage).await?;
    writeln!(out, "saving {hosts} hosts: {:?}", begin.elapsed())?;
    let begin = Instant::now();
    let answers = HostAnswers::from_archive(dir.path()).await?;
    writeln!(out, "a start with the hosts saved: {:?}", begin.elapsed())?;
    let host = host_id(hosts / 2).to_string();
    for (what, at_ns) in [
        ("the newest snapshot of a host, from the archive", None),
        ("the same again", None),
        ("a snapshot half way back", Some(BEGIN_NS + commits * INTERVAL_NS / 4)),
        ("the first snapshot", Some(BEGIN_NS + INTERVAL_NS)),
    ] {
        let begin = Instant::now();
        let snapshot = answers.snapshot(&host, at_ns).await?;
        writeln!(out, "{what} (seq {}): {:?}", snapshot.seq, begin.elapsed())?;
    }
    Ok(())
}

fn host_id(host: u32) -> HostId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&host.to_be_bytes());
    HostId(id)
}

fn header(host: u32, seq: u64) -> FrameHeader {
    FrameHeader {
        host_id: host_id(host),
        epoch: Epoch([1; 8]),
        seq,
        kind: if seq == 1 { FrameKind::Key } else { FrameKind::Delta },
        base_seq: 1,
        boot_id: "boot".into(),
        previous_epoch: None,
        captured_ns: BEGIN_NS + i64::try_from(seq).unwrap_or(0) * INTERVAL_NS,
        lost: Vec::new(),
        missed: Vec::new(),
        bye: false,
    }
}

/// Returns a snapshot of [`PROCESSES`] with [`FILES`] each; one process in ten has `changed` ticks of CPU time.
fn raw(changed: u64) -> anyhow::Result<Vec<u8>> {
    let process = |pid: u32| Process {
        pid,
        comm: Bytes::from(&format!("process-{pid}")),
        argv: vec![Bytes::from(&format!("/usr/bin/process-{pid}")), Bytes::from("--of-the-archive-cost")],
        utime_ticks: if pid.is_multiple_of(10) { changed } else { 0 },
        state: 'S',
        files: (0..FILES)
            .map(|fd| OpenFile {
                path: Bytes::from(&format!("/var/lib/process-{pid}/file-{fd}")),
                inode: u64::from(pid * 1000 + fd),
                ..OpenFile::default()
            })
            .collect(),
        ..Process::default()
    };
    let host = Host { hostname: "a-host".into(), ..Host::default() };
    let snapshot =
        Snapshot { schema: 1, host, processes: (1..=PROCESSES).map(process).collect(), ..Snapshot::default() };
    Ok(rmp_serde::to_vec_named(&snapshot)?)
}
