//! Thinning: each span of time keeps a single frame, with the key needed to read the frame.

use std::time::Duration;

use edr_wire::frame::FrameKind;

use super::FrameId;
use super::books::FrameEntry;

/// Spans of time of which one frame stays when the spool is full. The second span is used when the first span gains no
/// more room; only then are frames dropped whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinning {
    /// The spans, shortest first.
    pub steps: [Duration; 2],
}

impl Default for Thinning {
    fn default() -> Self {
        Self { steps: [Duration::from_secs(60), Duration::from_secs(600)] }
    }
}

/// Divides the frames of an epoch, in the order of their making, into slots: neighbours whose times are in the same
/// span of `step_ns`. A clock that was set back begins another slot.
pub(super) fn slots<'a>(
    frames: &'a [(FrameId, &'a FrameEntry)],
    step_ns: i64,
) -> impl Iterator<Item = &'a [(FrameId, &'a FrameEntry)]> {
    let span = move |entry: &FrameEntry| entry.captured_ns.div_euclid(step_ns);
    frames.chunk_by(move |(_, a), (_, b)| span(a) == span(b)).filter(|slot| slot.len() > 1)
}

/// The frames of a slot that can go: all but the last key; without a key, all but the last delta.
///
/// No frame that stays loses its key. A delta stays only in a slot without a key, so its key is in an earlier slot. A
/// delta needs the last key before, so its key is the last key of that slot, and stays.
pub(super) fn spare<'a>(slot: &'a [(FrameId, &'a FrameEntry)]) -> impl Iterator<Item = &'a (FrameId, &'a FrameEntry)> {
    let last_key = slot.iter().rposition(|(_, entry)| entry.kind == Some(FrameKind::Key));
    let stays = last_key.unwrap_or(slot.len().saturating_sub(1));
    slot.iter().enumerate().filter(move |(at, _)| *at != stays).map(|(_, frame)| frame)
}
