//! The configuration: `agent.toml` and `conf.d/*.toml` beside it, checked, with exact types. [`keys`] declares the
//! keys.

mod keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edr_daemon::config::{Effective, Keys, Report, show_duration};
use edr_daemon::kafka::Security;
use edr_daemon::secret;
use edr_sources::redact::Redactor;
use log::LevelFilter;

pub use self::keys::document;

/// Where the configuration lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/edr-agentd/agent.toml";

/// Bytes of a record beside the body: a header with full lists of losses.
pub(crate) const RECORD_HEADER_BYTES_MAX: usize = 256 << 10;
/// A key that can be guessed would let everybody try secrets against their tokens.
const REDACT_KEY_BYTES_MIN: usize = 16;
/// Default of `state-dir`: the folder that the unit makes.
pub(crate) const STATE_DIR: &str = "/var/lib/edr-agentd";
const RUNTIME_DIR: &str = "/run/edr-agentd";

/// The effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `interval`: time between two snapshots.
    pub interval: Duration,
    /// `key-interval`: the longest time between two key frames.
    pub key_interval: Duration,
    /// `state-dir`: the folder that holds the spool and the lock.
    pub state_dir: PathBuf,
    /// `runtime-dir`: the folder of the socket that `edr-agentd status` asks, and of the witness of the last frame.
    pub runtime_dir: PathBuf,
    /// `log-level`: the least important level that is logged.
    pub log_level: LevelFilter,
    /// `[labels]`: facts about the host that only its owner knows.
    pub labels: BTreeMap<String, String>,
    /// `[kafka]`.
    pub kafka: ProducerConfig,
    /// `[spool]`.
    pub spool: Spool,
    /// `[processes]`.
    pub processes: ProcessesConfig,
    /// `[redact]`.
    pub redact: RedactConfig,
    /// `psad.dir`: psad's folder; without it as psad's own configuration says.
    pub psad_dir: Option<PathBuf>,
    /// `psad.packet-log`: the log with the firewall's packets; without it as psad's own configuration says.
    pub packet_log: Option<PathBuf>,
    /// `psad.sources-max`: sources sent in detail, those of the highest danger level and the most packets; of the
    /// others only their totals.
    pub sources_max: usize,
    /// `psad.packets-max`: packet lines taken in one tick; more wait for the next.
    pub packets_max: usize,
}

/// Where frames go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// `brokers`: `host:port` of brokers to start from; one that answers is enough.
    pub brokers: Vec<String>,
    /// `topic`.
    pub topic: String,
    /// `part-bytes-max`: body bytes of one Kafka message.
    pub part_bytes_max: usize,
    /// `message-timeout`: how long one try to deliver lasts. Nothing is lost after it: the frame is sent again.
    pub message_timeout: Duration,
    /// `drain-bytes-max`: bytes a second while catching up after an outage.
    pub drain_bytes_max: u64,
    /// `[kafka.tls]` and `[kafka.sasl]`.
    pub security: Security,
}

/// How much waits on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spool {
    /// `bytes-max`: what the spool may take.
    pub bytes_max: u64,
    /// `free-bytes-min`: free room that the spool leaves on the file system.
    pub free_bytes_min: u64,
}

/// What is read of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessesConfig {
    /// `files-max`: open files listed of one process; their number is always exact.
    pub files_max: usize,
    /// `reread-interval`: no row is older, even of a process that never runs.
    pub reread_interval: Duration,
    /// `mapped`: whether mapped files are listed.
    pub mapped: bool,
    /// `hash`: whether executables are hashed.
    pub hash: bool,
    /// `hash-bytes-max`: executables larger than this are not hashed.
    pub hash_bytes_max: u64,
}

/// What is replaced before anything leaves the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactConfig {
    /// `secrets`: whether secrets in command lines are replaced.
    pub secrets: bool,
    /// `key-file`: a key for the whole fleet, so that the same secret has the same token everywhere; without it
    /// tokens are comparable until the agent starts again.
    pub key_file: Option<PathBuf>,
    /// `rules`: further rules for secrets, and exceptions.
    pub rules: Vec<String>,
}

impl RedactConfig {
    /// The key, when there is a file for it.
    ///
    /// # Errors
    /// When the file cannot be read, is readable for further users, or is too short.
    pub fn key(&self) -> Result<Option<Vec<u8>>, secret::Fault> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let secret = secret::read(path)?;
        let key = secret.expose().trim_ascii();
        if key.len() < REDACT_KEY_BYTES_MIN {
            return Err(secret::Fault {
                rule: format!("{} holds {} bytes, {REDACT_KEY_BYTES_MIN} are needed", path.display(), key.len()),
                remedy: format!("write {REDACT_KEY_BYTES_MIN} random bytes or more into it"),
            });
        }
        Ok(Some(key.to_vec()))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::take(&mut Keys::defaults(), false)
    }
}

impl Config {
    /// Reads and checks `path` and the `conf.d/*.toml` beside it.
    ///
    /// # Errors
    /// Every problem of every file, in one report.
    pub fn load(path: &Path) -> Result<Self, Report> {
        Self::read(path, true)
    }

    /// As [`Config::load`], for commands that do not need Kafka: `kafka.brokers` may be absent, as in the file that is
    /// installed.
    ///
    /// # Errors
    /// Every other problem of every file, in one report.
    pub fn load_without_kafka(path: &Path) -> Result<Self, Report> {
        Self::read(path, false)
    }

    fn read(path: &Path, with_kafka: bool) -> Result<Self, Report> {
        let mut keys = Keys::load(path, &keys::keys());
        let config = Self::take(&mut keys, with_kafka);
        if config.key_interval < config.interval {
            keys.refuse_together(
                keys::KEY_INTERVAL.name,
                show_duration(config.key_interval),
                format!("must not be shorter than interval, which is {}", show_duration(config.interval)),
                "raise key-interval or lower interval",
            );
        }
        if with_kafka {
            config.kafka.security.look(&mut keys);
        }
        if let Err(fault) = config.redact.key() {
            keys.refuse_together(keys::REDACT_KEY_FILE.name, String::new(), fault.rule, &fault.remedy);
        }
        if let Err(fault) = Redactor::new(b"").with_rules(&config.redact.rules) {
            let remedy = "write the rule as docs/redaction.md describes, or remove it";
            keys.refuse_together(keys::REDACT_RULES.name, format!("{:?}", fault.text), fault.reason.to_owned(), remedy);
        }
        keys.finish()?;
        Ok(config)
    }

    fn take(keys: &mut Keys, with_kafka: bool) -> Self {
        let with_brokers = with_kafka || keys.is_set(&keys::BROKERS);
        let state_dir = keys.get(&keys::STATE_DIR);
        // An agent with a place of its own is not the host's service, and leaves the service's socket alone.
        let own_place = if state_dir == Path::new(STATE_DIR) { Path::new(RUNTIME_DIR) } else { &state_dir };
        Self {
            runtime_dir: keys.find(&keys::RUNTIME_DIR).unwrap_or_else(|| own_place.to_owned()),
            state_dir,
            interval: keys.get(&keys::INTERVAL),
            key_interval: keys.get(&keys::KEY_INTERVAL),
            log_level: keys.get(&keys::LOG_LEVEL),
            labels: keys.labels(&keys::LABELS),
            kafka: ProducerConfig {
                brokers: if with_brokers { keys.brokers(&keys::BROKERS) } else { Vec::new() },
                topic: keys.get(&keys::TOPIC),
                part_bytes_max: keys.get(&keys::PART_BYTES_MAX) as usize,
                message_timeout: keys.get(&keys::MESSAGE_TIMEOUT),
                drain_bytes_max: keys.get(&keys::DRAIN_BYTES_MAX),
                security: Security::take(keys, "edr-agentd"),
            },
            spool: Spool {
                bytes_max: keys.get(&keys::SPOOL_BYTES_MAX),
                free_bytes_min: keys.get(&keys::FREE_BYTES_MIN),
            },
            processes: ProcessesConfig {
                files_max: keys.get(&keys::FILES_MAX) as usize,
                reread_interval: keys.get(&keys::REREAD_INTERVAL),
                mapped: keys.get(&keys::MAPPED),
                hash: keys.get(&keys::HASH),
                hash_bytes_max: keys.get(&keys::HASH_BYTES_MAX),
            },
            redact: RedactConfig {
                secrets: keys.get(&keys::SECRETS),
                key_file: keys.find(&keys::REDACT_KEY_FILE),
                rules: keys.get(&keys::REDACT_RULES),
            },
            psad_dir: keys.find(&keys::PSAD_DIR),
            packet_log: keys.find(&keys::PACKET_LOG),
            sources_max: keys.get(&keys::SOURCES_MAX) as usize,
            packets_max: keys.get(&keys::PACKETS_MAX) as usize,
        }
    }

    /// The socket that `edr-agentd status` asks.
    pub fn status_socket(&self) -> PathBuf {
        self.runtime_dir.join("status.sock")
    }

    /// The effective configuration as a file with the same meaning.
    pub fn to_toml(&self) -> String {
        let mut text = Effective::default();
        text.add(&keys::INTERVAL, &self.interval);
        text.add(&keys::KEY_INTERVAL, &self.key_interval);
        text.add(&keys::STATE_DIR, &self.state_dir);
        text.add(&keys::RUNTIME_DIR, &self.runtime_dir);
        text.add(&keys::LOG_LEVEL, &self.log_level);
        for (name, value) in &self.labels {
            text.add_label(&keys::LABELS, name, value);
        }
        text.add(&keys::BROKERS, &self.kafka.brokers);
        text.add(&keys::TOPIC, &self.kafka.topic);
        text.add(&keys::PART_BYTES_MAX, &(self.kafka.part_bytes_max as u64));
        text.add(&keys::MESSAGE_TIMEOUT, &self.kafka.message_timeout);
        text.add(&keys::DRAIN_BYTES_MAX, &self.kafka.drain_bytes_max);
        self.kafka.security.write(&mut text);
        text.add(&keys::SPOOL_BYTES_MAX, &self.spool.bytes_max);
        text.add(&keys::FREE_BYTES_MIN, &self.spool.free_bytes_min);
        text.add(&keys::FILES_MAX, &(self.processes.files_max as u64));
        text.add(&keys::REREAD_INTERVAL, &self.processes.reread_interval);
        text.add(&keys::MAPPED, &self.processes.mapped);
        text.add(&keys::HASH, &self.processes.hash);
        text.add(&keys::HASH_BYTES_MAX, &self.processes.hash_bytes_max);
        text.add(&keys::SECRETS, &self.redact.secrets);
        text.add_some(&keys::REDACT_KEY_FILE, self.redact.key_file.as_ref());
        text.add(&keys::REDACT_RULES, &self.redact.rules);
        text.add_some(&keys::PSAD_DIR, self.psad_dir.as_ref());
        text.add_some(&keys::PACKET_LOG, self.packet_log.as_ref());
        text.add(&keys::SOURCES_MAX, &(self.sources_max as u64));
        text.add(&keys::PACKETS_MAX, &(self.packets_max as u64));
        text.into_text()
    }

    /// 16 hex digits over [`Config::to_toml`]: hosts with the same value are configured alike.
    pub fn hash(&self) -> String {
        use sha2::Digest as _;
        hex::encode(&sha2::Sha256::digest(self.to_toml())[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Report> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn every_problem_is_in_one_report() {
        let report = load(
            "intervall = \"10s\"\ninterval = 10\nkey-interval = \"2d\"\nstate-dir = \"var\"\nlog-level = \"loud\"\n\
             [kafka]\nbrokers = [\"localhost\"]\ntopic = \"a b\"\npart-bytes-max = \"9GiB\"\n\
             [processes]\nfiles-max = 0\n[spool]\nbytes-max = \"1MiB\"\n",
        );
        let text = report.unwrap_err().to_string();
        for wanted in [
            "agent.toml:1: intervall = \"10s\": is no key of this file; did you mean interval?",
            "agent.toml:2: interval = 10: must be a time between 1s and 1h",
            "agent.toml:3: key-interval = \"2d\": must be a time between 10s and 1d",
            "agent.toml:4: state-dir = \"var\": must be an absolute path",
            "agent.toml:5: log-level = \"loud\": must be error, warn, info, debug or trace",
            "agent.toml:7: kafka.brokers = [\"localhost\"]: must be a list of one or more \"host:port\"",
            "agent.toml:8: kafka.topic = \"a b\": must be the name of a topic",
            "agent.toml:9: kafka.part-bytes-max = \"9GiB\": must be a size between 64KiB and 3840KiB",
            "agent.toml:11: processes.files-max = 0: must be a number between 1 and 16384",
            "agent.toml:13: spool.bytes-max = \"1MiB\": must be a size between 64MiB and 1TiB",
        ] {
            assert!(text.contains(wanted), "{wanted}\nis not in\n{text}");
        }
        assert!(text.starts_with("configuration: 10 problems"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "0123456789abcdef\n").unwrap();
        let with_key =
            |key: &Path| load(&format!("[kafka]\nbrokers = [\"b:1\"]\n[redact]\nsecrets = 1\nkey-file = {key:?}\n"));
        let refused = with_key(&dir.path().join("none")).unwrap_err().to_string();
        assert!(refused.contains("redact.secrets = 1: must be true or false"), "{refused}");
        assert!(refused.contains("none cannot be read: No such file"), "{refused}");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(with_key(&key).unwrap_err().to_string().contains("is open to everybody, mode 644"));
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let redact = RedactConfig { secrets: true, key_file: Some(key), rules: Vec::new() };
        assert_eq!(redact.key().unwrap().unwrap(), b"0123456789abcdef");
        let rules =
            load("[kafka]\nbrokers = [\"b:1\"]\n[redact]\nrules = [\"name acmecode\", \"command acmectl -x\"]\n");
        let refused = rules.unwrap_err().to_string();
        assert!(refused.contains("redact.rules = \"command acmectl -x\": SECRET is missing"), "{refused}");
        let short = load("interval = \"30s\"\nkey-interval = \"20s\"\n[kafka]\nbrokers = [\"b:1\"]\n").unwrap_err();
        assert!(short.to_string().contains("must not be shorter than interval, which is 30s"), "{short}");
    }

    #[test]
    fn only_what_needs_kafka_needs_a_broker() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, "interval = \"5s\"\n[kafka]\n# Where Kafka is.\n# brokers = [\"HOST:PORT\"]\n").unwrap();
        let refused = Config::load(&path).unwrap_err().to_string();
        assert!(refused.contains("agent.toml:4: kafka.brokers: is not set"), "{refused}");
        let config = Config::load_without_kafka(&path).unwrap();
        assert_eq!((config.interval, config.kafka.brokers.len()), (Duration::from_secs(5), 0));
        // The placeholder is no address.
        std::fs::write(&path, "[kafka]\nbrokers = [\"HOST:PORT\"]\n").unwrap();
        let refused = Config::load_without_kafka(&path).unwrap_err().to_string();
        assert!(refused.contains("agent.toml:2: kafka.brokers = [\"HOST:PORT\"]: must be"), "{refused}");
    }

    #[test]
    fn what_check_prints_is_a_configuration_that_means_the_same() {
        let text = "interval = \"7s\"\nstate-dir = \"/srv/e \\\"d\\\" r\"\n[kafka]\nbrokers = [\"[::1]:9092\"]\n\
                    [labels]\n\"a.b\" = \"'\\n\"\nlabels.x = \"y\"\n[psad]\ndir = \"/srv/psad\"\nsources-max = 7\n\
                    [processes]\nhash = false\nmapped = false\nhash-bytes-max = \"1GiB\"\n[redact]\nsecrets = false\n\
                    rules = [\"name acmecode\"]\n";
        let config = load(text).unwrap();
        let again = load(&config.to_toml()).unwrap();
        assert_eq!(config, again);
        assert_eq!(config.hash(), again.hash());
        let other = load("[kafka]\nbrokers = [\"127.0.0.1:9092\"]\n").unwrap();
        assert_eq!((other.hash().len(), other.hash() == config.hash()), (16, false));
        let mut default = Config::default();
        default.kafka.brokers = other.kafka.brokers.clone();
        assert_eq!(other, default);
    }
}
