//! The parts shared by the daemons `edr-agentd` and `edr-collectd`:
//!
//! - [`config`]: reads the configuration files and reports all problems at once.
//! - [`secret`]: reads secrets.
//! - [`state_dir`]: checks the owner of the state folder.
//! - [`kafka`]: security settings for Kafka, and explanations of connection errors.
//! - [`journal`]: the log.
//! - [`systemd`]: messages to the service manager.
//! - [`preflight`]: the findings of `check --online`.
//! - [`completions()`]: shell completion of the commands.
//!
//! The tasks of the daemons are elsewhere: this crate has no snapshot, no Kafka client, no archive.

mod completions;
pub mod config;
pub mod journal;
pub mod kafka;
pub mod preflight;
pub mod secret;
pub mod state_dir;
pub mod systemd;

pub use completions::completions;

/// Exit codes, the same for every command.
pub mod exit {
    /// The command failed.
    pub const FAILURE: u8 = 1;
    /// The command line is invalid.
    pub const USAGE: u8 = 2;
    /// The answer is incomplete: a part of the data cannot be read.
    pub const INCOMPLETE: u8 = 3;
    /// Another instance is running (`EX_TEMPFAIL` of sysexits.h).
    pub const ALREADY_RUNNING: u8 = 75;
    /// The configuration is invalid (`EX_CONFIG` of sysexits.h).
    pub const CONFIG: u8 = 78;
}
