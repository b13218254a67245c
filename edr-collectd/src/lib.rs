//! `edr-collectd`
//!
//! Configuration files, log and service manager: crate `edr-daemon` (`edr_daemon::config::Keys`, `journal`, `limited!`,
//! `systemd::ServiceManager`, `exit`), shared with the agent. Nothing of that is written again here.
pub mod archive;
pub mod config;
pub mod decode;
pub mod newest;
pub mod query;
