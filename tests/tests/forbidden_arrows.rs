//! Searches the source for the forbidden arrows of ARCHITECTURE.md.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below a folder (or the single file with `.rs` appended), with its code. Left out are comments, the
/// tests at the end of a file, and files named `tests.rs`.
fn sources(place: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(place), root().join(format!("{place}.rs"))];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
            && path.exists()
        {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            found.push((path, code));
        }
    }
    assert!(!found.is_empty(), "no source at {place}: the map has moved");
    found
}

fn assert_absent(place: &str, forbidden: &[&str]) {
    for (path, code) in sources(place) {
        for word in forbidden {
            assert!(!code.contains(word), "{} mentions {word}: a forbidden arrow", path.display());
        }
    }
}

fn dependencies(package: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap().to_owned();
    section.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(name).collect()
}

#[test]
fn agent_and_collector_do_not_know_each_other() {
    assert!(!dependencies("edr-agentd").contains(&"edr-collectd".to_owned()));
    assert!(!dependencies("edr-collectd").contains(&"edr-agentd".to_owned()));
}

#[test]
fn the_wire_knows_only_bytes() {
    let allowed = ["blake3", "rmp", "rmp-serde", "serde", "thiserror", "zstd"];
    for dependency in dependencies("edr-wire") {
        assert!(allowed.contains(&dependency.as_str()), "edr-wire must not depend on {dependency}");
    }
    assert_absent("edr-wire/src", &["std::fs", "TcpStream", "UdpSocket", "std::time", "std::process", "std::thread"]);
}

#[test]
fn the_catalogue_knows_only_snapshots() {
    let allowed = ["edr-wire", "jiff", "rmp-serde", "serde", "serde_json", "strsim", "thiserror"];
    for dependency in dependencies("edr-collectd/model") {
        assert!(allowed.contains(&dependency.as_str()), "edr-model must not depend on {dependency}");
    }
    let words = ["std::fs", "TcpStream", "UdpSocket", "std::time", "Timestamp::now", "std::process", "std::thread"];
    assert_absent("edr-collectd/model/src", &words);
}

#[test]
fn the_archive_knows_neither_broker_nor_page() {
    // async-trait and bytes are of the trait of object stores.
    let allowed = [
        "async-trait",
        "bytes",
        "deltalake",
        "edr-model",
        "edr-wire",
        "futures",
        "jiff",
        "log",
        "serde",
        "serde_json",
        "thiserror",
        "tokio",
    ];
    for dependency in dependencies("edr-collectd/archive") {
        assert!(allowed.contains(&dependency.as_str()), "edr-archive must not depend on {dependency}");
    }
}

#[test]
fn the_collector_knows_delta_tables_only_by_the_archive() {
    assert!(!dependencies("edr-collectd").contains(&"deltalake".to_owned()));
}

#[test]
fn sources_know_neither_spool_nor_broker() {
    let found = dependencies("edr-agentd/sources");
    assert!(found.contains(&"edr-wire".to_owned()));
    for dependency in found {
        let forbidden = ["edr-agentd", "edr-daemon", "rdkafka", "tokio"];
        assert!(!forbidden.contains(&dependency.as_str()), "edr-sources must not depend on {dependency}");
    }
}

#[test]
fn shipping_knows_only_the_spool() {
    assert_absent("edr-agentd/src/ship", &["edr_sources", "crate::sample"]);
    assert_absent("edr-agentd/src/spool", &["edr_sources", "crate::ship", "rdkafka"]);
}

#[test]
fn the_ledger_of_the_spool_only_decides() {
    assert_absent("edr-agentd/src/spool/ledger", &["std::fs", "Instant::now", "SystemTime", "Mutex", "super::disk"]);
}

#[test]
fn the_page_knows_only_queries() {
    let allowed = [
        "askama",
        "axum",
        "edr-model",
        "edr-wire",
        "form_urlencoded",
        "futures",
        "hyper",
        "hyper-util",
        "jiff",
        "log",
        "rustix",
        "tokio",
    ];
    for dependency in dependencies("edr-collectd/web") {
        assert!(allowed.contains(&dependency.as_str()), "edr-web must not depend on {dependency}");
    }
    assert_absent("edr-collectd/web/src", &["std::fs", "tokio::fs"]);
}

#[test]
fn no_daemon_code_starts_a_program() {
    let forbidden = ["process::Command", "Command::new", "fork()", "execv", "posix_spawn"];
    assert_absent("edr-agentd/src", &forbidden);
    assert_absent("edr-agentd/sources/src", &forbidden);
    assert_absent("edr-collectd/src", &forbidden);
    assert_absent("edr-collectd/archive/src", &forbidden);
    assert_absent("edr-collectd/web/src", &forbidden);
}
