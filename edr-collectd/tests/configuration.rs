//! The example file and the manual page show the declared keys.
//!
//! `EDR_GOLDEN=write cargo test -p edr-collectd --test configuration` writes both.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use edr_collectd::config::document;
use edr_tests::golden::{check, check_part};

fn packaging(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

#[test]
fn the_example_file_shows_the_declared_keys() {
    check(&packaging("config/collector.toml"), &document().example_file()).unwrap();
}

#[test]
fn the_manual_page_shows_the_declared_keys() {
    let (begin, end) = (".\\\" KEYS: generated from the program", ".\\\" END OF KEYS");
    check_part(&packaging("man/collector.toml.5"), begin, end, &document().manual()).unwrap();
}
