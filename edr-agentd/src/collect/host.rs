//! Host facts and time. (skeleton: the signature is fixed)
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use edr_wire::snapshot::{Host, Time};

use super::Gaps;

/// Reads facts about the host.
#[derive(Debug)]
pub struct HostReader {}

impl HostReader {
    /// Reads what never changes while the host runs.
    ///
    /// # Errors
    /// When there is no machine id or no boot id, without which a host has no identity.
    pub fn open(_proc_root: &Path, _labels: BTreeMap<String, String>) -> io::Result<Self> {
        Ok(Self {})
    }

    /// The facts of this tick.
    pub fn read(&mut self, _gaps: &mut Gaps) -> Host {
        Host::default()
    }

    /// The time, now.
    pub fn time(&self) -> Time {
        Time::default()
    }
}
