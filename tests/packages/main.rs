//! The packages: what is in them, that they keep Debian's rules, that they can be built again bit for bit, and that what
//! they say of the programs is true.
//!
//! Both packages are the ones that would be released. Their contents are looked at as a user would, with `dpkg-deb`,
//! `lintian`, `mandoc`, a shell. The agent's is built a second time elsewhere; the collector's only with `EDR_TEST_LONG`,
//! since that takes a quarter of an hour.

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
