//! The keys of `agent.toml`. Parser, errors, `check`, `packaging/config/agent.toml` and `packaging/man/agent.toml.5`
//! derive from these declarations.

use std::time::Duration;

use edr_daemon::config::kinds::{
    Brokers, FixedPath, Interval, KafkaName, Labels, LogLevel, Number, OptionalPath, Size, Switch, Texts,
};
use edr_daemon::config::{Declared, Document, Key};
use edr_daemon::kafka;
use edr_sources::psad;
use edr_wire::limits::{FILES_PER_PROCESS_MAX, PART_BYTES, RECORD_BYTES_MAX};
use log::LevelFilter;

use super::RECORD_HEADER_BYTES_MAX;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_S: u64 = 3_600;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) static INTERVAL: Key<Interval> = Key {
    name: "interval",
    doc: "Time between two snapshots.",
    kind: Interval { default: seconds(10), min: seconds(1), max: seconds(HOUR_S) },
};
pub(super) static KEY_INTERVAL: Key<Interval> = Key {
    name: "key-interval",
    doc: "Longest time between two key frames. Other frames are differences to the last key, so this time limits how \
          much has to be read to see one moment, and the loss with a damaged key.",
    kind: Interval { default: seconds(HOUR_S), min: seconds(10), max: seconds(24 * HOUR_S) },
};
pub(super) static STATE_DIR: Key<FixedPath> = Key {
    name: "state-dir",
    doc: "Folder for the spool. Its files are the agent's whole memory: without them the agent starts a new epoch.",
    kind: FixedPath { default: super::STATE_DIR },
};
pub(super) static RUNTIME_DIR: Key<FixedPath> = Key {
    name: "runtime-dir",
    doc: "Folder for the socket of `edr-agentd status`, and for last-frame, which proves after a crash that an epoch \
    may \
          go on: best a folder that lasts as long as the boot, such as a folder below /run. With another state-dir \
          than \
          the default, the default is state-dir.",
    kind: FixedPath { default: super::RUNTIME_DIR },
};
pub(super) static LOG_LEVEL: Key<LogLevel> = Key {
    name: "log-level",
    doc: "Least important level that is logged: error, warn, info, debug, trace.",
    kind: LogLevel { default: LevelFilter::Info },
};
pub(super) static BROKERS: Key<Brokers> = Key {
    name: "kafka.brokers",
    doc: "Brokers to ask first, \"host:port\"; one that answers is enough. There is no default: the agent does not \
    start \
          without this key. Once started the agent needs no broker: snapshots wait in the spool until a broker \
          answers.",
    kind: Brokers,
};
pub(super) static TOPIC: Key<KafkaName> = Key {
    name: "kafka.topic",
    doc: "Topic for the snapshots. The agent does not create the topic: edr-collectd check --online --create-topic.",
    kind: KafkaName { default: "edr.snapshots", of: "a topic" },
};
pub(super) static PART_BYTES_MAX: Key<Size> = Key {
    name: "kafka.part-bytes-max",
    doc: "Bytes of a snapshot in one message; a larger snapshot travels in parts. The default passes a broker with \
          default limits (message.max.bytes of 1 MB).",
    kind: Size { default: PART_BYTES as u64, min: 64 * KIB, max: (RECORD_BYTES_MAX - RECORD_HEADER_BYTES_MAX) as u64 },
};
pub(super) static MESSAGE_TIMEOUT: Key<Interval> = Key {
    name: "kafka.message-timeout",
    doc: "How long one attempt to deliver lasts. Afterwards nothing is lost: the frame is sent again.",
    kind: Interval { default: seconds(30), min: seconds(1), max: seconds(600) },
};
pub(super) static DRAIN_BYTES_MAX: Key<Size> = Key {
    name: "kafka.drain-bytes-max",
    doc: "Bytes per second while catching up after an outage: a fleet that comes back together must not overload its \
          broker.",
    kind: Size { default: 2 * MIB, min: 64 * KIB, max: GIB },
};
pub(super) static SPOOL_BYTES_MAX: Key<Size> = Key {
    name: "spool.bytes-max",
    doc: "Largest size of the spool. When the spool is full, of the oldest time one frame a minute stays, then one in \
          ten minutes, and only then are the oldest frames dropped. Later snapshots name what is gone.",
    kind: Size { default: 512 * MIB, min: 64 * MIB, max: TIB },
};
pub(super) static FREE_BYTES_MIN: Key<Size> = Key {
    name: "spool.free-bytes-min",
    doc: "Space that the spool leaves free on its file system.",
    kind: Size { default: 64 * MIB, min: 0, max: TIB },
};
pub(super) static FILES_MAX: Key<Number> = Key {
    name: "processes.files-max",
    doc: "Open files listed of one process; their number is always exact.",
    kind: Number { default: FILES_PER_PROCESS_MAX as u64, min: 1, max: 16_384 },
};
pub(super) static REREAD_INTERVAL: Key<Interval> = Key {
    name: "processes.reread-interval",
    doc: "Largest age of a row, even of a process that never runs. Such a process is not read until then.",
    kind: Interval { default: seconds(60), min: seconds(1), max: seconds(HOUR_S) },
};
pub(super) static MAPPED: Key<Switch> = Key {
    name: "processes.mapped",
    doc: "Whether mapped files are listed (the mem and DEL rows of lsof).",
    kind: Switch { default: true },
};
pub(super) static HASH: Key<Switch> =
    Key { name: "processes.hash", doc: "Whether executables are hashed (SHA-256).", kind: Switch { default: true } };
pub(super) static HASH_BYTES_MAX: Key<Size> = Key {
    name: "processes.hash-bytes-max",
    doc: "Size above which an executable is not hashed.",
    kind: Size { default: 256 * MIB, min: 1, max: TIB },
};
pub(super) static SECRETS: Key<Switch> = Key {
    name: "redact.secrets",
    doc: "Whether secrets in command lines are replaced by tokens before anything is written or sent.",
    kind: Switch { default: true },
};
pub(super) static REDACT_KEY_FILE: Key<OptionalPath> = Key {
    name: "redact.key-file",
    doc: "A file with a key for the whole fleet, 16 random bytes or more: the same secret then has the same token on \
          every host. Without this key tokens are comparable until the agent restarts.",
    kind: OptionalPath { example: "/etc/{daemon}/redact.key" },
};
pub(super) static REDACT_RULES: Key<Texts> = Key {
    name: "redact.rules",
    doc: "Further rules for secrets in command lines, and exceptions, each a line as docs/redaction.md describes: \
          \"name acmecode\", \"command acmectl --unlock[]SECRET\", \"form acme_ alnum 20\", \"not acmectl --token\".",
    kind: Texts { max: 1_000, bytes_max: 4_096, example: "name acmecode" },
};
pub(super) static PSAD_DIR: Key<OptionalPath> = Key {
    name: "psad.dir",
    doc: "psad's folder, where psad's own configuration does not name it.",
    kind: OptionalPath { example: "/var/log/psad" },
};
pub(super) static PACKET_LOG: Key<OptionalPath> = Key {
    name: "psad.packet-log",
    doc: "The log with the firewall's packets, where psad's own configuration does not name it.",
    kind: OptionalPath { example: "/var/log/kern.log" },
};
pub(super) static SOURCES_MAX: Key<Number> = Key {
    name: "psad.sources-max",
    doc: "Sources sent in detail, those of the highest danger level and the most packets; further sources are sent as \
          totals.",
    kind: Number { default: psad::SOURCES_MAX as u64, min: 1, max: 20_000 },
};
pub(super) static PACKETS_MAX: Key<Number> = Key {
    name: "psad.packets-max",
    doc: "Packet lines taken in one tick; further lines wait for the next tick.",
    kind: Number { default: psad::PACKETS_MAX as u64, min: 100, max: 100_000 },
};
pub(super) static LABELS: Key<Labels> = Key {
    name: "labels",
    doc: "Facts about this host that only its owner knows, shown beside its name.",
    kind: Labels,
};

/// All keys, in the order of the documents.
pub(super) fn keys() -> Vec<&'static dyn Declared> {
    let first: &[&'static dyn Declared] = &[
        &INTERVAL,
        &KEY_INTERVAL,
        &STATE_DIR,
        &RUNTIME_DIR,
        &LOG_LEVEL,
        &BROKERS,
        &TOPIC,
        &PART_BYTES_MAX,
        &MESSAGE_TIMEOUT,
        &DRAIN_BYTES_MAX,
    ];
    let last: &[&'static dyn Declared] = &[
        &SPOOL_BYTES_MAX,
        &FREE_BYTES_MIN,
        &FILES_MAX,
        &REREAD_INTERVAL,
        &MAPPED,
        &HASH,
        &HASH_BYTES_MAX,
        &SECRETS,
        &REDACT_KEY_FILE,
        &REDACT_RULES,
        &PSAD_DIR,
        &PACKET_LOG,
        &SOURCES_MAX,
        &PACKETS_MAX,
        &LABELS,
    ];
    [first, kafka::KEYS, last].concat()
}

/// Returns the example file and the manual page.
pub fn document() -> Document {
    Document {
        daemon: "edr-agentd",
        head: &[
            "edr-agentd: what this host reports, and to whom.",
            "`#key = value` is the default: remove the # to change it. Files conf.d/*.toml beside this one are read \
             after it, in the order of their names; the last value of a key counts. An unknown key is refused, so that \
             a \
             mistyped key is not a setting without effect. `edr-agentd check` lists all errors at once, and prints the \
             settings in effect.",
            "Times: \"500ms\", \"10s\", \"5m\", \"1h\", \"1d\". Sizes: \"64KiB\", \"512MiB\", \"1GiB\".",
        ],
        keys: keys(),
    }
}
