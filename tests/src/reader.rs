//! `tests/reader/read_frame.py`: frames read by a program that shares no code with this project.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cache::{cached, checkout};

/// The snapshot of a frame file, as JSON; `key` is the key frame that a delta needs.
///
/// # Errors
/// When the reader refuses it.
pub fn snapshot(frame: &Path, key: Option<&Path>) -> Result<Value> {
    let mut args = vec![frame];
    args.extend(key);
    run(&args)
}

/// What a frame file says beside its body.
///
/// # Errors
/// When the reader refuses it.
pub fn header(frame: &Path) -> Result<Value> {
    run(&[Path::new("--header"), frame])
}

fn run(args: &[&Path]) -> Result<Value> {
    let output = Command::new(cached("python")?.join("bin/python"))
        .env("PYTHONIOENCODING", "utf-8")
        .arg(checkout().join("tests/reader/read_frame.py"))
        .args(args)
        .output()
        .context("run the Python reader")?;
    ensure!(output.status.success(), "the Python reader: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("read the Python reader's JSON")
}
