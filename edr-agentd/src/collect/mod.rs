//! Sources: what one tick reads from the host.
//!
//! Each source has a reader that is opened once and read at every tick. A reader returns what it got and records in
//! [`Gaps`] what it missed; it never fails the tick. It knows nothing of frames, of the spool or of Kafka.

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
