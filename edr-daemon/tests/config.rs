//! The operator's view of an invalid configuration: tests of the report.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use edr_daemon::config::kinds::{Brokers, Interval, KafkaName, Labels, OptionalPath, Size};
use edr_daemon::config::{Declared, Document, Effective, Key, Keys, Report};

const SECOND: Duration = Duration::from_secs(1);

static INTERVAL: Key<Interval> =
    Key { name: "interval", doc: "Time between two looks.", kind: Interval { default: TEN, min: SECOND, max: HOUR } };
const TEN: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
static STATE_DIR: Key<OptionalPath> =
    Key { name: "state-dir", doc: "Folder of {daemon}.", kind: OptionalPath { example: "/var/lib/{daemon}" } };
static LABELS: Key<Labels> = Key { name: "labels", doc: "Facts that only the owner knows.", kind: Labels };
static BROKERS: Key<Brokers> =
    Key { name: "kafka.brokers", doc: "Brokers to ask first: \"host:port\".", kind: Brokers };
static TOPIC: Key<KafkaName> =
    Key { name: "kafka.topic", doc: "Topic.", kind: KafkaName { default: "edr.snapshots", of: "a topic" } };
static BYTES_MAX: Key<Size> = Key {
    name: "spool.bytes-max",
    doc: "Size of the spool.",
    kind: Size { default: 1 << 30, min: 64 << 20, max: 1 << 40 },
};
const KEYS: &[&'static dyn Declared] = &[&INTERVAL, &STATE_DIR, &BROKERS, &TOPIC, &BYTES_MAX, &LABELS];

#[derive(Debug)]
struct TestConfig {
    interval: Duration,
    topic: Option<String>,
    brokers: Vec<String>,
    labels: Vec<String>,
}

fn load(files: &[(&str, &str)]) -> Result<TestConfig, Report> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    read(&dir.path().join("daemon.toml"))
}

fn read(path: &Path) -> Result<TestConfig, Report> {
    let mut keys = Keys::load(path, KEYS);
    let config = TestConfig {
        interval: keys.get(&INTERVAL),
        topic: keys.find(&TOPIC),
        brokers: keys.brokers(&BROKERS),
        labels: keys.labels(&LABELS).into_keys().collect(),
    };
    keys.find(&STATE_DIR);
    keys.get(&BYTES_MAX);
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
        "daemon.toml:2: interval = 10: must be a time between 1s and 1h, with its unit: ms, s, m, h or d; \
        write \"10s\" for the default",
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

#[test]
fn documents_show_every_key_with_default_range_and_description() {
    let document =
        Document { daemon: "edr-x", head: &["edr-x: what it does.", "Two\nparagraphs."], keys: KEYS.to_vec() };
    assert_eq!(
        document.example_file(),
        "# edr-x: what it does.\n#\n# Two paragraphs.\n\n\
         # Time between two looks. From 1s to 1h.\n#interval = \"10s\"\n\n\
         # Folder of edr-x.\n# state-dir = \"/var/lib/edr-x\"\n\n\
         [kafka]\n# Brokers to ask first: \"host:port\".\n# brokers = [\"HOST:PORT\"]\n\n\
         # Topic.\n#topic = \"edr.snapshots\"\n\n\
         [spool]\n# Size of the spool. From 64MiB to 1TiB.\n#bytes-max = \"1GiB\"\n\n\
         [labels]\n# Facts that only the owner knows.\n# site = \"vienna\"\n# role = \"mail\"\n"
    );
    let manual = document.manual();
    for wanted in [
        ".Ss Before any table\n.Bl -tag -width Ds\n.It Cm interval No = \\(dq10s\\(dq\nTime between two looks.\n\
         From 1s to 1h.\n",
        ".It Cm state\\-dir No = \\(dq/var/lib/edr\\-x\\(dq Pq an example; no default\n",
        ".El\n.Ss Table [kafka]\n.Bl -tag -width Ds\n",
    ] {
        assert!(manual.contains(wanted), "{wanted}\nis not in\n{manual}");
    }
    assert!(manual.ends_with(".El\n") && !manual.contains("{daemon}"), "{manual}");
}

#[test]
fn the_effective_configuration_is_read_back_to_the_same_values() {
    let mut effective = Effective::default();
    effective.add(&INTERVAL, &(7 * SECOND));
    effective.add(&BROKERS, &vec!["[::1]:9092".to_owned()]);
    effective.add_some(&TOPIC, Some(&"a.b".to_owned()));
    effective.add_some(&STATE_DIR, None);
    effective.add_label(&LABELS, "a.b", &"\"x\"".to_owned());
    let config = load(&[("daemon.toml", &effective.into_text())]).unwrap();
    assert_eq!((config.interval, config.topic.as_deref()), (7 * SECOND, Some("a.b")));
    assert_eq!((config.brokers, config.labels), (vec!["[::1]:9092".to_owned()], vec!["a.b".to_owned()]));
}
