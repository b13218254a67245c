//! The collector's configuration: `/etc/edr-collectd/collector.toml` and `conf.d/*.toml` beside that file.
//!
//! [`keys`] declares the keys; `edr_daemon::config` reads the files and takes the values.

mod keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edr_daemon::config::{Effective, Keys, Report};
use edr_daemon::kafka::Security;
use log::LevelFilter;

pub use self::keys::document;

/// Path of the configuration file in the packages.
pub const DEFAULT_PATH: &str = "/etc/edr-collectd/collector.toml";

/// Default of `state-dir`: the folder created by `StateDirectory=` of the unit.
pub(crate) const STATE_DIR: &str = "/var/lib/edr-collectd";

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
    pub web: WebConfig,
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
pub struct WebConfig {
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
        let mut keys = Keys::load(path, &keys::keys());
        let with_brokers = with_kafka || keys.is_set(&keys::BROKERS);
        let state_dir = keys.get(&keys::STATE_DIR);
        let config = Self {
            log_level: keys.get(&keys::LOG_LEVEL),
            kafka: Kafka {
                brokers: if with_brokers { keys.brokers(&keys::BROKERS) } else { Vec::new() },
                topic: keys.get(&keys::TOPIC),
                group: keys.get(&keys::GROUP),
                security: Security::take(&mut keys, "edr-collectd"),
            },
            archive: Archive {
                dir: keys.find(&keys::ARCHIVE_DIR).unwrap_or_else(|| state_dir.join("archive")),
                commit_interval: keys.get(&keys::COMMIT_INTERVAL),
                batch_bytes_max: keys.get(&keys::BATCH_BYTES_MAX) as usize,
            },
            web: WebConfig { listen: keys.get(&keys::LISTEN) },
            state_dir,
        };
        if with_kafka {
            config.kafka.security.look(&mut keys);
        }
        keys.finish().map(|()| config)
    }

    /// Returns the configuration with all defaults filled in, in the form of a configuration file.
    pub fn effective(&self) -> String {
        let mut text = Effective::default();
        text.add(&keys::LOG_LEVEL, &self.log_level);
        text.add(&keys::STATE_DIR, &self.state_dir);
        text.add(&keys::BROKERS, &self.kafka.brokers);
        text.add(&keys::TOPIC, &self.kafka.topic);
        text.add(&keys::GROUP, &self.kafka.group);
        self.kafka.security.write(&mut text);
        text.add(&keys::ARCHIVE_DIR, &self.archive.dir);
        text.add(&keys::COMMIT_INTERVAL, &self.archive.commit_interval);
        text.add(&keys::BATCH_BYTES_MAX, &(self.archive.batch_bytes_max as u64));
        text.add(&keys::LISTEN, &self.web.listen);
        text.into_text()
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
            "state-dirr = \"/x\"\n[kafka]\ngroup = \"a b\"\n[archive]\ncommit-interval = 5\n[web]\nlisten \
            = \"0.0.0.0:80\"\n",
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
