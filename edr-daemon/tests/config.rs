//! The operator's view of an invalid configuration: tests of the report.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use edr_daemon::config::{Keys, Report};

const KNOWN: &[&str] = &["interval", "state-dir", "labels", "kafka.brokers", "kafka.topic", "spool.bytes-max"];

#[derive(Debug)]
struct Config {
    interval: Duration,
    topic: Option<String>,
    brokers: Vec<String>,
    labels: Vec<String>,
}

fn load(files: &[(&str, &str)]) -> Result<Config, Report> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    read(&dir.path().join("daemon.toml"))
}

fn read(path: &Path) -> Result<Config, Report> {
    let mut keys = Keys::load(path, KNOWN);
    let second = Duration::from_secs(1);
    let config = Config {
        interval: keys.duration("interval", 10 * second, second..=3600 * second),
        topic: keys.topic("kafka.topic"),
        brokers: keys.brokers("kafka.brokers"),
        labels: keys.labels().into_keys().collect(),
    };
    keys.path("state-dir");
    keys.bytes("spool.bytes-max", 1 << 30, 64 << 20..=1 << 40);
    keys.finish().map(|()| config)
}

#[test]
fn every_problem_is_in_one_report_with_its_place() {
    let report = load(&[
        (
            "daemon.toml",
            "intervall = \"10s\"\ninterval = 10\nstate-dir = \"var\"\n[kafka]\nbrokers = [\"localhost\"]\n\
             topic = \"a b\"\n[nonsense]\nx = 1\n[labels]\nsite = 3\n",
        ),
        ("conf.d/10-site.toml", "\n[spool]\nbytes-max = \"1MiB\"\n"),
        ("conf.d/20-cut.toml", "a = \"b\nc = 1\n"),
    ])
    .unwrap_err();
    let text = report.to_string();
    for wanted in [
        "daemon.toml:1: intervall = \"10s\": is no key of this file; did you mean interval?",
        "daemon.toml:2: interval = 10: must be a time between 1s and 1h, with its unit: ms, s, m, h or d; write \"10s\" for the default",
        "daemon.toml:3: state-dir = \"var\": must be an absolute path",
        "daemon.toml:5: kafka.brokers = [\"localhost\"]: must be a list of one or more \"host:port\"",
        "daemon.toml:6: kafka.topic = \"a b\": must be the name of a topic",
        "daemon.toml:8: nonsense.x = 1: is no key of this file; remove it",
        "daemon.toml:10: labels.site = 3: must be text of at most 256 bytes",
        "10-site.toml:3: spool.bytes-max = \"1MiB\": must be a size between 64MiB and 1TiB",
        "20-cut.toml:1: ",
    ] {
        assert!(text.contains(wanted), "{wanted}\nis not in\n{text}");
    }
    assert!(text.starts_with("configuration: 9 problems"), "{text}");
}

#[test]
fn a_later_file_wins_key_by_key() {
    let config = load(&[
        (
            "daemon.toml",
            "interval = \"20s\"\n[kafka]\nbrokers = [\"a:1\"]\ntopic = \"first\"\n[labels]\nsite = \"x\"\n",
        ),
        ("conf.d/20.toml", "interval = \"5s\"\n"),
        ("conf.d/10.toml", "interval = \"7s\"\nkafka.topic = \"second\"\nlabels.rack = \"r\"\n"),
        ("conf.d/30.conf", "not read"),
    ])
    .unwrap();
    assert_eq!(config.interval, Duration::from_secs(5));
    assert_eq!(config.topic.as_deref(), Some("second"));
    assert_eq!(config.brokers, ["a:1"]);
    assert_eq!(config.labels, ["rack", "site"]);
}

#[test]
fn what_is_not_there_is_named() {
    let missing = read(Path::new("/nonexistent/daemon.toml")).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/daemon.toml: cannot be read: No such file or directory"), "{missing}");
    assert!(missing.contains("kafka.brokers: is not set"), "{missing}");
    let table = load(&[("daemon.toml", "kafka = 3\n")]).unwrap_err().to_string();
    assert!(table.contains("daemon.toml:1: kafka = 3: is a table; write [kafka] and its keys under it"), "{table}");
}
