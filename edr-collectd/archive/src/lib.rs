//! The archive: Delta tables in a local folder, with every received record, verbatim, and the location of each host's
//! newest frame.
//!
//! Promises:
//! - **`frames` has one row per Kafka record**, whatever the content: a part, a duplicate, or bytes that are not a
//!   frame (column `fault` then holds the reason). So the position can always advance, no record waits for a missing
//!   part, and a forged record that is sent first cannot suppress evidence.
//! - **The position moves in the commit of the data**, and of two writers of one partition one wins ([`delta`]).
//! - **The first content stays.** Later records hide no frame and replace no content, even if forged; a search finds
//!   all contents ([`read`]).
//! - **`hosts` is small** (one row per host) and derived: a start reads `hosts` and the rows of `frames` received
//!   later, never all of `frames`.
//!
//! The archive does not know Kafka: a position is a number given by the caller.

pub mod decode;
pub mod delta;
mod error;
mod location;
mod read;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::path::Path;

pub use delta::{Appended, Damage, DamagedFile, Upkeep};
pub use error::ArchiveError;
pub use location::{PartitionName, RecordPosition, day_of};
pub use read::{Candidates, FirstSnapshot, FoundFrame, Reader, SearchRank};
pub use tables::frames::Frames;
pub use tables::hosts::{Coverage, DoubtCount, HostsTable, SavedDoubts, SavedFacts, SavedFrame, SavedHost, SavedHosts};
pub use tables::record::ReceivedRecord;
pub use tables::rows::{ArchivedFrame, ArchivedPart, ArchivedRow};

/// Returns the upkeep of each table in an archive's folder.
pub fn upkeep(archive: &Path) -> Vec<Upkeep> {
    tables::ALL.into_iter().map(|storage| Upkeep::new(archive, storage)).collect()
}
