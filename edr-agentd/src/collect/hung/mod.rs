//! Protection against reads that hang.
//!
//! A read below `/proc/PID` can wait for ever: inside an execve(2) that waits for a FUSE server, Linux 6.18 holds back
//! most files of the process. A thread in such a read cannot be interrupted, so the reading is done by a thread that
//! can be abandoned ([`AbandonableThread`]) while the caller watches that thread. A late result is discarded.
//!
//! [`policy`] holds every limit and decides; `account` reads how long the thread waited in the kernel, which is not the
//! time that passed: on a host with too much to do a thread waits for a processor most of the time, and does not hang.

mod account;
pub(super) mod policy;
mod progress;
mod thread;

#[cfg(test)]
pub(super) use progress::Place;
pub(super) use progress::Progress;
pub(super) use thread::{AbandonableThread, Abandoned, NoAnswer};
