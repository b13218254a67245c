//! psad's files and the packets it works on. (skeleton: the signature is fixed)
use std::path::PathBuf;

use edr_wire::snapshot::{Packet, Position, Psad};

use super::Gaps;

/// Where psad is.
#[derive(Debug, Clone, Default)]
pub struct PsadSettings {
    /// psad's folder; `None`: as `/etc/psad/psad.conf` says, else `/var/log/psad`.
    pub psad_dir: Option<PathBuf>,
    /// The log with the packets; `None`: as psad's configuration says.
    pub packet_log: Option<PathBuf>,
    /// `/proc`.
    pub proc_root: PathBuf,
}

/// What one tick read.
#[derive(Debug, Default)]
pub struct PsadReading {
    /// psad's state.
    pub psad: Psad,
    /// Firewall log lines since the last reading.
    pub packets: Vec<Packet>,
    /// How far the logs are read, including these lines.
    pub positions: Vec<Position>,
}

/// Watches psad's folder and tails the packet log.
#[derive(Debug)]
pub struct PsadReader {}

impl PsadReader {
    /// Starts from `positions` (those of the newest frame in the spool).
    pub fn open(_settings: PsadSettings, _positions: &[Position]) -> Self {
        Self {}
    }

    /// What changed since the last reading, and psad's whole state.
    pub fn read(&mut self, _gaps: &mut Gaps) -> PsadReading {
        PsadReading::default()
    }
}
