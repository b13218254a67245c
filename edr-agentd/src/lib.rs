//! `edr-agentd`
pub mod collect;
pub mod errno;
