//! `status`: asks the running agent.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::TextFormat;
use crate::config::Config;
use crate::status::ask;

/// A configuration that is wrong is no reason not to answer: the agent may run with the one before.
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
                // What a broker said is among them.
                writeln!(out, "{name:<14} {}", edr_wire::visible(value.as_bytes()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
