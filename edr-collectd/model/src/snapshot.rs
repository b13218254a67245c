//! An opened snapshot of a host, and a host in the list of hosts.

use std::sync::{Arc, OnceLock};

use edr_wire::snapshot::SnapshotView;
use edr_wire::{Epoch, HostId};

use crate::accounting::Summary;
use crate::exposure::Exposure;

/// A host in the list of hosts.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Identity.
    pub host_id: HostId,
    /// Name.
    pub hostname: String,
    /// The host that had the name first, when this host has it since later.
    pub name_of: Option<HostId>,
    /// Operating system.
    pub os: String,
    /// When the newest snapshot was taken, ns since the epoch, by the host's clock.
    pub captured_ns: i64,
    /// When the collector received the newest snapshot, ns since the epoch.
    pub received_ns: i64,
    /// Interval between two snapshots, ns.
    pub interval_ns: u64,
    /// Sequence number of the newest snapshot.
    pub seq: u64,
    /// Number of processes.
    pub processes: usize,
    /// Number of open files.
    pub files: usize,
    /// Number of sockets.
    pub sockets: usize,
    /// Highest danger level of any attacker, 0 for none.
    pub danger_level: u8,
    /// psad's mode and state, as `mode/state`.
    pub psad: String,
    /// Reasons why the agent's data is incomplete.
    pub degraded: Vec<String>,
    /// Problems with the host's frames: contradictory contents, or an unreadable snapshot.
    pub alarms: Vec<String>,
    /// True when the agent stopped cleanly after its last frame.
    pub bye: bool,
    /// The archived and missing frames of the retained time, in brief.
    pub account: Arc<Summary>,
}

/// Archived frames that the list of hosts leaves out, since the start of the collector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OmittedFrames {
    /// Frames of hosts beyond the limit of the list.
    pub unlisted_frames: u64,
    /// Frames of new hosts beyond the limit of new hosts a minute.
    pub refused_frames: u64,
    /// Hosts that left the list: seen for a short time only, and then silent for a day.
    pub aged_hosts: u64,
    /// Frames given up because some parts did not arrive.
    pub abandoned_frames: u64,
    /// A sentence for each data file of the archive that cannot be read.
    pub damaged_files: Vec<String>,
}

/// Damaged files of the archive that are named; further files are counted.
const DAMAGED_FILES_MAX: usize = 8;

impl OmittedFrames {
    /// Returns a sentence for each number that is not 0, and for the first damaged files.
    pub fn sentences(&self) -> Vec<String> {
        let counts = [
            (self.unlisted_frames, "frames of hosts beyond the limit of the list"),
            (self.refused_frames, "frames of new hosts beyond the limit of new hosts a minute"),
            (self.abandoned_frames, "frames given up because some parts did not arrive"),
            (self.aged_hosts, "hosts that were seen for a short time, and then silent for a day"),
        ];
        let counted = counts.iter().filter(|(count, _)| *count > 0);
        let mut sentences: Vec<String> = counted.map(|(count, what)| format!("{count} {what}")).collect();
        sentences.extend(self.damaged_files.iter().take(DAMAGED_FILES_MAX).cloned());
        if let Some(more) = self.damaged_files.len().checked_sub(DAMAGED_FILES_MAX).filter(|more| *more > 0) {
            sentences.push(format!("rows of {more} more files that cannot be read are missing"));
        }
        sentences
    }
}

/// A snapshot of a host, with values of the frame. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HostSnapshot {
    /// Identity.
    pub host_id: HostId,
    /// Epoch of the frame.
    pub epoch: Epoch,
    /// Sequence number of the frame.
    pub seq: u64,
    /// When the snapshot was taken, ns since the epoch.
    pub captured_ns: i64,
    /// When the collector received the frame, ns since the epoch.
    pub received_ns: i64,
    /// The snapshot.
    pub view: Arc<SnapshotView>,
    /// Problems with this snapshot: the frame was received with other contents too, or the content names another host.
    pub alarms: Vec<String>,
    /// The scanned ports and attackers, joined with the snapshot's sockets.
    pub joined: Arc<Joined>,
    /// The archived and missing frames of the host, in the whole retained time.
    pub account: Arc<Summary>,
}

/// A join for several tables of a snapshot, computed at the first use.
#[derive(Debug, Default)]
pub struct Joined(OnceLock<Exposure>);

impl HostSnapshot {
    /// Returns the join of scanned ports and attackers with the snapshot's sockets.
    pub fn exposure(&self) -> &Exposure {
        self.joined.0.get_or_init(|| Exposure::of(&self.view))
    }
}
