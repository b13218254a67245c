//! Questions of the page and the commands, and their answers.
//!
//! [`HostAnswers`] finds a snapshot; the catalogue of `edr-model` turns the snapshot into tables. Daemon and commands
//! ask in the same way: the daemon has the newest snapshots in memory, a command finds their locations in the archive.

mod answers;
mod cache;

use std::sync::Arc;

pub use answers::HostAnswers;
pub use edr_model::{HostRow, HostSnapshot, Joined, OmittedFrames, QueryError};
use edr_wire::HostId;

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

    /// Returns what the list of hosts leaves out; nothing for the archive alone.
    fn omitted(&self) -> OmittedFrames {
        OmittedFrames::default()
    }

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    fn changes(&self) -> tokio::sync::broadcast::Receiver<HostId>;
}
