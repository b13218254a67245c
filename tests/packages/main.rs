//! The packages: what is in them, that they keep Debian's rules, that they can be built again bit for bit, and that what
//! they say of the programs is true.
//!
//! Their contents are looked at as a user would, with `dpkg-deb`, `lintian`, `mandoc`, a shell. The agent's package is
//! the one that would be released, built twice; the collector's is packed by the same script around the program that the
//! other tests run, and built for release with `EDR_TEST_LONG` only: it takes a quarter of an hour.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says why it was skipped"
)]

mod built;
mod completions;
mod contents;
mod linked;
mod manual;
mod rules;
