//! *psad data*: psad's rankings, counters and sources, in psad's own order.

mod counters;
mod rankings;
mod sources;

use edr_wire::snapshot::Psad;

pub(super) use self::counters::{BlockedAddresses, PrefixCounters, ProtocolCounters};
pub(super) use self::rankings::{TopAttackers, TopPorts, TopSignatures};
pub(super) use self::sources::PsadSources;
use crate::snapshot::HostSnapshot;

/// Explanation of the rankings and counters.
const SINCE_START: &str = "Counted by psad since psad's start.";

/// Returns psad's part of the snapshot, and the number of undecodable parts.
fn decoded(snapshot: &HostSnapshot) -> (Psad, usize) {
    match snapshot.view.psad() {
        Ok(psad) => (psad, 0),
        Err(_) => (Psad::default(), 1),
    }
}
