//! Counts frames in doubt, and names them in alarms.

use edr_archive::{ArchivedFrame, DoubtCount, SavedDoubts};
use edr_model::time_text;
use edr_wire::Epoch;

use super::order::Doubt;

/// Maximum number of remembered frames in doubt, per host and reason.
const FRAMES_MAX: usize = 16;

/// Adds a frame to the doubts of its host. Returns false for a frame that was added before.
pub(super) fn add(doubts: &mut SavedDoubts, doubt: Doubt, frame: &ArchivedFrame) -> bool {
    if frames(doubts).any(|known| known.key == frame.key) {
        return false;
    }
    let counted = match doubt {
        Doubt::Early => &mut doubts.early,
        Doubt::Jump => &mut doubts.jumps,
        Doubt::Below => &mut doubts.below,
    };
    if counted.frames.len() >= FRAMES_MAX {
        counted.frames.remove(0);
    }
    counted.frames.push(*frame);
    counted.count = counted.count.saturating_add(1);
    true
}

fn frames(doubts: &SavedDoubts) -> impl Iterator<Item = &ArchivedFrame> {
    [&doubts.early, &doubts.jumps, &doubts.below].into_iter().flat_map(|counted| &counted.frames)
}

/// Returns the alarms about the frames in doubt.
pub(super) fn alarms(doubts: &SavedDoubts) -> impl Iterator<Item = String> {
    let alarm = |counted: &DoubtCount, what: &str, end: &str| {
        let last = counted.frames.last()?;
        let (epoch, seq) = last.key.place();
        let captured = time_text(last.captured_ns);
        let count = counted.count;
        Some(format!("{what}: {count}, the last one seq {seq} of epoch {epoch}, captured {captured} UTC; {end}"))
    };
    let not_newest = "archived, and not shown as the newest";
    [
        alarm(&doubts.early, "frames captured later than they were received", not_newest),
        alarm(&doubts.jumps, "frames with a number that the host cannot have reached", not_newest),
        alarm(
            &doubts.below,
            "frames of an epoch that goes on below its newest number",
            "two agents send as this host, or one of the frames is forged",
        ),
    ]
    .into_iter()
    .flatten()
}

/// Returns the alarm of a frame in doubt, for its own page.
pub(super) fn alarm_of(doubts: &SavedDoubts, (epoch, seq): (Epoch, u64)) -> Option<String> {
    frames(doubts)
        .any(|frame| frame.key.place() == (epoch, seq))
        .then(|| format!("frame {seq} of epoch {epoch} is in doubt: its number or its time cannot be right"))
}

/// Returns true when a frame claims a time after `after_ns`, not after `at_ns`, that had not come at its receipt.
pub(super) fn has_early(doubts: &SavedDoubts, after_ns: i64, at_ns: i64) -> bool {
    doubts.early.frames.iter().any(|frame| after_ns < frame.captured_ns && frame.captured_ns <= at_ns)
}
