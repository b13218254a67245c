//! What the page asks the collector.

use std::sync::Arc;

use edr_model::{HostRow, HostSnapshot, OmittedFrames, QueryError};
use edr_wire::HostId;
use futures::future::BoxFuture;
use tokio::sync::broadcast;

/// Questions of the page. The collector answers from memory for the newest snapshots, and from the archive for earlier
/// moments.
pub trait Answers: Send + Sync {
    /// Returns all hosts, sorted by name.
    fn hosts(&self) -> Vec<HostRow>;

    /// Returns the id of a host. `host` is a host id or a host name.
    ///
    /// # Errors
    /// When there is no such host.
    fn host_id(&self, host: &str) -> Result<HostId, QueryError>;

    /// Returns the entry of a host in the list of hosts.
    fn host(&self, host_id: HostId) -> Option<HostRow>;

    /// Returns the last snapshot of a host at or before `at_ns` (ns since the epoch); the newest for `None`. `host` is
    /// a host id or a host name; a name means the host that had the name first.
    fn snapshot<'a>(
        &'a self,
        host: &'a str,
        at_ns: Option<i64>,
    ) -> BoxFuture<'a, Result<Arc<HostSnapshot>, QueryError>>;

    /// Returns why the collector currently receives or archives nothing.
    fn trouble(&self) -> Option<String>;

    /// Returns what the list of hosts leaves out.
    fn omitted(&self) -> OmittedFrames;

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    fn changes(&self) -> broadcast::Receiver<HostId>;
}
