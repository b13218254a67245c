//! The usual size of frames, and frames far above.
//!
//! Whoever makes each frame large shortens the time that fits the spool. No single process has to be at fault, so the
//! size is said as a fact about the host.

use std::collections::VecDeque;

use edr_wire::frame::FrameKind;

/// A frame of this many usual sizes is named.
const FACTOR: usize = 10;

/// Smaller frames are never named: a spool of the default size holds 16,000 of them.
const BYTES_MIN: usize = 32 << 10;

/// Frames of each kind whose sizes are kept: an hour of deltas.
const FRAMES_MAX: usize = 360;

/// Deltas before a size counts as usual.
const DELTAS_MIN: usize = 5;

/// Keys before a size counts as usual: a key comes once an hour, or early because of a large change.
const KEYS_MIN: usize = 1;

/// Sizes of the latest frames.
#[derive(Debug, Default)]
pub(super) struct UsualSizes {
    keys: VecDeque<usize>,
    deltas: VecDeque<usize>,
}

impl UsualSizes {
    /// Notes a frame of `bytes`. Returns the usual size in bytes, if the frame has ten times that size or more.
    pub(super) fn note(&mut self, kind: FrameKind, bytes: usize) -> Option<usize> {
        let (sizes, frames_min) = match kind {
            FrameKind::Key => (&mut self.keys, KEYS_MIN),
            FrameKind::Delta => (&mut self.deltas, DELTAS_MIN),
        };
        let usual = (sizes.len() >= frames_min).then(|| median(sizes)).flatten();
        if sizes.len() == FRAMES_MAX {
            sizes.pop_front();
        }
        sizes.push_back(bytes);
        usual.filter(|usual| bytes >= BYTES_MIN && bytes / FACTOR >= *usual)
    }
}

/// The median: large frames count as usual only when they are half of all.
fn median(sizes: &VecDeque<usize>) -> Option<usize> {
    let mut sorted: Vec<usize> = sizes.iter().copied().collect();
    let middle = sorted.len() / 2;
    (!sorted.is_empty()).then(|| *sorted.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_ten_usual_sizes_of_its_kind_is_named() {
        let mut sizes = UsualSizes::default();
        assert_eq!(sizes.note(FrameKind::Delta, 5_000_000), None, "nothing is usual yet");
        (0..10).for_each(|_| assert_eq!(sizes.note(FrameKind::Delta, 5_000), None));
        (0..10).for_each(|_| assert_eq!(sizes.note(FrameKind::Key, 100_000), None, "a key is larger than deltas"));
        assert_eq!(sizes.note(FrameKind::Delta, 49_999), None);
        assert_eq!(sizes.note(FrameKind::Delta, 50_000), Some(5_000));
        assert_eq!(sizes.note(FrameKind::Key, 1_000_000), Some(100_000));
        // The second key of a host.
        let mut young = UsualSizes::default();
        assert_eq!(young.note(FrameKind::Key, 20_000), None);
        assert_eq!(young.note(FrameKind::Key, 3_000_000), Some(20_000));
        // An idle host.
        let mut idle = UsualSizes::default();
        (0..10).for_each(|_| assert_eq!(idle.note(FrameKind::Delta, 300), None));
        assert_eq!((idle.note(FrameKind::Delta, 3_000), idle.note(FrameKind::Delta, 32 << 10)), (None, Some(300)));
    }

    #[test]
    fn large_frames_are_named_for_as_long_as_they_are_fewer_than_usual_ones() {
        let mut sizes = UsualSizes::default();
        (0..1_000).for_each(|_| assert_eq!(sizes.note(FrameKind::Delta, 5_000), None));
        let named = (0..1_000).filter(|_| sizes.note(FrameKind::Delta, 5_000_000).is_some()).count();
        assert!((FRAMES_MAX / 2..=FRAMES_MAX / 2 + 1).contains(&named), "{named}");
        assert_eq!(sizes.deltas.len(), FRAMES_MAX);
    }
}
