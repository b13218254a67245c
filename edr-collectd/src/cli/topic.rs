//! `check`: the configuration, and with `--online` Kafka and the topic.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use edr_daemon::exit;

use super::{Check, load};
use crate::consume::{command, create, look, misfits};
use crate::run::runtime;

/// See [`super::Command::Check`].
pub(super) fn check(path: &Path, args: &Check) -> anyhow::Result<ExitCode> {
    let config = load(path)?;
    let mut out = io::stdout().lock();
    write!(out, "# effective configuration\n{}", config.effective())?;
    if !args.online {
        return Ok(ExitCode::SUCCESS);
    }
    let kafka = &config.kafka;
    let mut found = look(kafka)?;
    writeln!(out, "\n# Kafka answers: cluster {}, brokers {}", found.cluster, found.brokers)?;
    let runtime = runtime()?;
    if found.partitions.is_none() && args.create_topic {
        runtime.block_on(create(kafka, args.partitions, args.replication))?;
        writeln!(out, "# topic {} made, with {} copies", kafka.topic, args.replication)?;
        found.partitions = usize::try_from(args.partitions).ok();
    }
    let Some(partitions) = found.partitions else {
        writeln!(
            out,
            "# there is no topic {}; make it with --create-topic, or:\n{}",
            kafka.topic,
            command(kafka, args.replication)
        )?;
        return Ok(ExitCode::from(exit::FAILURE));
    };
    writeln!(out, "# topic {}: {partitions} partitions", kafka.topic)?;
    let misfits = runtime.block_on(misfits(kafka))?;
    for misfit in &misfits {
        writeln!(out, "# topic {}: {misfit}", kafka.topic)?;
    }
    Ok(if misfits.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILURE) })
}
