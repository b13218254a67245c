//! Decides which of two frames of a host is newer, and detects a second content under the same sequence number.

use std::collections::VecDeque;

use edr_wire::Epoch;

use super::Epochs;
use crate::archive::{ArchivedHeader, SavedFrame};

/// Epochs remembered per host: a host begins an epoch with each boot, and each time its spool is unusable.
const EPOCHS_MAX: usize = 16;
/// Frames per host with a remembered content, for telling a duplicate from a conflict. Older frames are compared only
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
#[derive(Debug, Default)]
pub(super) struct Lineage {
    newest: Option<Place>,
    /// Highest sequence number of each epoch, least recently seen first.
    epochs: VecDeque<(Epoch, u64)>,
    recent: VecDeque<(Epoch, u64, [u8; 16])>,
}

#[derive(Debug)]
struct Place {
    epoch: Epoch,
    seq: u64,
    captured_ns: i64,
    received_ns: i64,
}

impl Lineage {
    pub(super) fn restore(newest: &SavedFrame, epochs: Epochs) -> Self {
        Self {
            newest: Some(Place {
                epoch: newest.epoch,
                seq: newest.seq,
                captured_ns: newest.captured_ns,
                received_ns: newest.received_ns,
            }),
            epochs: epochs.into_iter().take(EPOCHS_MAX).collect(),
            recent: VecDeque::from([(newest.epoch, newest.seq, newest.raw_hash)]),
        }
    }

    pub(super) fn epochs(&self) -> Epochs {
        self.epochs.iter().copied().collect()
    }

    /// Judges a frame and adds the frame to the history.
    pub(super) fn judge(&mut self, frame: &ArchivedHeader, received_ns: i64) -> Judgement {
        let hash = short(&frame.raw_hash);
        let known = self.recent.iter().find(|(epoch, seq, _)| (*epoch, *seq) == (frame.epoch, frame.seq));
        if let Some((_, _, known)) = known {
            return if *known == hash { Judgement::Duplicate } else { Judgement::Conflict };
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((frame.epoch, frame.seq, hash));

        let is_newer = self.is_newer(frame, received_ns);
        self.see(frame.epoch, frame.seq);
        if !is_newer {
            return Judgement::Older;
        }
        self.newest = Some(Place { epoch: frame.epoch, seq: frame.seq, captured_ns: frame.captured_ns, received_ns });
        Judgement::Newer
    }

    /// Within an epoch the sequence number decides. Between epochs the order of receipt is not enough, since frames
    /// from a spool arrive late. A frame of another epoch is newer under two conditions: the sequence number is the
    /// highest seen in that epoch, and either `previous_epoch` is the epoch of the newest frame, or the time by the
    /// host's clock is not earlier, or a long silence preceded the frame.
    fn is_newer(&self, frame: &ArchivedHeader, received_ns: i64) -> bool {
        let Some(newest) = &self.newest else { return true };
        if frame.epoch == newest.epoch {
            return frame.seq > newest.seq;
        }
        let seen = self.epochs.iter().find(|(epoch, _)| *epoch == frame.epoch);
        if seen.is_some_and(|(_, highest)| frame.seq <= *highest) {
            return false;
        }
        frame.previous_epoch == Some(newest.epoch)
            || frame.captured_ns >= newest.captured_ns
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

/// Returns half of a hash: enough to distinguish contents, in half of the memory.
pub(super) fn short(hash: &[u8; 32]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}
