//! Protection against hung reads.
//!
//! A read below `/proc/PID` can wait for ever: while an execve(2) waits for a FUSE server, Linux 6.18 holds back most
//! files of the process. A thread in such a read cannot be interrupted. So an [`AbandonableThread`] reads, and the
//! caller watches the thread. A late result is discarded.
//!
//! [`policy`] holds every limit and decides. `account` reads the time spent waiting in the kernel, which differs from
//! the time on the clock: on an overloaded host a thread waits for a processor most of the time, and does not hang.

mod account;
pub(crate) mod policy;
mod progress;
mod thread;

pub(crate) use progress::JobProgress;
#[cfg(test)]
pub(crate) use progress::ReadPosition;
pub(crate) use thread::{AbandonableThread, AbandonedThread, NoAnswer};
