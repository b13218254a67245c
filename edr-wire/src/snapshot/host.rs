//! The host, the agent, and the time of the snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Epoch, HostId, ProcessKey};

/// Facts about the host. ECS: `host.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// See [`HostId`].
    pub host_id: HostId,
    /// `gethostname(2)`.
    pub hostname: String,
    /// `PRETTY_NAME` of `/etc/os-release` (os-release(5)).
    pub os: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub arch: String,
    /// `/proc/sys/kernel/random/boot_id`: a UUID, new at each boot.
    pub boot_id: String,
    /// Wall-clock time of the boot, ns since the epoch, from `btime` of `/proc/stat` (whole seconds). For display only.
    pub boot_time_ns: i64,
    /// Clock ticks per second of every `*_ticks` field (`sysconf(_SC_CLK_TCK)`).
    pub ticks_per_second: u64,
    /// Bytes per page of every `*_pages` field.
    pub page_bytes: u64,
    /// Logical processors online.
    pub cpus: u32,
    /// `MemTotal` of `/proc/meminfo`, bytes.
    pub memory_bytes: u64,
    /// `MemAvailable` of `/proc/meminfo`, bytes.
    pub memory_available_bytes: u64,
    /// `/proc/loadavg`: 1, 5 and 15 minutes, in hundredths (1.25 is 125).
    pub load_hundredths: [u32; 3],
    /// `processes` of `/proc/stat`: forks since boot. The growth between two snapshots, less the new processes of the
    /// second, is the number of processes that started and ended unseen.
    pub forks: u64,
    /// Uptime in clock ticks at the moment of reading. The CPU usage of a process over its life is
    /// `cpu ticks / (uptime_ticks - start_ticks)`.
    pub uptime_ticks: u64,
    /// The agent's own namespaces.
    pub namespaces: super::Namespaces,
    /// `labels` of the agent's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The agent: condition, and cost of the snapshots. ECS: `agent.*`, `edr.agent.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Version of `edr-agentd`.
    pub version: String,
    /// Process id of the agent, whose own row is among the processes.
    pub pid: u32,
    /// Epoch of the snapshot's frame.
    pub epoch: Epoch,
    /// Sequence number of the snapshot's frame.
    pub seq: u64,
    /// Nanoseconds between two ticks.
    pub interval_ns: u64,
    /// Hash of the effective configuration, 16 hex digits: equal on hosts with equal configuration.
    pub config_hash: String,
    /// Reasons why this snapshot shows less than it could, each with its remedy; empty for a complete snapshot. Also
    /// names the previous frame if that frame was ten times as large as usual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Cost of each source in the *previous* snapshot: a snapshot cannot contain its own end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cost: Vec<SourceCost>,
    /// The spool after the previous frame.
    pub spool: SpoolState,
}

/// Cost of one source, or of a later stage (`encode`, `frame`, `spool`), in one tick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCost {
    /// `processes`, `sockets`, `host`, `psad`, `packets`, `encode`, `frame`, `spool`.
    pub source: String,
    /// CPU time of the source's threads (`CLOCK_THREAD_CPUTIME_ID`), ns.
    pub cpu_ns: u64,
    /// Wall-clock time, ns.
    pub wall_ns: u64,
    /// Rows or lines produced; for a later stage the bytes written.
    pub produced: u64,
    /// Number of produced rows taken over unchanged from the previous snapshot.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// System calls, counted by the agent at each call. `None` for sources that read through libraries (`host`,
    /// `psad`), whose calls the agent cannot count, and for later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<u64>,
    /// Bytes delivered by the kernel. For `processes` and `sockets` counted with the system calls: files, links,
    /// listings, netlink messages. For other sources the growth of `rchar` in `/proc/thread-self/io` (proc_pid_io(5)):
    /// bytes from read(2) and similar calls. `None` where the kernel does not count, and for later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The state of the agent's spool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolState {
    /// Frames not yet acknowledged by Kafka.
    pub unsent_frames: u64,
    /// Bytes of the unacknowledged frames.
    pub unsent_bytes: u64,
    /// Frames dropped for lack of space since the agent started; each is declared in `lost`.
    pub dropped_frames: u64,
    /// True when the disk cannot be used and frames are sent from memory.
    pub memory_only: bool,
}

/// The time of the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Wall clock at the start of the tick, ns since the epoch, UTC (`CLOCK_REALTIME`).
    pub wall_ns: i64,
    /// `CLOCK_BOOTTIME`, ns: continues during suspend and never jumps. Orders the snapshots of one boot.
    pub boottime_ns: u64,
    /// True when the clock is synchronised according to the kernel (`adjtimex(2)`: not `STA_UNSYNC`). Where a sandbox
    /// forbids the call, `true` when systemd-timesyncd or chronyd confirms synchronisation; otherwise `None`, with a
    /// gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronised: Option<bool>,
    /// Offset of the host's time zone from UTC, seconds east.
    pub utc_offset_seconds: i32,
}

/// Read position in a tailed log, after the lines in this snapshot. The agent resumes from the position in its newest
/// frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Path of the file, or `journal`.
    pub source: Bytes,
    /// Device number (`st_dev`).
    #[serde(default)]
    pub dev: u64,
    /// Inode number.
    #[serde(default)]
    pub inode: u64,
    /// Bytes read.
    #[serde(default)]
    pub offset: u64,
    /// Number of the file's first bytes (256 at most) covered by [`Position::head_hash`].
    #[serde(default)]
    pub head_bytes: u32,
    /// First 16 bytes of BLAKE3 over the covered bytes; detects a reused inode and a rewritten file.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub head_hash: Bytes,
    /// Cursor of the journal, when the source is `journal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A fact, or several alike, missing in the snapshot, with the reason. A snapshot never hides that it is incomplete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// `processes`, `files`, `sockets`, `host`, `psad`, `packets`.
    pub source: String,
    /// The process concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Field, file name or family concerned.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub field: Bytes,
    /// Cause of the gap.
    pub reason: GapReason,
    /// Number of missing items: alike gaps are merged.
    pub count: u64,
    /// More about the cause: an errno, a byte range.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The reason why something is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The object vanished between two reads: normal for a process.
    Gone,
    /// The kernel refused access (`EACCES`, `EPERM`).
    Denied,
    /// The read did not finish in time.
    Stuck,
    /// A limit was reached.
    TooLong,
    /// The bytes do not have their documented form.
    Malformed,
    /// The kernel lacks the interface.
    Unsupported,
    /// The object was written and removed before it could be read (a log rotated away).
    RotatedAway,
    /// An I/O error.
    Io,
    /// The budget of this tick was used up.
    Budget,
    /// A reason unknown to this version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Freshness of carried-over process rows. A process that did not run is not read at each tick, and the bytes of its
/// row stay the same. Facts that other processes can change are read again when the row's slice is due, so a row is at
/// most `slices` ticks old. The row itself never contains the time of its last read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// The slice read in this snapshot.
    pub slice: u32,
    /// Number of slices; 1 when every row is read at every tick.
    pub slices: u32,
    /// Pids, ascending, of the processes read in this snapshot although their slice was not due: processes that ran,
    /// are new, or changed in some way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_turn: Vec<u32>,
}

impl Reread {
    /// The slice of a process: FNV-1a (32 bits) over `pid` and `start_ticks`, both little-endian, modulo `slices`.
    pub fn slice_of(key: ProcessKey, slices: u32) -> u32 {
        let bytes = key.pid.to_le_bytes().into_iter().chain(key.start_ticks.to_le_bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash % slices.max(1)
    }

    /// The largest possible age of this process's row in ticks: 0 when the row was read in this snapshot. The row is
    /// fresher when an earlier snapshot read it out of turn.
    pub fn age_ticks_max(&self, key: ProcessKey) -> u32 {
        let slices = self.slices.max(1);
        if self.out_of_turn.binary_search(&key.pid).is_ok() {
            return 0;
        }
        let (turn, now) = (Self::slice_of(key, slices), self.slice % slices);
        // A subtraction, because a sum could overflow: a hostile writer may choose the largest numbers.
        if now >= turn { now - turn } else { slices - (turn - now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_old_as_its_slice_unless_it_was_read_out_of_turn() {
        let key = |pid| ProcessKey { pid, start_ticks: 77 };
        let slices = 6;
        let mut seen = [0_u32; 6];
        for pid in 1..=600 {
            seen[Reread::slice_of(key(pid), slices) as usize] += 1;
        }
        assert!(seen.iter().all(|&processes| (50..150).contains(&processes)), "{seen:?}");
        for slice in 0..slices {
            let reread = Reread { slice, slices, out_of_turn: vec![2, 5] };
            assert_eq!((reread.age_ticks_max(key(2)), reread.age_ticks_max(key(5))), (0, 0));
            let own = Reread::slice_of(key(3), slices);
            assert_eq!(reread.age_ticks_max(key(3)), (slice + slices - own) % slices);
        }
        assert_eq!(Reread { slice: 0, slices: 1, out_of_turn: vec![] }.age_ticks_max(key(9)), 0);
    }
}
