//! `tests/reader/read_frame.py`: a reader of frames that shares no code with this project.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cache::{cached, checkout};

/// Returns the snapshot of a frame file as JSON. `key` is the key frame needed by a delta.
///
/// # Errors
/// When the reader refuses the frame.
pub fn snapshot(frame: &Path, key: Option<&Path>) -> Result<Value> {
    let mut args = vec![frame];
    args.extend(key);
    run(&args)
}

/// Returns the header of a frame file.
///
/// # Errors
/// When the reader refuses the frame.
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
