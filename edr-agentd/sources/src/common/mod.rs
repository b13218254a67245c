//! What several sources need: gaps, counted system calls, bounded reads, threads that may hang, fair shares by owner.
//!
//! Nothing here knows a source.

mod access;
pub mod calls;
pub mod clock;
pub mod cost;
pub mod errno;
pub(crate) mod files;
mod gaps;
pub mod heartbeat;
pub(crate) mod hung;
mod inhabitants;
pub(crate) mod lines;
pub(crate) mod owner;
pub(crate) mod proc_files;
mod recorder;
pub(crate) mod shares;

pub use self::access::DescriptorAccess;
pub use self::gaps::GapCollector;
pub use self::inhabitants::Inhabitants;
pub use self::recorder::Recorder;
