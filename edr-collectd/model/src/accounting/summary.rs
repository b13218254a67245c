//! The classes of an account's frames and ticks, for readers.

use edr_wire::Epoch;

use super::Account;
use super::epoch::EpochAccount;
use super::ranges::{Range, width};
use super::ticks::Boot;
use crate::cell::time_text;

/// Losses in a brief summary, per host.
pub const BRIEF_LOSSES_MAX: usize = 4;

/// Why frames or ticks of a host are not in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossKind {
    /// Frames that the host declared lost.
    Lost,
    /// Ticks that the host declared missed.
    Missed,
    /// Frames of which some parts are archived.
    Incomplete,
    /// Frames that nothing explains, or that have not arrived yet.
    Unexplained,
    /// Frames before the first archived frame of the host.
    BeforeFirst,
}

impl LossKind {
    /// Returns the name in JSON, CSV and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Missed => "missed",
            Self::Incomplete => "incomplete",
            Self::Unexplained => "unexplained",
            Self::BeforeFirst => "before_first",
        }
    }

    /// Returns the meaning, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Lost => "declared lost by the host",
            Self::Missed => "ticks without a frame, declared by the host",
            Self::Incomplete => "only some parts are archived",
            Self::Unexplained => "unexplained, or not yet arrived",
            Self::BeforeFirst => "before the first archived frame of the host",
        }
    }
}

/// Consecutive frames or ticks that are not in the archive, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The class.
    pub kind: LossKind,
    /// The reason declared by the host; empty for classes without a declaration.
    pub reason: String,
    /// Number of frames or ticks.
    pub count: u64,
    /// Epoch of the frames.
    pub epoch: Option<Epoch>,
    /// First and last sequence number of the frames.
    pub seqs: Option<(u64, u64)>,
    /// Start, ns since the epoch: for frames the snapshot of the archived frame before, for ticks the due time of the
    /// first tick. `None` when unknown.
    pub from_ns: Option<i64>,
    /// End, ns since the epoch: for frames the snapshot of the archived frame after, for ticks the due time of the last
    /// tick. `None` when unknown.
    pub to_ns: Option<i64>,
    /// Boot of the ticks, or of the epoch's last archived frame.
    pub boot_id: String,
    /// Due times of the first and the last tick, ns since the boot.
    pub boottimes_ns: Option<(u64, u64)>,
}

impl Loss {
    /// Returns the loss as a line of text. The reason is text of the host.
    pub fn text(&self) -> String {
        let mut text = match (self.kind, self.seqs) {
            (LossKind::Missed, _) => format!("missed: {} {}", self.count, plural(self.count, "tick")),
            (kind, None) => format!("{}: {} {}", kind.name(), self.count, plural(self.count, "frame")),
            (kind, Some((first, last))) => {
                let seqs = if first == last { format!("seq {first}") } else { format!("seq {first} to {last}") };
                let epoch = self.epoch.map(|epoch| format!(" of epoch {epoch}")).unwrap_or_default();
                format!("{}: {} {}, {seqs}{epoch}", kind.name(), self.count, plural(self.count, "frame"))
            }
        };
        match self.kind {
            LossKind::Lost | LossKind::Missed => text.push_str(&format!(", reason {}", self.reason)),
            kind => text.push_str(&format!(", {}", kind.meaning())),
        }
        match (self.from_ns, self.to_ns) {
            (Some(from), Some(to)) => text.push_str(&format!(", {} to {} UTC", time_text(from), time_text(to))),
            (Some(from), None) => text.push_str(&format!(", after {} UTC", time_text(from))),
            (None, Some(to)) => text.push_str(&format!(", before {} UTC", time_text(to))),
            (None, None) => {
                if let Some((from, to)) = self.boottimes_ns {
                    let second = |ns: u64| ns / 1_000_000_000;
                    text.push_str(&format!(
                        ", {} s to {} s after the start of boot {}",
                        second(from),
                        second(to),
                        self.boot_id
                    ));
                }
            }
        }
        text
    }
}

/// The account of a host for readers: numbers, and a line for each loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Archived frames.
    pub archived: u64,
    /// Frames declared lost.
    pub lost: u64,
    /// Ticks declared missed.
    pub missed: u64,
    /// Incomplete frames.
    pub incomplete: u64,
    /// Unexplained frames.
    pub unexplained: u64,
    /// Frames before the first archived frame.
    pub before_first: u64,
    /// Time of the first archived snapshot, ns since the epoch, by the host's clock.
    pub since_ns: Option<i64>,
    /// The newest epoch, and the highest known sequence number there.
    pub last: Option<(Epoch, u64)>,
    /// True when old entries were dropped for want of room.
    pub is_cut: bool,
    /// The newest losses, newest first; all losses unless the summary is brief.
    pub losses: Vec<Loss>,
    /// Number of all losses.
    pub loss_count: usize,
}

impl Summary {
    /// Returns true when no number is missing and nothing was declared.
    pub fn is_complete(&self) -> bool {
        self.loss_count == 0 && !self.is_cut && self.archived > 0
    }

    /// Returns the number of missing frames and ticks.
    pub fn missing(&self) -> u64 {
        [self.lost, self.missed, self.incomplete, self.unexplained, self.before_first]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Returns the numbers in a few words; `complete` when nothing is missing.
    pub fn brief(&self) -> String {
        if self.is_complete() {
            return "complete".to_owned();
        }
        let counts = [
            (self.unexplained, "unexplained"),
            (self.lost, "lost"),
            (self.incomplete, "incomplete"),
            (self.missed, if self.missed == 1 { "tick missed" } else { "ticks missed" }),
            (self.before_first, "before the first"),
        ];
        let mut words: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if self.is_cut {
            words.push("older ones not counted".to_owned());
        }
        if words.is_empty() { "nothing counted yet".to_owned() } else { words.join(", ") }
    }

    /// Returns a line for each loss, newest first, at most `lines_max` lines and a last line with the number of
    /// further losses.
    pub fn lines(&self, lines_max: usize) -> Vec<String> {
        let mut lines: Vec<String> = self.losses.iter().take(lines_max).map(Loss::text).collect();
        let others = self.loss_count.saturating_sub(lines.len());
        if others > 0 {
            lines.push(format!("{others} more losses"));
        }
        lines
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// Returns the summary of an account with the newest `losses_max` losses.
pub(super) fn of(account: &Account, losses_max: usize) -> Summary {
    let mut summary = Summary { is_cut: account.is_cut, ..Summary::default() };
    // The first epoch with an archived frame, and the number of epochs that never lost archived frames to the retention
    // before the first epoch that did: only there can a number be before the first archived frame of the host.
    let first = account.epochs.iter().position(|epoch| !epoch.archived.is_empty());
    let has_beginning = !account.is_cut && !account.has_left;
    let whole = account.epochs.iter().take_while(|epoch| has_beginning && epoch.floor == 0).count();
    for (at, epoch) in account.epochs.iter().enumerate().rev() {
        let before_first = match first.filter(|_| at < whole) {
            Some(first) if at < first => u64::MAX,
            Some(first) if at == first => epoch.archived.as_slice().first().map_or(0, |run| run.first),
            _ => 0,
        };
        add_epoch(&mut summary, epoch, before_first, losses_max);
    }
    account.boots.iter().rev().for_each(|boot| add_boot(&mut summary, boot, losses_max));
    summary
}

impl Summary {
    /// Counts a loss, and keeps the loss while fewer than `losses_max` are kept.
    fn lose(&mut self, losses_max: usize, loss: impl FnOnce() -> Loss) {
        self.loss_count += 1;
        if self.losses.len() < losses_max {
            self.losses.push(loss());
        }
    }
}

/// Adds an epoch that is older than all epochs added before. Unexplained numbers below `before_first` are before the
/// first archived frame of the host.
fn add_epoch(summary: &mut Summary, epoch: &EpochAccount, before_first: u64, losses_max: usize) {
    for run in epoch.archived.as_slice() {
        summary.archived = summary.archived.saturating_add(width((run.first, run.last)));
        summary.since_ns = Some(summary.since_ns.map_or(run.first_ns, |since| since.min(run.first_ns)));
    }
    if epoch.highest() > 0 && summary.last.is_none() {
        summary.last = Some((epoch.epoch, epoch.highest()));
    }
    let holes = epoch.holes();
    let lost = holes
        .lost
        .iter()
        .flat_map(|(reason, ranges)| ranges.iter().map(|range| (LossKind::Lost, reason.as_str(), *range)));
    let incomplete = holes.incomplete.iter().map(|range| (LossKind::Incomplete, "", *range));
    let unexplained = holes.unexplained.iter().map(|range| {
        let kind = if range.1 < before_first { LossKind::BeforeFirst } else { LossKind::Unexplained };
        (kind, "", *range)
    });
    let mut found: Vec<(LossKind, &str, Range)> = lost.chain(incomplete).chain(unexplained).collect();
    found.sort_by_key(|(_, _, range)| std::cmp::Reverse(*range));
    for (kind, reason, range) in found {
        let count = width(range);
        let sum = match kind {
            LossKind::Lost => &mut summary.lost,
            LossKind::Incomplete => &mut summary.incomplete,
            LossKind::BeforeFirst => &mut summary.before_first,
            LossKind::Unexplained | LossKind::Missed => &mut summary.unexplained,
        };
        *sum = sum.saturating_add(count);
        summary.lose(losses_max, || {
            let (from_ns, to_ns) = epoch.archived.around(range);
            Loss {
                kind,
                reason: reason.to_owned(),
                count,
                epoch: Some(epoch.epoch),
                seqs: Some(range),
                from_ns,
                to_ns,
                boot_id: epoch.boot_id.clone(),
                boottimes_ns: None,
            }
        });
    }
}

/// Adds the missed ticks of a boot that is older than all boots added before.
fn add_boot(summary: &mut Summary, boot: &Boot, losses_max: usize) {
    for missed in boot.missed.iter().rev() {
        summary.missed = summary.missed.saturating_add(missed.ticks);
        let at = |boottime_ns: u64| boot.booted_ns?.checked_add(i64::try_from(boottime_ns).ok()?);
        summary.lose(losses_max, || Loss {
            kind: LossKind::Missed,
            reason: missed.reason.clone(),
            count: missed.ticks,
            epoch: None,
            seqs: None,
            from_ns: at(missed.from_boottime_ns),
            to_ns: at(missed.to_boottime_ns),
            boot_id: boot.boot_id.clone(),
            boottimes_ns: Some((missed.from_boottime_ns, missed.to_boottime_ns)),
        });
    }
}
