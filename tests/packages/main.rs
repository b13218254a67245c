//! Tests of the packages: content, Debian policy, reproducible builds, the accuracy of their manuals and of README, and
//! the signed repository.
//!
//! Both packages are built as for a release. The content is inspected with a user's tools: `dpkg-deb`, `lintian`,
//! `mandoc`, a shell. The agent's package is built a second time elsewhere; the collector's package only with
//! `EDR_TEST_LONG`, because this build takes a quarter of an hour.

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
mod readme;
mod rules;
mod signed;
