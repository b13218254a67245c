//! The account of a host: archived frames, frames and ticks declared lost or missed, and unexplained frames.
//!
//! For each epoch the sequence numbers from 1 to the highest known number are divided: archived, declared lost (by
//! reason), incomplete (some of the frame's parts are archived), and the rest, which is unexplained or has not arrived
//! yet. A number counts once, in the first of these classes that has the number: a frame that arrives is not lost,
//! whatever was declared. The highest known number comes from archived frames, from declarations, and from the next
//! epoch, which names the last number of the epoch before.
//!
//! An account is a set: adding the same record twice changes nothing, so a record may be read again after a restart.
//! Each archived number has the day of receipt, so that one day can be counted again, or can leave the account together
//! with the files of the day.
//!
//! Everything in an account is under the control of the host, and of every writer of the topic: the memory is bounded
//! by [`ENTRIES_MAX`]. An account above the limit drops the oldest entries and is never complete again.

mod epoch;
mod logs;
mod ranges;
mod summary;
#[cfg(test)]
mod tests;
mod ticks;

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, LostRange, MissedTicks, PreviousEpoch};
use serde::{Deserialize, Serialize};

use self::epoch::EpochAccount;
pub use self::logs::{CountedRecords, LogOffsets, records_by_day};
use self::ranges::Runs;
pub use self::summary::{BRIEF_LOSSES_MAX, Loss, LossKind, Summary};
use self::ticks::Boots;

/// Entries of one host: ranges of numbers, and missed ticks; about 60 bytes each. A host needs an entry for each day
/// and epoch, and for each hole.
pub const ENTRIES_MAX: usize = 1_024;
/// Epochs of one host. A host begins an epoch with each boot, and each time the spool is unusable.
const EPOCHS_MAX: usize = 64;

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

/// The account of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The epochs, oldest first.
    epochs: Vec<EpochAccount>,
    boots: Boots,
    /// True when entries were dropped for want of room.
    is_cut: bool,
    /// True when an epoch with archived frames has left the account, so that the account no longer has the first frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_left: bool,
}

impl Account {
    /// Adds an archived frame: all parts are archived. `day` is the day of receipt, `captured_ns` the time of the
    /// snapshot.
    pub fn frame(&mut self, epoch: Epoch, seq: u64, day: i32, captured_ns: i64, declared: &Declarations) {
        let at = self.epoch(epoch, None);
        self.epochs[at].archive(seq, day, captured_ns);
        self.declare(epoch, declared);
    }

    /// Adds an archived part of a frame.
    pub fn part(&mut self, epoch: Epoch, seq: u64, declared: &Declarations) {
        let at = self.epoch(epoch, None);
        self.epochs[at].part(seq);
        self.declare(epoch, declared);
    }

    /// Returns true when a frame is archived.
    pub fn has_frame(&self, epoch: Epoch, seq: u64) -> bool {
        self.position(epoch).is_some_and(|at| self.epochs[at].archived.contains(seq))
    }

    /// Sets the wall-clock time of a boot, ns since the epoch: the time to add to times since the boot. A boot without
    /// an archived frame is ignored.
    pub fn set_boot(&mut self, boot_id: &str, booted_ns: i64) {
        if self.epochs.iter().any(|epoch| epoch.boot_id == boot_id) {
            self.boots.set(boot_id, booted_ns);
        }
    }

    /// Removes the archived frames of a day, to count them again. The highest number stays known: the frame is missing
    /// if the archive no longer has the frame.
    pub fn uncount_day(&mut self, day: i32) {
        for epoch in &mut self.epochs {
            epoch.announce(epoch.archived.last());
            epoch.archived.remove_day(day);
        }
    }

    /// Removes a day that the archive no longer has: sequence numbers up to the last of the day leave the account.
    pub fn forget_day(&mut self, day: i32) {
        for epoch in &mut self.epochs {
            if let Some(highest) = epoch.archived.remove_day(day) {
                epoch.raise_floor(highest);
            }
        }
        // The first epoch with archived frames names the last number of the epoch before; so both epochs stay.
        let first = self.epochs.iter().position(|epoch| !epoch.archived.is_empty()).unwrap_or(self.epochs.len());
        self.has_left |= self.epochs.drain(..first.saturating_sub(1)).any(|epoch| epoch.floor > 0);
        let epochs = &self.epochs;
        self.boots.retain(|boot_id| epochs.iter().any(|epoch| !epoch.archived.is_empty() && epoch.boot_id == boot_id));
    }

    /// Adds everything in another account of the same host.
    pub fn merge(&mut self, other: &Self) {
        for (at, theirs) in other.epochs.iter().enumerate() {
            let after = other.epochs[at + 1..].iter().find(|after| self.position(after.epoch).is_some());
            let at = self.epoch(theirs.epoch, after.map(|after| after.epoch));
            self.epochs[at].merge(theirs);
        }
        self.boots.merge(&other.boots);
        self.is_cut |= other.is_cut;
        self.has_left |= other.has_left;
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> usize {
        self.epochs.iter().map(EpochAccount::entries).sum::<usize>() + self.boots.entries()
    }

    /// Drops the oldest entries until at most `entries_max` are left; entries of missed ticks are joined first.
    pub fn shrink(&mut self, entries_max: usize) {
        while self.epochs.len() > EPOCHS_MAX {
            self.epochs.remove(0);
            self.is_cut = true;
        }
        while self.entries() > entries_max {
            let most_are_ticks = self.boots.entries() > entries_max / 2;
            if most_are_ticks && self.boots.join() {
                continue;
            }
            self.is_cut = true;
            let dropped = !most_are_ticks && self.epochs.iter_mut().any(EpochAccount::drop_lowest);
            if !dropped && !self.boots.drop_oldest() {
                return;
            }
        }
    }

    /// Returns the classes of all frames and ticks, with all losses.
    pub fn summary(&self) -> Summary {
        summary::of(self, usize::MAX)
    }

    /// Returns the classes of all frames and ticks, with the newest [`BRIEF_LOSSES_MAX`] losses.
    pub fn brief_summary(&self) -> Summary {
        summary::of(self, BRIEF_LOSSES_MAX)
    }

    fn position(&self, epoch: Epoch) -> Option<usize> {
        self.epochs.iter().position(|known| known.epoch == epoch)
    }

    /// Returns the index of an epoch. A new epoch is inserted before `before`, or at the end.
    fn epoch(&mut self, epoch: Epoch, before: Option<Epoch>) -> usize {
        self.position(epoch).unwrap_or_else(|| {
            let at = before.and_then(|before| self.position(before)).unwrap_or(self.epochs.len());
            self.epochs.insert(at, EpochAccount::new(epoch));
            at
        })
    }

    /// Adds the declarations of a frame of `epoch`.
    fn declare(&mut self, epoch: Epoch, declared: &Declarations) {
        // The previous epoch of the oldest epoch was dropped for want of room.
        let is_oldest_of_cut = self.is_cut && self.epochs.first().is_some_and(|first| first.epoch == epoch);
        if let Some(at) = self.position(epoch) {
            self.epochs[at].boot_id.clone_from(&declared.boot_id);
        }
        if let Some(previous) = declared.previous_epoch
            && (!is_oldest_of_cut || self.position(previous.id).is_some())
        {
            let at = self.epoch(previous.id, Some(epoch));
            self.epochs[at].announce(previous.last_seq);
        }
        for lost in &declared.lost {
            if is_oldest_of_cut && self.position(lost.epoch).is_none() {
                continue;
            }
            let at = self.epoch(lost.epoch, Some(epoch));
            self.epochs[at].lose(lost);
        }
        self.boots.declare(&declared.boot_id, &declared.missed);
        if self.epochs.len() > EPOCHS_MAX {
            self.shrink(ENTRIES_MAX);
        }
    }
}
