//! Tests of the way from Kafka to the readers, with a real broker and a real archive.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says why it was skipped"
)]

mod batches;
mod disk;
mod frames;
mod positions;
mod scene;
