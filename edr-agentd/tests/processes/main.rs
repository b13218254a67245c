//! The processes source against real processes, hostile ones first, and against `lsof` and `ps`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod hanging;
mod steady;
mod zoo;
