//! `edr-agentd`
//!
//! Configuration files, log and service manager: crate `edr-daemon` (`edr_daemon::config::Keys`, `journal`, `limited!`,
//! `systemd::ServiceManager`, `exit`), shared with the collector. Nothing of that is written again here.
pub mod collect;
pub mod errno;
