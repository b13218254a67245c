//! What `edr-agentd` and `edr-collectd` do the same way as daemons, and would otherwise both write: read their
//! configuration files and report every problem at once ([`config`]), keep secrets ([`secret`]), have
//! a state folder that one user owns ([`state_dir`]), know how Kafka wants to be
//! spoken to and what its refusals mean ([`kafka`]), log ([`journal`]), talk to the service manager ([`systemd`]), say what was
//! found before a start ([`preflight`]), and let a
//! shell complete their commands ([`completions()`]).
//!
//! Nothing of what the daemons are for is here: no snapshot, no Kafka client, no archive.

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
    /// The command could not do what it was asked for.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// Another instance runs (`EX_TEMPFAIL` of sysexits.h).
    pub const ALREADY_RUNNING: u8 = 75;
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h).
    pub const CONFIG: u8 = 78;
}
