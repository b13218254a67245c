//! `check`: checks the configuration and, with `--online`, everything that a start needs.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use edr_daemon::exit;
use edr_daemon::kafka::judge_security;
use edr_daemon::preflight::{Findings, Level};
use jiff::Timestamp;

use super::{Check, CheckFormat, load};
use crate::config::Config;
use crate::consume::{allow_command, command, create, judge_topic, look, may_read};
use crate::run::runtime;

/// Free space, in bytes, below which a warning is given for the archive.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Runs [`super::Command::Check`].
pub(super) fn check(path: &Path, args: &Check) -> anyhow::Result<ExitCode> {
    let config = load(path)?;
    let mut out = io::stdout().lock();
    if args.format == CheckFormat::Table {
        write!(out, "# effective configuration\n{}", config.effective())?;
    }
    let mut findings = Findings::default();
    if args.online {
        room(&mut findings, &config);
        judge_security(&mut findings, &config.kafka.security, &config.kafka.brokers, Timestamp::now());
        kafka(&mut findings, &config, args)?;
    }
    match args.format {
        CheckFormat::Json => {
            let rows: Vec<_> = findings
                .iter()
                .map(|found| {
                    serde_json::json!({
                        "level": found.level.name(),
                        "subject": found.subject,
                        "text": found.text,
                        "remedy": found.remedy,
                    })
                })
                .collect();
            let answer = serde_json::json!({ "configuration": config.effective(), "findings": rows });
            serde_json::to_writer_pretty(&mut out, &answer)?;
            writeln!(out)?;
        }
        CheckFormat::Table if args.online => {
            writeln!(out)?;
            findings.print(&mut out)?;
        }
        CheckFormat::Table => {}
    }
    Ok(if findings.worst() == Level::Fail { ExitCode::from(exit::FAILURE) } else { ExitCode::SUCCESS })
}

fn room(findings: &mut Findings, config: &Config) {
    let dir = &config.archive.dir;
    let mut place = dir.as_path();
    let free = loop {
        match rustix::fs::statvfs(place) {
            Ok(facts) => break Ok(facts.f_bavail.saturating_mul(facts.f_frsize)),
            Err(rustix::io::Errno::NOENT) => match place.parent() {
                Some(parent) => place = parent,
                None => break Err(rustix::io::Errno::NOENT),
            },
            Err(errno) => break Err(errno),
        }
    };
    let shown = dir.display();
    match free {
        Ok(free) if free < FREE_BYTES_MIN => findings.warn(
            "archive",
            format!("{shown} has {} MiB free", free >> 20),
            format!("make room: df -h {shown}; du -xh --max-depth=1 {shown}"),
        ),
        Ok(free) => findings.ok("archive", format!("{shown} has {:.1} GiB free", free as f64 / f64::from(1 << 30))),
        Err(errno) => {
            findings.fail("archive", format!("{shown}: {errno}"), "make the folder, for the collector's user alone");
        }
    }
}

fn kafka(findings: &mut Findings, config: &Config, args: &Check) -> anyhow::Result<()> {
    let kafka = &config.kafka;
    let mut found = match look(kafka) {
        Ok(found) => found,
        Err(error) => {
            let words = format!("{error:#}");
            let (text, remedy) = words.rsplit_once(": ").unwrap_or((&words, ""));
            findings.fail("broker", text, remedy);
            return Ok(());
        }
    };
    findings.ok("broker", format!("Kafka answers: cluster {}, brokers {}", found.cluster, found.brokers));
    let runtime = runtime()?;
    if found.partitions.is_none() && !found.is_denied && args.create_topic {
        runtime.block_on(create(kafka, args.partitions, args.replication))?;
        findings.ok("topic", format!("{} made now", kafka.topic));
        found.partitions = usize::try_from(args.partitions).ok();
        found.copies = usize::try_from(args.replication).unwrap_or(1);
    }
    if found.is_denied {
        findings.fail("topic", format!("{} is kept from this client", kafka.topic), allow_command(kafka));
        return Ok(());
    }
    let Some(partitions) = found.partitions else {
        let remedy = format!("edr-collectd check --online --create-topic, or {}", command(kafka, args.replication));
        findings.fail("topic", format!("there is no topic {}", kafka.topic), remedy);
        return Ok(());
    };
    let text = format!("{}: {partitions} partitions, {} copies", kafka.topic, found.copies);
    if found.copies < 2 {
        findings.warn(
            "topic",
            format!("{text}: the loss of one disk loses acknowledged records"),
            "give each partition copies on other brokers: kafka-reassign-partitions.sh",
        );
    } else {
        findings.ok("topic", text);
    }
    if let Err(error) = runtime.block_on(judge_topic(kafka, findings)) {
        findings.warn("topic size", format!("{error:#}"), "allow DescribeConfigs on the topic: docs/operate.md");
    }
    // Brokers learn of a new topic one after another: a check right after the creation may fail for no reason.
    if args.create_topic {
        return Ok(());
    }
    match may_read(kafka, partitions) {
        Ok(()) => findings.ok("group", format!("{} may read", kafka.group)),
        Err((text, remedy)) => findings.fail("group", text, remedy),
    }
    Ok(())
}
