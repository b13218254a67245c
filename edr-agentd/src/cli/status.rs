//! `status`: prints the status of the running agent.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::TextFormat;
use crate::config::Config;
use crate::status::ask;

/// Prints the status. An invalid configuration does not prevent the answer: the agent may still run with an earlier
/// configuration.
pub(super) fn status(path: &Path, format: TextFormat) -> anyhow::Result<ExitCode> {
    let socket = Config::load_without_kafka(path).unwrap_or_default().status_socket();
    let status = ask(&socket).map_err(anyhow::Error::msg)?;
    let mut out = io::stdout().lock();
    match format {
        TextFormat::Json => {
            serde_json::to_writer_pretty(&mut out, &status)?;
            writeln!(out)?;
        }
        TextFormat::Table => {
            for (name, value) in status.lines() {
                // Texts from brokers are among the values, so control characters are made visible.
                writeln!(out, "{name:<14} {}", edr_wire::visible(value.as_bytes()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
