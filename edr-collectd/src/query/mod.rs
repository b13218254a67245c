//! Questions and their answers: what the page and the commands ask.
//!
//! A snapshot is found ([`HostAnswers`]) and then shown as tables ([`table`]). The daemon and the commands ask in the
//! same way: the daemon's newest snapshots are in memory, those of a command are where the archive says.

mod answers;
mod cache;
pub(crate) mod exposure;
pub mod table;

pub use answers::HostAnswers;

use std::sync::{Arc, OnceLock};

use edr_wire::snapshot::SnapshotView;
use edr_wire::{Epoch, HostId};

/// One host as the list of hosts shows it.
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
    /// When the collector got it, ns since the epoch.
    pub received_ns: i64,
    /// Interval of the agent, ns.
    pub interval_ns: u64,
    /// Sequence number of the newest snapshot.
    pub seq: u64,
    /// Processes, open files, sockets in it.
    pub processes: usize,
    /// Open files.
    pub files: usize,
    /// Sockets.
    pub sockets: usize,
    /// Highest danger level of any attacker, 0 for none.
    pub danger_level: u8,
    /// psad's mode and state, as `mode/state`.
    pub psad: String,
    /// Why the agent shows less than it could.
    pub degraded: Vec<String>,
    /// What is wrong with what came from it: contents that contradict each other, a snapshot that cannot be read.
    pub alarms: Vec<String>,
    /// The agent said goodbye in its last frame.
    pub bye: bool,
}

/// One snapshot of a host, with what the frame around it says.
#[derive(Debug)]
pub struct HostSnapshot {
    /// Identity.
    pub host_id: HostId,
    /// Epoch of the frame.
    pub epoch: Epoch,
    /// Sequence number of the frame.
    pub seq: u64,
    /// When it was taken, ns since the epoch.
    pub captured_ns: i64,
    /// When the collector got it.
    pub received_ns: i64,
    /// The snapshot.
    pub view: SnapshotView,
    /// What does not add up about this one: its frame came with other contents too, or it says that it is of another
    /// host.
    pub alarms: Vec<String>,
    /// What was scanned, joined with its sockets.
    pub joined: Joined,
}

/// A join that several tables of a snapshot show, made when the first of them asks for it.
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
    /// No such host.
    #[error("no host {0:?}; `edr-collectd hosts` lists those there are")]
    UnknownHost(String),
    /// A name that several hosts have.
    #[error("{name:?} is the name of {count} hosts; use a host id: {ids}")]
    AmbiguousHost {
        /// The name.
        name: String,
        /// How many.
        count: usize,
        /// Their ids.
        ids: String,
    },
    /// Nothing before that moment.
    #[error("no snapshot of {host} at or before {at}; its first one is of {first}")]
    NothingThen {
        /// The host.
        host: String,
        /// The moment.
        at: String,
        /// The first one there is.
        first: String,
    },
    /// An unknown column to sort by.
    #[error("no column {0:?}; there are: {1}")]
    UnknownColumn(String, String),
    /// The archive could not be read.
    #[error("{0}")]
    Archive(String),
    /// A budget was used up.
    #[error("{0}")]
    Budget(String),
}

/// A source of answers: the running daemon's memory and archive, or the archive alone.
///
/// Implemented by the daemon (newest snapshots from memory, older ones from the archive) and by the commands
/// (archive only). `host` is a host id, or a host name that only one host has.
pub trait Answers: Send + Sync {
    /// All hosts, by name.
    fn hosts(&self) -> impl Future<Output = Result<Vec<HostRow>, QueryError>> + Send;

    /// What the list of hosts shows of one, without the others.
    fn host(&self, host_id: HostId) -> impl Future<Output = Result<Option<HostRow>, QueryError>> + Send;

    /// The newest snapshot of a host at or before `at_ns` (ns since the epoch), or its newest.
    fn snapshot(
        &self,
        host: &str,
        at_ns: Option<i64>,
    ) -> impl Future<Output = Result<Arc<HostSnapshot>, QueryError>> + Send;

    /// Why the collector gets or archives nothing at the moment, in words. Answers from the archive alone know of none.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Tells the id of each host whose newest snapshot was replaced.
    fn changes(&self) -> tokio::sync::broadcast::Receiver<HostId>;
}
