//! What travels between `edr-agentd` and `edr-collectd`.
mod bytes;
pub mod frame;
mod ids;
pub mod limits;
mod scan;
pub mod snapshot;

pub use bytes::{Bytes, escaped, unescape, visible};
pub use ids::{Epoch, HostId, InvalidId, ProcessKey};
pub use scan::ScanError;
