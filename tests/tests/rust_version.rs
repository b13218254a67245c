//! Tests that the Rust version required by the workspace equals the version required by the locked crates.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use edr_tests::cache::checkout;
use serde_json::Value;

/// Parses `1.95` and `1.95.0` to numbers for comparison.
fn version(text: &str) -> (u64, u64) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap_or(0))
}

#[test]
fn rust_version_equals_the_locked_crates_requirement() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut command = Command::new(cargo);
    command.args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host]);
    let output = command.current_dir(checkout()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (mut ours, mut wanted) = (Vec::new(), (0, 0));
    for package in metadata["packages"].as_array().unwrap() {
        let Some(asked) = package["rust_version"].as_str().map(version) else { continue };
        if package["source"].is_null() {
            ours.push(asked);
        } else {
            wanted = wanted.max(asked);
        }
    }
    assert!(ours.len() >= 5, "a crate of the workspace asks for no version");
    assert!(
        ours.iter().all(|asked| *asked == wanted),
        "Cargo.toml asks for {ours:?}, the locked crates for {wanted:?}: set rust-version, and the version in README"
    );
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap();
    assert!(readme.contains(&format!("Rust {}.{} or later", wanted.0, wanted.1)), "README names another version");
}
