//! The result of one pass over all processes.

use edr_wire::snapshot::{GapReason, Rows};

use super::super::previous::ProcessRecord;
use crate::common::{DescriptorAccess, GapCollector, Inhabitants};

/// The rows and gaps of one pass over all processes.
#[derive(Debug, Default)]
pub(super) struct PassResult {
    pub(super) rows: Rows,
    pub(super) gaps: GapCollector,
    pub(super) processes: Vec<ProcessRecord>,
    pub(super) out_of_turn: Vec<u32>,
    pub(super) carried: u64,
    /// Rows without their files, for want of room.
    pub(super) short: u64,
    /// Processes without a row, for want of room.
    pub(super) unlisted: u64,
    pub(super) inhabitants: Inhabitants,
    pub(super) access: DescriptorAccess,
}

impl PassResult {
    /// Records the rows without files, and the processes without a row, for want of room.
    pub(super) fn record_short_rows(&mut self) {
        for (source, field, count, what) in [
            ("files", b"files".as_slice(), self.short, "rows list no files"),
            ("processes", b"", self.unlisted, "processes without a row"),
        ] {
            if count > 0 {
                let detail = format!("{count} {what}: no room in the snapshot");
                self.gaps.add(source, None, field, GapReason::TooLong, &detail);
            }
        }
    }
}
