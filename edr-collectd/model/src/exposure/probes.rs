//! Finds the listeners that the scanned ports of psad's sources reach.

use std::collections::HashMap;

use edr_wire::snapshot::Psad;

use super::Exposure;
use super::listener::{Chain, Reach, Transport, address};

/// Listening sockets compared with all ranges of a snapshot.
const STEPS_MAX: usize = 4_000_000;

/// The sources of scans that reach a listener.
#[derive(Debug, Default)]
pub(super) struct ProbeTotals {
    /// Number of sources.
    pub(super) sources: u64,
    last: Option<usize>,
    /// Highest danger level of the sources.
    pub(super) danger_level: u8,
}

/// The sources of scans that reach each listener.
#[derive(Debug)]
pub(super) struct Probes {
    /// By the index of the listener.
    pub(super) of: HashMap<usize, ProbeTotals>,
    /// False when the limit of comparisons was reached.
    pub(super) whole: bool,
}

impl Probes {
    /// Adds a source to a listener; repeated calls count the source once.
    fn add(&mut self, listener: usize, source: usize, danger_level: u8) {
        let probed = self.of.entry(listener).or_default();
        if probed.last.replace(source) != Some(source) {
            probed.sources += 1;
        }
        probed.danger_level = probed.danger_level.max(danger_level);
    }
}

impl Exposure {
    /// Finds the listeners that the scanned ranges of all sources reach. Ports with a signature match are added to
    /// `scanned`.
    pub(super) fn probes(&self, psad: &Psad, scanned: &mut HashMap<(Transport, u16), Option<u64>>) -> Probes {
        let mut probes = Probes { of: HashMap::new(), whole: true };
        let mut steps = 0;
        for (number, source) in psad.sources.iter().enumerate() {
            for target in &source.targets {
                let to = address(&target.ip);
                let ranges = target.packets.iter().filter_map(|row| {
                    let (low, high) = (row.port_low?, row.port_high.or(row.port_low)?);
                    Some((Transport::of(&row.protocol)?, low, high, Chain::of(&row.chain)))
                });
                let matches =
                    target.signatures.iter().filter(|row| row.port != 0).filter_map(|row| {
                        Some((Transport::of(&row.protocol)?, row.port, row.port, Chain::of(&row.chain)))
                    });
                for (transport, low, high, chain) in ranges.chain(matches.clone()) {
                    if low > high {
                        continue;
                    }
                    for &at in self.by_port.range((transport, low)..=(transport, high)).flat_map(|(_, all)| all) {
                        steps += 1;
                        if steps > STEPS_MAX {
                            probes.whole = false;
                            return probes;
                        }
                        if self.reach(&self.listeners[at], to, chain) == Reach::Yes {
                            probes.add(at, number, source.danger_level);
                        }
                    }
                }
                for (transport, port, ..) in matches {
                    scanned.entry((transport, port)).or_insert(None);
                }
            }
        }
        probes
    }
}
