//! `edr-collectd`
pub mod query;
