//! Decides which of two frames of a host is newer, and detects a second content under the same sequence number.

use std::collections::VecDeque;

use edr_archive::{ArchivedFrame, SavedFrame};
use edr_wire::Epoch;
use edr_wire::frame::FrameKey;

use super::Epochs;

/// Epochs remembered per host: a host begins an epoch with each boot, and each time its spool is unusable.
const EPOCHS_MAX: usize = 16;
/// Remembered frames per host, for telling a duplicate from a conflict. Older frames are compared only
/// in the archive.
const RECENT_MAX: usize = 16;
/// Silence, in ns; after a longer silence a frame of another epoch is newer in spite of an earlier clock.
const SILENCE_NS: i64 = 600_000_000_000;

/// Relation of a frame to earlier frames of the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The frame is now the newest.
    Newer,
    /// The frame was taken before the newest frame.
    Older,
    /// The frame was received before.
    Duplicate,
    /// Another content was received before under the same sequence number.
    Conflict,
}

/// The history of a host's frames.
#[derive(Debug)]
pub(super) struct Lineage {
    /// Highest sequence number of each epoch, least recently seen first.
    epochs: VecDeque<(Epoch, u64)>,
    recent: VecDeque<FrameKey>,
}

impl Lineage {
    /// Begins the history of a host with the newest frame, and with the epochs seen before.
    pub(super) fn begin(newest: &FrameKey, epochs: Epochs) -> Self {
        let epochs = epochs.into_iter().take(EPOCHS_MAX).collect();
        let mut lineage = Self { epochs, recent: VecDeque::from([*newest]) };
        lineage.see(newest.epoch, newest.seq);
        lineage
    }

    pub(super) fn epochs(&self) -> Epochs {
        self.epochs.iter().copied().collect()
    }

    /// Judges a frame against the newest frame, and adds the frame to the history.
    pub(super) fn judge(&mut self, frame: &ArchivedFrame, received_ns: i64, newest: &SavedFrame) -> Judgement {
        if let Some(known) = self.recent.iter().find(|known| known.place() == frame.key.place()) {
            return if *known == frame.key { Judgement::Duplicate } else { Judgement::Conflict };
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(frame.key);

        let is_newer = self.is_newer(frame, received_ns, newest);
        self.see(frame.key.epoch, frame.key.seq);
        if is_newer { Judgement::Newer } else { Judgement::Older }
    }

    /// Within an epoch the sequence number decides. Between epochs the order of receipt is not enough, since frames
    /// from a spool arrive late. A frame of another epoch is newer under two conditions: the sequence number is the
    /// highest seen in that epoch, and either `previous_epoch` is the epoch of the newest frame, or the time by the
    /// host's clock is not earlier, or a long silence preceded the frame.
    fn is_newer(&self, frame: &ArchivedFrame, received_ns: i64, newest: &SavedFrame) -> bool {
        let (epoch, seq) = frame.key.place();
        let (newest_epoch, newest_seq) = newest.frame.key.place();
        if epoch == newest_epoch {
            return seq > newest_seq;
        }
        let seen = self.epochs.iter().find(|(known, _)| *known == epoch);
        if seen.is_some_and(|(_, highest)| seq <= *highest) {
            return false;
        }
        frame.previous_epoch == Some(newest_epoch)
            || frame.captured_ns >= newest.frame.captured_ns
            || received_ns.saturating_sub(newest.received_ns) >= SILENCE_NS
    }

    fn see(&mut self, epoch: Epoch, seq: u64) {
        let known = self.epochs.iter().position(|(known, _)| *known == epoch);
        let highest = known.and_then(|at| self.epochs.remove(at)).map_or(seq, |(_, highest)| highest.max(seq));
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.pop_front();
        }
        self.epochs.push_back((epoch, highest));
    }
}
