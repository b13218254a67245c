//! The collector's configuration: `/etc/edr-collectd/collector.toml` and `conf.d/*.toml` beside that file.
//!
//! `edr_daemon::config` reads the files and takes the values; this module defines the keys, their defaults and their
//! limits.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edr_daemon::config::{Keys, Refusal, Report, Value, quoted, show_bytes, show_duration};
use edr_daemon::kafka::{self, Security};
use log::LevelFilter;

/// Path of the configuration file in the packages.
pub const DEFAULT_PATH: &str = "/etc/edr-collectd/collector.toml";

/// Default of `state-dir`: the folder created by `StateDirectory=` of the unit.
pub(crate) const STATE_DIR: &str = "/var/lib/edr-collectd";

/// All known keys, except the keys of `edr_daemon::kafka`.
const KNOWN: &[&str] = &[
    "log-level",
    "state-dir",
    "kafka.brokers",
    "kafka.topic",
    "kafka.group",
    "archive.dir",
    "archive.commit-interval",
    "archive.batch-bytes-max",
    "web.listen",
];

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Lowest logged level.
    pub log_level: LevelFilter,
    /// Folder for all files of the collector.
    pub state_dir: PathBuf,
    /// The source of records.
    pub kafka: Kafka,
    /// The archive.
    pub archive: Archive,
    /// The page.
    pub web: Web,
}

/// The source of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers for the first connection, as `host:port`.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// The consumer group: collectors with the same group share the partitions.
    pub group: String,
    /// `[kafka.tls]` and `[kafka.sasl]`.
    pub security: Security,
}

/// The storage of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Folder of the Delta tables.
    pub dir: PathBuf,
    /// Time between two commits, and the longest wait of a received record for its commit.
    pub commit_interval: Duration,
    /// Size of a batch, in bytes, at which a commit starts before its interval is over. Three such batches can be in
    /// memory.
    pub batch_bytes_max: usize,
}

/// The web page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// Address to listen on. Only the loopback interface is allowed, since there are neither users nor TLS yet.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// All problems of all files, in one report.
    pub fn load(path: &Path) -> Result<Self, Report> {
        Self::read(path, true)
    }

    /// Like [`Config::load`], for commands that read only the archive: `kafka.brokers` may be absent, and the files
    /// with certificates and secrets are not checked.
    ///
    /// # Errors
    /// All other problems of all files, in one report.
    pub fn load_without_kafka(path: &Path) -> Result<Self, Report> {
        Self::read(path, false)
    }

    fn read(path: &Path, with_kafka: bool) -> Result<Self, Report> {
        let mut keys = Keys::load(path, &[KNOWN, kafka::KEYS].concat());
        let state_dir = keys.path("state-dir").unwrap_or_else(|| PathBuf::from(STATE_DIR));
        let config = Self {
            log_level: keys.log_level("log-level").unwrap_or(LevelFilter::Info),
            kafka: Kafka {
                brokers: if with_kafka || keys.is_set("kafka.brokers") {
                    keys.brokers("kafka.brokers")
                } else {
                    Vec::new()
                },
                topic: keys.topic("kafka.topic").unwrap_or_else(|| "edr.snapshots".to_owned()),
                group: keys.take("kafka.group", group).unwrap_or_else(|| "edr-collectd".to_owned()),
                security: Security::take(&mut keys, "edr-collectd"),
            },
            archive: Archive {
                dir: keys.path("archive.dir").unwrap_or_else(|| state_dir.join("archive")),
                commit_interval: keys.duration(
                    "archive.commit-interval",
                    Duration::from_secs(5),
                    Duration::from_millis(100)..=Duration::from_secs(300),
                ),
                // One record may have 4 MiB. Three batches of 1 GiB are in memory while a disk is slow.
                batch_bytes_max: usize::try_from(keys.bytes("archive.batch-bytes-max", 32 << 20, 4 << 20..=1 << 30))
                    .unwrap_or(32 << 20),
            },
            web: Web {
                listen: keys.take("web.listen", listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8480))),
            },
            state_dir,
        };
        if with_kafka {
            config.kafka.security.look(&mut keys);
        }
        keys.finish().map(|()| config)
    }

    /// Returns the configuration with all defaults filled in, in the form of a configuration file.
    pub fn effective(&self) -> String {
        let brokers: Vec<String> = self.kafka.brokers.iter().map(|broker| quoted(broker)).collect();
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let in_table =
            |(key, value): (&'static str, String)| format!("{} = {value}\n", key.strip_prefix("kafka.").unwrap_or(key));
        let security: String = self.kafka.security.lines().into_iter().map(in_table).collect();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "log-level = {}\nstate-dir = {}\n\n[kafka]\nbrokers = [{}]\ntopic = {}\ngroup = {}\n{security}\n\
             [archive]\ndir = {}\ncommit-interval = {}\nbatch-bytes-max = {}\n\n[web]\nlisten = {}\n",
            quoted(&self.log_level.as_str().to_lowercase()),
            path(&self.state_dir),
            brokers.join(", "),
            quoted(&self.kafka.topic),
            quoted(&self.kafka.group),
            path(&self.archive.dir),
            quoted(&show_duration(self.archive.commit_interval)),
            quoted(&show_bytes(self.archive.batch_bytes_max as u64)),
            quoted(&self.web.listen.to_string()),
        );
        text
    }
}

fn group(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::Text(text)
            if (1..=249).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) =>
        {
            Ok(text.clone())
        }
        _ => Err(Refusal {
            rule: "must be a name of 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'".to_owned(),
            remedy: "write \"edr-collectd\" for the default".to_owned(),
        }),
    }
}

fn listen(value: &Value) -> Result<SocketAddr, Refusal> {
    let address: Option<SocketAddr> = match value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    };
    match address {
        Some(address) if address.ip().is_loopback() => Ok(address),
        Some(_) => Err(Refusal {
            rule: "must be an address of the loopback interface: the page has neither users nor TLS".to_owned(),
            remedy: "write \"127.0.0.1:8480\", and reach it through a tunnel or a proxy that knows its users"
                .to_owned(),
        }),
        None => Err(Refusal {
            rule: "must be an address and a port".to_owned(),
            remedy: "write \"127.0.0.1:8480\" for the default".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("collector.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|report| report.to_string())
    }

    #[test]
    fn brokers_are_enough_and_the_effective_file_says_the_same() {
        let config = load("[kafka]\nbrokers = [\"localhost:9092\"]\n").unwrap();
        assert_eq!(config.archive.dir, Path::new("/var/lib/edr-collectd/archive"));
        assert_eq!(config.web.listen.to_string(), "127.0.0.1:8480");
        assert_eq!(load(&config.effective()).unwrap(), config);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let report = load(
            "state-dirr = \"/x\"\n[kafka]\ngroup = \"a b\"\n[archive]\ncommit-interval = 5\n[web]\nlisten = \"0.0.0.0:80\"\n",
        )
        .unwrap_err();
        for wanted in [
            "collector.toml:1: state-dirr",
            "did you mean state-dir?",
            "kafka.brokers",
            "collector.toml:3: kafka.group = \"a b\"",
            "collector.toml:5: archive.commit-interval = 5: must be a time between 100ms and 5m",
            "collector.toml:7: web.listen = \"0.0.0.0:80\": must be an address of the loopback interface",
        ] {
            assert!(report.contains(wanted), "no {wanted:?} in\n{report}");
        }
    }
}
