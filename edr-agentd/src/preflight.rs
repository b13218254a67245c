//! `check --online`: checks before a start. Are snapshots complete, is there room for an outage, is Kafka reachable?

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edr_daemon::config::{show_bytes, show_duration};
use edr_daemon::preflight::Findings;
use edr_sources::host::clock_state;
use edr_sources::{Sources, Tick};
use edr_wire::frame::{EncodedFrame, FrameHeader, FrameKind};
use edr_wire::snapshot::{Agent, Psad, PsadMode, PsadRunState, SnapshotView};
use edr_wire::{Epoch, HostId};

use crate::config::Config;
use crate::run::Overrides;
use crate::sample::{budget, source_settings};
use crate::ship::examine;
use crate::spool::{Listing, verify};

/// Time between the two measured readings; at most the interval.
const APART: Duration = Duration::from_secs(2);
/// Number of frames in the spool that give a better rate than two readings.
const FRAMES_MIN: usize = 10;
/// Length of an outage over a night or a Sunday.
const OUTAGE: Duration = Duration::from_secs(24 * 3600);
/// Clock error beyond which times of different hosts are hard to compare.
const CLOCK_ERROR_US_MAX: i64 = 1_000_000;

/// Looks at everything.
pub fn preflight(config: &Config, overrides: &Overrides) -> Findings {
    let mut findings = Findings::default();
    match measure(config, overrides) {
        Ok(measured) => {
            rights(&mut findings, &measured, overrides.proc_root());
            psad(&mut findings, &measured.psad, config);
            spool(&mut findings, &measured, config);
        }
        Err(error) => findings.fail("snapshot", error.to_string(), "run the command as root, or as the service's user"),
    }
    clock(&mut findings);
    examine(&config.kafka, &mut findings);
    findings
}

/// Results of two readings.
struct TrialReading {
    degraded: Vec<String>,
    processes: usize,
    psad: Psad,
    key_bytes: u64,
    delta_bytes: u64,
}

fn measure(config: &Config, overrides: &Overrides) -> anyhow::Result<TrialReading> {
    let mut sources = Sources::open(source_settings(config, overrides.proc_root(), &Arc::default())?, &[])?;
    let mut tick = Tick::new(budget(config));
    let mut read = || {
        sources.read(&mut tick);
        (tick.encode(&Agent::default()), tick.degraded.clone())
    };
    let (first, degraded) = read();
    std::thread::sleep(APART.min(config.interval));
    let (second, _) = read();
    let bytes = |raw: &[u8], key: Option<&[u8]>| {
        let header = FrameHeader {
            host_id: HostId([0; 16]),
            epoch: Epoch([0; 8]),
            seq: if key.is_some() { 2 } else { 1 },
            kind: if key.is_some() { FrameKind::Delta } else { FrameKind::Key },
            base_seq: 1,
            boot_id: String::new(),
            previous_epoch: None,
            captured_ns: 0,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let frame = EncodedFrame::encode(&header, raw, key, config.kafka.part_bytes_max)?;
        Ok::<_, edr_wire::frame::FrameError>(frame.byte_len() as u64)
    };
    let (key_bytes, delta_bytes) = (bytes(&first, None)?, bytes(&second, Some(&first))?);
    let view = SnapshotView::parse(first)?;
    Ok(TrialReading { degraded, processes: view.processes().count(), psad: view.psad()?, key_bytes, delta_bytes })
}

fn rights(findings: &mut Findings, measured: &TrialReading, proc_root: &Path) {
    for reason in &measured.degraded {
        let reason = reason.strip_prefix("degraded: ").unwrap_or(reason);
        let (what, remedy) = reason.split_once("; ").unwrap_or((reason, ""));
        // A unit cannot give access outside of a container's namespaces.
        let given =
            if reason.contains("CAP_") { "; the unit has these capabilities: systemctl start edr-agentd" } else { "" };
        findings.warn("rights", what, format!("{remedy}{given}"));
    }
    if measured.degraded.is_empty() {
        findings.ok("rights", format!("all of {} processes can be read, as this user", measured.processes));
    }
    match std::fs::read_to_string(proc_root.join("self/schedstat")) {
        Ok(text) if text.split_ascii_whitespace().take(2).any(|number| number != "0") => {
            findings.ok("schedstat", "the kernel counts run time: processes that did not run are passed over");
        }
        Ok(_) => findings.warn(
            "schedstat",
            "the kernel does not count run time: every process is read at every tick",
            "use a kernel with CONFIG_SCHED_INFO",
        ),
        Err(error) => findings.warn(
            "schedstat",
            format!("{error}: every process is read at every tick"),
            "use a kernel with CONFIG_SCHED_INFO",
        ),
    }
}

fn psad(findings: &mut Findings, psad: &Psad, config: &Config) {
    let mode = format!("{:?}", psad.mode).to_lowercase();
    let place = config.psad_dir.as_deref().unwrap_or(Path::new("/var/log/psad")).display();
    match (psad.state, psad.mode) {
        (PsadRunState::Running, _) => {
            let pid = psad.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            findings
                .ok("psad", format!("runs{pid}, takes packets by {mode}; {} sources in {place}", psad.sources.len()));
        }
        (PsadRunState::Absent, PsadMode::Absent) => {
            findings.ok("psad", "is not on this host: snapshots have no psad part");
        }
        (state, _) => findings.warn(
            "psad",
            format!("is {}, by {mode}; the files in {place} are reported", format!("{state:?}").to_lowercase()),
            "systemctl status psad; systemctl start psad",
        ),
    }
}

fn spool(findings: &mut Findings, measured: &TrialReading, config: &Config) {
    let frames = verify(&config.state_dir).map(|(frames, _)| frames).unwrap_or_default();
    let (rate, how) = rate(&frames, measured, config);
    let lasts = Duration::from_secs((config.spool.bytes_max as f64 / rate.max(1.0)).min(1e9) as u64);
    let text = format!(
        "spool.bytes-max of {} holds {} of outage: {} a day, {how}",
        show_bytes(config.spool.bytes_max),
        in_hours(lasts),
        show_mib(rate * 86_400.0)
    );
    if lasts < OUTAGE {
        let wanted = ((rate * OUTAGE.as_secs_f64()) as u64 >> 20) + 1;
        findings.warn("spool", text, format!("spool.bytes-max = \"{wanted}MiB\" for a day, or a longer interval"));
    } else {
        findings.ok("spool", text);
    }
    let needed = config.spool.bytes_max + config.spool.free_bytes_min;
    match free_bytes(&config.state_dir) {
        Ok(free) if free < config.spool.free_bytes_min => findings.fail(
            "disk",
            format!(
                "{} has {} free: the spool leaves {} free",
                config.state_dir.display(),
                show_mib(free as f64),
                show_bytes(config.spool.free_bytes_min)
            ),
            format!("make room: df -h {0}; du -xh --max-depth=2 {0}", config.state_dir.display()),
        ),
        Ok(free) if free < needed => findings.warn(
            "disk",
            format!("{} has {} free: less than the spool may take", config.state_dir.display(), show_mib(free as f64)),
            "make room, or lower spool.bytes-max",
        ),
        Ok(free) => findings.ok("disk", format!("{} has {} free", config.state_dir.display(), show_mib(free as f64))),
        Err(error) => findings.fail(
            "disk",
            format!("{}: {error}", config.state_dir.display()),
            "make the folder, for the agent's user alone",
        ),
    }
}

/// Bytes per second, and the source of the figure.
fn rate(frames: &[Listing], measured: &TrialReading, config: &Config) -> (f64, String) {
    let of = |kind: FrameKind| {
        let bytes: Vec<u64> = frames
            .iter()
            .filter(|frame| frame.header.as_ref().is_ok_and(|header| header.kind == kind))
            .map(|frame| frame.bytes)
            .collect();
        (bytes.iter().sum::<u64>() as f64 / bytes.len().max(1) as f64, bytes.len())
    };
    let ((key, keys), (delta, deltas)) = (of(FrameKind::Key), of(FrameKind::Delta));
    if deltas >= FRAMES_MIN && keys > 0 {
        let rate = key / config.key_interval.as_secs_f64() + delta / config.interval.as_secs_f64();
        return (rate, format!("measured on {} frames in the spool", keys + deltas));
    }
    let rate = measured.key_bytes as f64 / config.key_interval.as_secs_f64()
        + measured.delta_bytes as f64 / config.interval.as_secs_f64();
    let how = format!(
        "measured on two readings {} apart (key {} B, delta {} B); the rate grows with the activity on this host",
        show_duration(APART.min(config.interval)),
        measured.key_bytes,
        measured.delta_bytes
    );
    (rate, how)
}

fn in_hours(time: Duration) -> String {
    match time.as_secs() / 3600 {
        hours if hours >= 72 => format!("{} days", hours / 24),
        hours => format!("{hours} hours"),
    }
}

fn show_mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// Free bytes of the file system with this folder, or with the folder's nearest existing parent.
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let mut place = dir;
    loop {
        match rustix::fs::statvfs(place) {
            Ok(facts) => return Ok(facts.f_bavail.saturating_mul(facts.f_frsize)),
            Err(rustix::io::Errno::NOENT) => place = place.parent().ok_or(io::ErrorKind::NotFound)?,
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn clock(findings: &mut Findings) {
    let remedy = "timedatectl set-ntp true, or install chrony";
    // Kafka's protocol has no time, so the kernel's own estimate is used instead of a comparison.
    match clock_state() {
        None => findings.warn("clock", "the kernel does not report the state of the clock", remedy),
        Some(state) if !state.synchronised => {
            findings.warn("clock", "not synchronised (adjtimex)", remedy);
        }
        Some(state) => {
            let text =
                format!("synchronised; off by {} ms at most, by the kernel's account", state.error_us_max / 1_000);
            if state.error_us_max > CLOCK_ERROR_US_MAX {
                findings.warn("clock", text, remedy);
            } else {
                findings.ok("clock", text);
            }
        }
    }
}
