//! Questions of the page and the commands, and their answers.
//!
//! [`HostAnswers`] finds a snapshot; the catalogue of `edr-model` turns the snapshot into tables. Daemon and commands
//! ask in the same way: the daemon has the newest snapshots in memory, a command finds their locations in the archive.

mod answers;
mod cache;

pub use answers::HostAnswers;
pub use edr_model::{HostRow, HostSnapshot, Joined, OmittedFrames, QueryError};
