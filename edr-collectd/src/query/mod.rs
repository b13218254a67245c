//! Questions of the page and the commands, and their answers.
//!
//! [`HostAnswers`] finds a snapshot, [`table`] turns the snapshot into tables. Daemon and commands ask in the same way:
//! the daemon has the newest snapshots in memory, a command finds their locations in the archive.

mod answers;
mod cache;
pub(crate) mod exposure;
pub mod table;

pub use answers::HostAnswers;

use std::sync::{Arc, OnceLock};

use edr_wire::snapshot::SnapshotView;
use edr_wire::{Epoch, HostId};

/// A host in the list of hosts.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Identity.
    pub host_id: HostId,
    /// Name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// When the newest snapshot was taken, ns since the epoch, by the host's clock.
    pub captured_ns: i64,
    /// When the collector received the newest snapshot, ns since the epoch.
    pub received_ns: i64,
    /// Interval between two snapshots, ns.
    pub interval_ns: u64,
    /// Sequence number of the newest snapshot.
    pub seq: u64,
    /// Number of processes.
    pub processes: usize,
    /// Number of open files.
    pub files: usize,
    /// Number of sockets.
    pub sockets: usize,
    /// Highest danger level of any attacker, 0 for none.
    pub danger_level: u8,
    /// psad's mode and state, as `mode/state`.
    pub psad: String,
    /// Reasons why the agent's data is incomplete.
    pub degraded: Vec<String>,
    /// Problems with the host's frames: contradictory contents, or an unreadable snapshot.
    pub alarms: Vec<String>,
    /// True when the agent stopped cleanly after its last frame.
    pub bye: bool,
}

/// A snapshot of a host, with values of the frame.
#[derive(Debug)]
pub struct HostSnapshot {
    /// Identity.
    pub host_id: HostId,
    /// Epoch of the frame.
    pub epoch: Epoch,
    /// Sequence number of the frame.
    pub seq: u64,
    /// When the snapshot was taken, ns since the epoch.
    pub captured_ns: i64,
    /// When the collector received the frame, ns since the epoch.
    pub received_ns: i64,
    /// The snapshot.
    pub view: SnapshotView,
    /// Problems with this snapshot: the frame was received with other contents too, or the content names another host.
    pub alarms: Vec<String>,
    /// The scanned ports and attackers, joined with the snapshot's sockets.
    pub joined: Joined,
}

/// A join for several tables of a snapshot, computed at the first use.
#[derive(Debug, Default)]
pub struct Joined(OnceLock<exposure::Exposure>);

impl HostSnapshot {
    pub(crate) fn exposure(&self) -> &exposure::Exposure {
        self.joined.0.get_or_init(|| exposure::Exposure::of(&self.view))
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The host does not exist.
    #[error("no host {0:?}; `edr-collectd hosts` lists those there are")]
    UnknownHost(String),
    /// Several hosts have this name.
    #[error("{name:?} is the name of {count} hosts; use a host id: {ids}")]
    AmbiguousHost {
        /// The name.
        name: String,
        /// Number of hosts.
        count: usize,
        /// Ids of the hosts.
        ids: String,
    },
    /// The host has no snapshot at or before this moment.
    #[error("no snapshot of {host} at or before {at}; its first one is of {first}")]
    NothingThen {
        /// The host.
        host: String,
        /// The moment.
        at: String,
        /// When the first snapshot was taken.
        first: String,
    },
    /// The column does not exist.
    #[error("no column {0:?}; there are: {1}")]
    UnknownColumn(String, String),
    /// The archive could not be read.
    #[error("{0}")]
    Archive(String),
    /// A limit on time or rows was reached.
    #[error("{0}")]
    Budget(String),
}

/// A source of answers: the running daemon's memory and archive, or the archive alone.
///
/// The daemon answers from memory for the newest snapshots and from the archive for earlier moments, a command from the
/// archive alone. `host` is a host id, or a host name that only one host has.
pub trait Answers: Send + Sync {
    /// Returns all hosts, sorted by name.
    fn hosts(&self) -> impl Future<Output = Result<Vec<HostRow>, QueryError>> + Send;

    /// Returns the entry of a host in the list of hosts.
    fn host(&self, host_id: HostId) -> impl Future<Output = Result<Option<HostRow>, QueryError>> + Send;

    /// Returns the last snapshot of a host at or before `at_ns` (ns since the epoch); the newest for `None`.
    fn snapshot(
        &self,
        host: &str,
        at_ns: Option<i64>,
    ) -> impl Future<Output = Result<Arc<HostSnapshot>, QueryError>> + Send;

    /// Returns why the collector currently receives or archives nothing; always `None` for the archive alone.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    fn changes(&self) -> tokio::sync::broadcast::Receiver<HostId>;
}
