//! Sources: the readers of the host's state at each tick.
//!
//! Each source has a reader, opened once and read at every tick. A reader returns the facts, records missed facts in
//! [`Gaps`], and never fails the tick. Readers know nothing of frames, of the spool or of Kafka.

pub(crate) mod calls;
mod gaps;
pub mod host;
mod hung;
mod inhabitants;
mod packets;
mod proc_files;
pub mod processes;
pub mod psad;
pub mod sockets;

pub use calls::Calls;
pub use gaps::Gaps;
pub use inhabitants::Inhabitants;
