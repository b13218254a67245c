//! The result of one pass over all processes.

use edr_wire::snapshot::Rows;

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
    pub(super) inhabitants: Inhabitants,
    pub(super) access: DescriptorAccess,
}
