//! Commands that print a result and end.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use edr_daemon::exit;
use edr_sources::{Sources, Tick};
use edr_wire::snapshot::{Agent, SCHEMA, Snapshot, SnapshotView};

use super::{SnapshotFormat, table};
use crate::clock::nanos;
use crate::config::{Config, DEFAULT_PATH};
use crate::run::Overrides;
use crate::sample::{budget, source_settings};
use crate::spool::verify;

/// `snapshot`: works without a configuration file, so that an administrator can see the agent's data before the setup.
pub(super) fn snapshot(format: SnapshotFormat, path: &Path, overrides: &Overrides) -> anyhow::Result<ExitCode> {
    let config = config_or_default(path, overrides)?;
    let settings = source_settings(&config, overrides.proc_root(), &Arc::default())?;
    let mut tick = Tick::new(budget(&config));
    Sources::open(settings, &[])?.read(&mut tick);
    let agent = Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        interval_ns: nanos(config.interval),
        config_hash: config.hash(),
        cost: tick.cost.clone(),
        degraded: tick.degraded.clone(),
        ..Agent::default()
    };
    let raw = tick.encode(&agent);
    let mut out = io::BufWriter::new(io::stdout().lock());
    match format {
        SnapshotFormat::Msgpack => out.write_all(&raw)?,
        SnapshotFormat::Table => table::snapshot(&SnapshotView::parse(raw)?, &mut out)?,
        SnapshotFormat::Json => {
            serde_json::to_writer(&mut out, &whole(&SnapshotView::parse(raw)?)?)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Loads the configuration. The defaults are used when the file at the default path is missing.
pub(super) fn config_or_default(path: &Path, overrides: &Overrides) -> anyhow::Result<Config> {
    let unconfigured = path == Path::new(DEFAULT_PATH) && !path.exists();
    Ok(overrides.over(if unconfigured { Config::default() } else { Config::load_without_kafka(path)? }))
}

fn whole(view: &SnapshotView) -> anyhow::Result<Snapshot> {
    Ok(Snapshot {
        schema: SCHEMA,
        host: view.host()?,
        agent: view.agent()?,
        time: view.time()?,
        positions: view.positions()?,
        processes: view.processes().collect::<Result<_, _>>()?,
        sockets: view.sockets().collect::<Result<_, _>>()?,
        psad: view.psad()?,
        packets: view.packets()?,
        reread: view.reread()?,
        gaps: view.gaps()?,
    })
}

/// `spool list`.
pub(super) fn spool_list(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load_without_kafka(path)?;
    let (frames, _) = verify(&config.state_dir)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{:<16} {:>12} {:>6} {:>10}  {:<30} SAYS", "EPOCH", "SEQ", "KIND", "BYTES", "CAPTURED")?;
    for frame in &frames {
        let (epoch, seq, bytes) = (frame.id.epoch, frame.id.seq, frame.bytes);
        match &frame.header {
            Ok(header) => {
                let kind = format!("{:?}", header.kind).to_lowercase();
                let captured = table::time(header.captured_ns);
                let mut says = Vec::new();
                if header.bye {
                    says.push("bye".to_owned());
                }
                says.extend(
                    header
                        .lost
                        .iter()
                        .map(|l| format!("lost {}/{}-{} ({})", l.epoch, l.first_seq, l.last_seq, l.reason)),
                );
                says.extend(header.missed.iter().map(|m| format!("missed {} ticks ({})", m.ticks, m.reason)));
                let says = edr_wire::visible(says.join(", ").as_bytes());
                writeln!(out, "{epoch} {seq:>12} {kind:>6} {bytes:>10}  {captured:<30} {says}")?;
            }
            Err(fault) => writeln!(out, "{epoch} {seq:>12} {:>6} {bytes:>10}  {fault}", "?")?,
        }
    }
    writeln!(out, "{} frames, {} bytes", frames.len(), frames.iter().map(|frame| frame.bytes).sum::<u64>())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// `spool verify`.
pub(super) fn spool_verify(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load_without_kafka(path)?;
    let (frames, findings) = verify(&config.state_dir)?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{}: {}", finding.path.display(), finding.fault)?;
    }
    writeln!(out, "{} frames, {} faults", frames.len(), findings.len())?;
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILURE) })
}
