//! Reading of psad's files: real trees, the corpus of log lines, rotation, and a hostile folder.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod compare;
mod corpus;
mod daemon;
mod fixtures;
mod hostile;
mod journal;
mod rotation;
mod running;
mod settings;
mod world;
