//! The settings of the sources, from the configuration.

use std::io;
use std::path::Path;
use std::sync::Arc;

use edr_sources::common::heartbeat::Heartbeat;
use edr_sources::process::{HashSettings, ProcessSettings};
use edr_sources::psad::PsadSettings;
use edr_sources::redact::Redactor;
use edr_sources::{Budget, SourceSettings};

use crate::config::Config;

/// Returns the settings of the sources. A reading beats on `heartbeat` at each progress.
///
/// # Errors
/// When secrets must be redacted and there is no key.
pub fn source_settings(config: &Config, proc_root: &Path, heartbeat: &Arc<Heartbeat>) -> io::Result<SourceSettings> {
    let processes = &config.processes;
    let hash = HashSettings { file_bytes_max: processes.hash_bytes_max, ..HashSettings::default() };
    Ok(SourceSettings {
        proc_root: proc_root.to_owned(),
        labels: config.labels.clone(),
        processes: ProcessSettings {
            files_per_process_max: processes.files_max,
            interval: config.interval,
            mapped: processes.mapped,
            hash: processes.hash.then_some(hash),
            redactor: config.redact.secrets.then(|| redactor(config)).transpose()?.map(Arc::new),
            ..ProcessSettings::default()
        },
        psad: PsadSettings {
            psad_dir: config.psad_dir.clone(),
            packet_log: config.packet_log.clone(),
            sources_max: config.sources_max,
            packets_max: config.packets_max,
            ..PsadSettings::default()
        },
        heartbeat: Arc::clone(heartbeat),
    })
}

/// Returns the limits of one tick.
pub fn budget(config: &Config) -> Budget {
    Budget { reread_interval: config.processes.reread_interval, ..Budget::default() }
}

/// Returns the redactor of a configuration. Without a key this function fails and nothing is read, because a sent
/// secret cannot be recalled.
///
/// # Errors
/// When there is no key, or a rule of the configuration is none.
pub fn redactor(config: &Config) -> io::Result<Redactor> {
    let key = config.redact.key().map_err(|fault| io::Error::other(format!("redact.key-file: {}", fault.rule)))?;
    let redactor = key.map(|key| Redactor::new(&key)).or_else(Redactor::with_random_key);
    let redactor = redactor.ok_or_else(|| io::Error::other("no random numbers for a redaction key"))?;
    redactor.with_rules(&config.redact.rules).map_err(|fault| io::Error::other(format!("redact.rules: {fault}")))
}
