//! The spool: a test for each promise, and the ledger under random actions ([`model`]).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

mod agent;
mod faults;
mod large;
mod losses;
mod messages;
mod model;
mod restart;
mod thinning;
