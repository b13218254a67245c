//! The account of a host: which frames are archived, which frames and ticks the host declared lost or missed, and which
//! frames nothing explains.

use edr_wire::frame::{FrameHeader, LostRange, MissedTicks, PreviousEpoch};

/// Declarations in the header of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declarations {
    /// The boot of the frame's snapshot.
    pub boot_id: String,
    /// The previous epoch, when the host knows it.
    pub previous_epoch: Option<PreviousEpoch>,
    /// Frames that were made but will never arrive.
    pub lost: Vec<LostRange>,
    /// Ticks without a frame, with times since the boot.
    pub missed: Vec<MissedTicks>,
}

impl Declarations {
    /// Returns the declarations of a header.
    pub fn of(header: &FrameHeader) -> Self {
        Self {
            boot_id: header.boot_id.clone(),
            previous_epoch: header.previous_epoch,
            lost: header.lost.clone(),
            missed: header.missed.clone(),
        }
    }

    /// Returns the approximate memory of the declarations on the heap, in bytes.
    pub fn byte_len(&self) -> usize {
        let lost: usize = self.lost.iter().map(|lost| size_of::<LostRange>() + lost.reason.len()).sum();
        let missed: usize = self.missed.iter().map(|missed| size_of::<MissedTicks>() + missed.reason.len()).sum();
        self.boot_id.len() + lost + missed
    }
}
