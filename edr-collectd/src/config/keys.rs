//! The keys of `collector.toml`. Parser, errors, `check`, `packaging/config/collector.toml` and
//! `packaging/man/collector.toml.5` derive from these declarations.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use edr_daemon::config::kinds::{Brokers, FixedPath, Interval, KafkaName, LogLevel, Size};
use edr_daemon::config::{Declared, Document, Key, KindWithDefault, Refusal, ShownValue, Value, ValueKind, quoted};
use edr_daemon::kafka;
use log::LevelFilter;

pub(super) static LOG_LEVEL: Key<LogLevel> = Key {
    name: "log-level",
    doc: "Least important level that is logged: error, warn, info, debug, trace.",
    kind: LogLevel { default: LevelFilter::Info },
};
pub(super) static STATE_DIR: Key<FixedPath> = Key {
    name: "state-dir",
    doc: "Folder for all files of the collector.",
    kind: FixedPath { default: super::STATE_DIR },
};
pub(super) static BROKERS: Key<Brokers> = Key {
    name: "kafka.brokers",
    doc: "Brokers to ask first, \"host:port\"; one that answers is enough. There is no default: the collector does not \
          start without this key.",
    kind: Brokers,
};
pub(super) static TOPIC: Key<KafkaName> = Key {
    name: "kafka.topic",
    doc: "Topic of the snapshots.",
    kind: KafkaName { default: "edr.snapshots", of: "a topic" },
};
pub(super) static GROUP: Key<KafkaName> = Key {
    name: "kafka.group",
    doc: "Consumer group: collectors with the same group share the partitions.",
    kind: KafkaName { default: "edr-collectd", of: "a consumer group" },
};
pub(super) static ARCHIVE_DIR: Key<FixedPath> = Key {
    name: "archive.dir",
    doc: "Folder of the Delta tables. With another state-dir than the default, the default is its subfolder archive.",
    kind: FixedPath { default: "/var/lib/edr-collectd/archive" },
};
pub(super) static COMMIT_INTERVAL: Key<Interval> = Key {
    name: "archive.commit-interval",
    doc: "Time between two commits, and the longest wait of a received record for its commit. The page shows a \
    snapshot \
          after its commit. A commit is one file: a shorter time makes smaller files.",
    kind: Interval { default: Duration::from_secs(5), min: Duration::from_millis(100), max: Duration::from_secs(300) },
};
// One record may have 4 MiB. Three batches of 1 GiB are in memory while a disk is slow.
pub(super) static BATCH_BYTES_MAX: Key<Size> = Key {
    name: "archive.batch-bytes-max",
    doc: "Bytes of records after which a commit does not wait for the interval. A slow disk needs three times as much \
          memory.",
    kind: Size { default: 32 << 20, min: 4 << 20, max: 1 << 30 },
};
pub(super) static LISTEN: Key<Loopback> = Key {
    name: "web.listen",
    doc: "Address of the page. It must be an address of the loopback interface: the page has neither users nor TLS. \
    From \
          elsewhere: ssh -L 8480:127.0.0.1:8480 HOST",
    kind: Loopback { default_port: 8480 },
};

/// All keys, in the order of the documents.
pub(super) fn keys() -> Vec<&'static dyn Declared> {
    let first: &[&'static dyn Declared] = &[&LOG_LEVEL, &STATE_DIR, &BROKERS, &TOPIC, &GROUP];
    let last: &[&'static dyn Declared] = &[&ARCHIVE_DIR, &COMMIT_INTERVAL, &BATCH_BYTES_MAX, &LISTEN];
    [first, kafka::KEYS, last].concat()
}

/// Returns the example file and the manual page.
pub fn document() -> Document {
    Document {
        daemon: "edr-collectd",
        head: &[
            "edr-collectd: where snapshots come from, where they are kept, and where the page is.",
            "`#key = value` is the default: remove the # to change it. Files conf.d/*.toml beside this one are read \
             after it, in the order of their names; the last value of a key counts. An unknown key is refused, so that \
             a \
             mistyped key is not a setting without effect. `edr-collectd check` lists all errors at once, and prints \
             the \
             settings in effect; `edr-collectd check --online` asks the broker, too.",
            "Times: \"500ms\", \"10s\", \"5m\", \"1h\", \"1d\". Sizes: \"64KiB\", \"512MiB\", \"1GiB\".",
        ],
        keys: keys(),
    }
}

/// An address and port of the loopback interface.
pub(super) struct Loopback {
    default_port: u16,
}

impl ValueKind for Loopback {
    type Value = SocketAddr;

    fn check(&self, raw: &Value) -> Result<SocketAddr, Refusal> {
        let address: Option<SocketAddr> = if let Value::Text(text) = raw { text.parse().ok() } else { None };
        let default = self.write(&self.default());
        match address {
            Some(address) if address.ip().is_loopback() => Ok(address),
            Some(_) => Err(Refusal {
                rule: "must be an address of the loopback interface: the page has neither users nor TLS".to_owned(),
                remedy: format!("write {default}, and reach it through a tunnel or a proxy that knows its users"),
            }),
            None => Err(Refusal {
                rule: "must be an address and a port".to_owned(),
                remedy: format!("write {default} for the default"),
            }),
        }
    }

    fn write(&self, value: &SocketAddr) -> String {
        quoted(&value.to_string())
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default()))
    }
}

impl KindWithDefault for Loopback {
    fn default(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.default_port))
    }
}
