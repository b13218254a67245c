//! Decides which of two frames of a host is newer, detects a second content under the same sequence number, and frames
//! whose number or time cannot be right.
//!
//! Frames are not signed, so any writer of the topic can claim any number and any time. A frame with a number that the
//! host cannot have reached yet, or a time that has not come yet, would hide all later frames of the host. Such a frame
//! is in doubt: archived, named by an alarm, and never the newest frame of a host that has another one.

use std::collections::VecDeque;

use edr_archive::{ArchivedFrame, SavedFrame};
use edr_wire::Epoch;
use edr_wire::frame::{FrameKey, LostRange};
use edr_wire::limits::INTERVAL_NS_MAX;

use super::Epochs;

/// Epochs remembered per host: a host begins an epoch with each boot, and each time its spool is unusable.
const EPOCHS_MAX: usize = 16;
/// Remembered frames per host, for telling a duplicate from a conflict. Older frames are compared only
/// in the archive.
const RECENT_MAX: usize = 16;
/// Silence, in ns; after a longer silence a frame of another epoch is newer in spite of an earlier clock.
const SILENCE_NS: i64 = 600_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
/// Interval of a host, in ns, before the first snapshot is opened.
const INTERVAL_NS_DEFAULT: i64 = 10 * SECOND_NS;
/// Highest sequence number of an epoch: a frame each second for 136 years.
const SEQ_MAX: u64 = 1 << 32;
/// Largest lead of a host's clock, in ns, that is believed without earlier frames.
const LEAD_NS_MAX: i64 = 86_400 * SECOND_NS;
/// Time, in ns, without a frame that is believed; after a longer time a host may have another lead.
const CLOCK_UNSEEN_NS: i64 = 3_600 * SECOND_NS;
/// A clock gains or loses less than one part in this number.
const DRIFT: i64 = 100;

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
    /// The frame is in doubt and not the newest.
    Doubtful(Doubt),
}

/// Why a frame is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The snapshot was taken later than the frame was received, by more than an interval.
    Early,
    /// The sequence number is higher than the host can have reached, and no declaration explains the numbers between.
    Jump,
    /// The epoch goes on below the highest number: two agents send, or a frame is forged.
    Below,
}

/// An epoch, with the latest frame received.
#[derive(Debug, Clone, Copy)]
struct EpochSeen {
    epoch: Epoch,
    highest: u64,
    /// Latest time of a snapshot, ns since the epoch, by the host's clock.
    captured_ns: i64,
    /// When the frame with the highest number was received, ns since the epoch.
    received_ns: i64,
}

/// The history of a host's frames.
#[derive(Debug)]
pub(super) struct Lineage {
    /// The epochs, least recently seen first.
    epochs: VecDeque<EpochSeen>,
    recent: VecDeque<FrameKey>,
    /// How far the host's clock is ahead of the collector's, in ns; at least 0.
    lead_ns: i64,
    /// When the newest frame was received, ns since the epoch.
    received_ns: i64,
    /// True when the host's newest frame is in doubt, because the host has no other.
    is_newest_doubtful: bool,
}

/// A complete frame with the data for a judgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) frame: &'a ArchivedFrame,
    /// When the frame was received, ns since the epoch.
    pub(super) received_ns: i64,
    /// Declarations of lost frames in the header.
    pub(super) lost: &'a [LostRange],
    /// Interval between two snapshots that the host claims, in ns; 0 when unknown.
    pub(super) interval_ns: u64,
    /// True when the account has the sequence number: the frame is read again.
    pub(super) is_archived: bool,
}

impl Arrival<'_> {
    /// Returns how far the host's clock is ahead of the collector's, in ns, when by more than an interval.
    pub(super) fn wrong_lead_ns(&self) -> Option<i64> {
        Some(self.lead_ns()).filter(|lead_ns| *lead_ns > self.interval_ns().max(INTERVAL_NS_DEFAULT))
    }

    /// Limits the interval to the intervals that an agent may have.
    fn interval_ns(&self) -> i64 {
        match i64::try_from(self.interval_ns.min(INTERVAL_NS_MAX)) {
            Ok(0) | Err(_) => INTERVAL_NS_DEFAULT,
            Ok(interval_ns) => interval_ns.max(SECOND_NS),
        }
    }

    fn lead_ns(&self) -> i64 {
        self.frame.captured_ns.saturating_sub(self.received_ns)
    }
}

impl Lineage {
    /// Begins the history of a host with the newest frame, and with the epochs seen before.
    pub(super) fn begin(newest: &SavedFrame, epochs: Epochs) -> Self {
        let (captured_ns, received_ns) = (newest.frame.captured_ns, newest.received_ns);
        let key = newest.frame.key;
        let seen = |(epoch, highest)| EpochSeen { epoch, highest, captured_ns, received_ns };
        let lead_ns = captured_ns.saturating_sub(received_ns).max(0);
        let mut lineage = Self {
            epochs: epochs.into_iter().take(EPOCHS_MAX).map(seen).collect(),
            recent: VecDeque::from([key]),
            lead_ns: if lead_ns <= LEAD_NS_MAX { lead_ns } else { 0 },
            received_ns,
            is_newest_doubtful: key.seq > SEQ_MAX || lead_ns > LEAD_NS_MAX,
        };
        lineage.see(key.epoch, key.seq, captured_ns, received_ns);
        lineage
    }

    pub(super) fn epochs(&self) -> Epochs {
        self.epochs.iter().map(|seen| (seen.epoch, seen.highest)).collect()
    }

    /// Judges a frame against the newest frame, and adds the frame to the history.
    pub(super) fn judge(&mut self, arrival: Arrival<'_>, newest: &SavedFrame) -> Judgement {
        let Arrival { frame, received_ns, .. } = arrival;
        if let Some(known) = self.recent.iter().find(|known| known.place() == frame.key.place()) {
            return if *known == frame.key { Judgement::Duplicate } else { Judgement::Conflict };
        }
        if let Some(doubt) = self.doubt(arrival) {
            return Judgement::Doubtful(doubt);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(frame.key);

        let is_newer = self.is_newest_doubtful || self.is_newer(arrival, newest);
        self.see(frame.key.epoch, frame.key.seq, frame.captured_ns, received_ns);
        if !is_newer {
            return Judgement::Older;
        }
        let drift_ns = if self.has_new_clock(arrival) {
            i64::MAX
        } else {
            received_ns.saturating_sub(self.received_ns).max(0) / DRIFT
        };
        let (least_ns, most_ns) = (self.lead_ns.saturating_sub(drift_ns), self.lead_ns.saturating_add(drift_ns));
        self.lead_ns = arrival.lead_ns().clamp(least_ns, most_ns).max(0);
        self.received_ns = received_ns;
        self.is_newest_doubtful = false;
        Judgement::Newer
    }

    /// Returns true for a frame that shows the host's clock again after a long time in which no frame was believed.
    fn has_new_clock(&self, arrival: Arrival<'_>) -> bool {
        let unseen_ns = arrival.received_ns.saturating_sub(self.received_ns);
        unseen_ns >= CLOCK_UNSEEN_NS && arrival.lead_ns() <= LEAD_NS_MAX
    }

    /// Returns why a frame is in doubt; `None` for a frame that may be right.
    pub(super) fn doubt(&self, arrival: Arrival<'_>) -> Option<Doubt> {
        let Arrival { frame, received_ns, lost, is_archived, .. } = arrival;
        let interval_ns = arrival.interval_ns();
        let believed_ns = self.lead_ns.saturating_add(interval_ns.max(INTERVAL_NS_DEFAULT));
        if arrival.lead_ns() > believed_ns && !self.has_new_clock(arrival) {
            return Some(Doubt::Early);
        }
        let (epoch, seq) = frame.key.place();
        if seq > SEQ_MAX {
            return Some(Doubt::Jump);
        }
        let seen = self.epochs.iter().find(|seen| seen.epoch == epoch)?;
        if seq <= seen.highest {
            // An earlier frame, delivered late, has an earlier time.
            return (seq < seen.highest && frame.captured_ns > seen.captured_ns && !is_archived)
                .then_some(Doubt::Below);
        }
        let declared = lost.iter().filter(|lost| lost.epoch == epoch).map(|lost| {
            let (first, last) = (lost.first_seq.max(seen.highest + 1), lost.last_seq.min(seq - 1));
            if first <= last { last - first + 1 } else { 0 }
        });
        let skipped = (seq - seen.highest - 1).saturating_sub(declared.fold(0, u64::saturating_add));
        let silence_ns = received_ns.saturating_sub(seen.received_ns);
        let elapsed_ns = frame.captured_ns.saturating_sub(seen.captured_ns).max(silence_ns).max(0);
        // The interval may be shorter since the last frame, or is not known yet.
        let is_known = arrival.interval_ns > 0 && silence_ns < SILENCE_NS;
        let shortest_ns = if is_known { interval_ns } else { SECOND_NS };
        let made = u64::try_from(elapsed_ns / shortest_ns).unwrap_or(0) + 1;
        (skipped > made).then_some(Doubt::Jump)
    }

    /// Within an epoch the sequence number decides. Between epochs the order of receipt is not enough, since frames
    /// from a spool arrive late. A frame of another epoch is newer under two conditions: the sequence number is the
    /// highest seen in that epoch, and either `previous_epoch` is the epoch of the newest frame, or the time by the
    /// host's clock is not earlier, or a long silence preceded the frame. A time in the future counts as the time of
    /// receipt.
    fn is_newer(&self, arrival: Arrival<'_>, newest: &SavedFrame) -> bool {
        let Arrival { frame, received_ns, .. } = arrival;
        let (epoch, seq) = frame.key.place();
        let (newest_epoch, newest_seq) = newest.frame.key.place();
        if epoch == newest_epoch {
            return seq > newest_seq;
        }
        let seen = self.epochs.iter().find(|seen| seen.epoch == epoch);
        if seen.is_some_and(|seen| seq <= seen.highest) {
            return false;
        }
        let interval_ns = arrival.interval_ns();
        let capped = |captured_ns: i64, received_ns: i64| captured_ns.min(received_ns.saturating_add(interval_ns));
        frame.previous_epoch == Some(newest_epoch)
            || capped(frame.captured_ns, received_ns) >= capped(newest.frame.captured_ns, newest.received_ns)
            || received_ns.saturating_sub(newest.received_ns) >= SILENCE_NS
    }

    fn see(&mut self, epoch: Epoch, seq: u64, captured_ns: i64, received_ns: i64) {
        let known = self.epochs.iter().position(|seen| seen.epoch == epoch).and_then(|at| self.epochs.remove(at));
        let mut seen = known.unwrap_or(EpochSeen { epoch, highest: seq, captured_ns, received_ns });
        if seq > seen.highest {
            (seen.highest, seen.received_ns) = (seq, received_ns);
        }
        seen.captured_ns = seen.captured_ns.max(captured_ns);
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.pop_front();
        }
        self.epochs.push_back(seen);
    }
}
