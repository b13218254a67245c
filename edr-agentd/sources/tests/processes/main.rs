//! The processes source against real processes, hostile ones first, and against `lsof` and `ps`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says why it was skipped")]

mod common;
mod fuse;
mod hanging;
mod limits;
mod load;
mod names;
mod reuse;
mod rights;
mod shares;
mod steady;
mod tools;
mod zoo;
