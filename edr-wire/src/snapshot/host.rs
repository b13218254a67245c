//! The host, the agent that looked at it, and when.

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
    /// Wall-clock time of the boot, ns since the epoch: `btime` of `/proc/stat`, whole seconds. For display only.
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
    /// `processes` of `/proc/stat`: forks since boot. The growth between two snapshots, less the processes that are
    /// new in the second, is how many came and went unseen.
    pub forks: u64,
    /// Uptime in clock ticks when this was read; CPU usage of a process over its life is
    /// `cpu ticks / (uptime_ticks - start_ticks)`.
    pub uptime_ticks: u64,
    /// The agent's own namespaces, as for a process.
    pub namespaces: super::Namespaces,
    /// `labels` of the agent's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The agent, how it is, and what this snapshot cost. ECS: `agent.*`, `edr.agent.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Version of `edr-agentd`.
    pub version: String,
    /// Process id of the agent: its own row is among the processes.
    pub pid: u32,
    /// Epoch of the frame this snapshot travels in.
    pub epoch: Epoch,
    /// Sequence number of that frame.
    pub seq: u64,
    /// Nanoseconds between two ticks.
    pub interval_ns: u64,
    /// Hash of the effective configuration, 16 hex digits: hosts with the same value are configured alike.
    pub config_hash: String,
    /// Why this snapshot shows less than it could, and what mends it; empty when it shows everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// What each source cost in the snapshot *before* this one (a snapshot cannot contain its own end).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cost: Vec<SourceCost>,
    /// The spool as the frame before this one left it.
    pub spool: SpoolState,
}

/// What one source, or one later stage (`encode`, `frame`, `spool`), cost in one tick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCost {
    /// `processes`, `sockets`, `host`, `psad`, `packets`, `encode`, `frame`, `spool`.
    pub source: String,
    /// CPU time of the threads that did it (`CLOCK_THREAD_CPUTIME_ID`).
    pub cpu_ns: u64,
    /// Wall-clock time.
    pub wall_ns: u64,
    /// Rows or lines produced; for a later stage the bytes it wrote.
    pub produced: u64,
    /// Of these, rows taken over from the snapshot before because nothing of them changed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// System calls, counted by the agent one by one where it makes them. `None` for a source that reads through
    /// libraries, whose calls it does not see (`host`, `psad`), and for later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<u64>,
    /// Bytes that the kernel gave. Of `processes` and `sockets` counted with the calls: files, links, listings, netlink
    /// messages. Of other sources `rchar` of `/proc/thread-self/io` (proc_pid_io(5)): what read(2) and its like gave.
    /// `None` where the kernel does not count, and for later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Frames that wait on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolState {
    /// Frames not yet acknowledged by Kafka.
    pub unsent_frames: u64,
    /// Their bytes.
    pub unsent_bytes: u64,
    /// Frames that were dropped for want of room since the agent started; each is declared in `lost`.
    pub dropped_frames: u64,
    /// True when the disk cannot be used and frames go out from memory.
    pub memory_only: bool,
}

/// When the snapshot was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Wall clock, ns since the epoch, UTC (`CLOCK_REALTIME`), when the tick began.
    pub wall_ns: i64,
    /// `CLOCK_BOOTTIME`, ns: runs on through suspend, never jumps. Orders snapshots inside a boot.
    pub boottime_ns: u64,
    /// Whether something keeps the clock right, as the kernel says (`adjtimex(2)`: not `STA_UNSYNC`). Where a sandbox
    /// refuses the question, `true` when systemd-timesyncd or chronyd says so; `None`, with a gap, when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronised: Option<bool>,
    /// Offset of the host's zone from UTC, seconds east.
    pub utc_offset_seconds: i32,
}

/// How far a tailed log was read, including the lines in this very snapshot: the frame is the memory.
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
    /// How many of the file's first bytes (256 at most) [`Position::head_hash`] covers.
    #[serde(default)]
    pub head_bytes: u32,
    /// First 16 bytes of BLAKE3 over those: tells a reused inode and a rewritten file.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub head_hash: Bytes,
    /// Cursor of the journal, for `journal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One thing that was not seen, and why. A snapshot never hides that it is incomplete.
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
    /// Why.
    pub reason: GapReason,
    /// How many items this stands for: alike gaps are merged.
    pub count: u64,
    /// Anything else that helps: an errno, a byte range.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why something is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// It went away between two reads: normal for a process.
    Gone,
    /// The kernel refused (`EACCES`, `EPERM`).
    Denied,
    /// The read did not come back in time.
    Stuck,
    /// A limit was reached.
    TooLong,
    /// The bytes are not what their documentation says.
    Malformed,
    /// The kernel has no such interface.
    Unsupported,
    /// Written and removed before it could be read (a log rotated away).
    RotatedAway,
    /// An I/O error.
    Io,
    /// The budget of this tick was used up.
    Budget,
    /// A reason this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How fresh carried-over process rows are. A process that did not run is not read at each tick, and its row's bytes
/// stay the same; what others can change under it is read again when its slice's turn comes, so a row is at most
/// `slices` ticks old. When a row was last read is never part of the row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// The slice that was read in this snapshot.
    pub slice: u32,
    /// Slices in all; 1 when every row is read at every tick.
    pub slices: u32,
    /// Pids, ascending, of the processes that were read in this snapshot although it was not their slice's turn: they
    /// ran, are new, or something of them moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_turn: Vec<u32>,
}

impl Reread {
    /// The slice of a process: FNV-1a (32 bits) over `pid` and `start_ticks`, both
    /// little-endian, modulo `slices`.
    pub fn slice_of(key: ProcessKey, slices: u32) -> u32 {
        let bytes = key.pid.to_le_bytes().into_iter().chain(key.start_ticks.to_le_bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash % slices.max(1)
    }

    /// How many ticks ago the row of this process was read: 0 when it was in this snapshot. A row that was read out of
    /// turn since then is fresher.
    pub fn age_ticks_max(&self, key: ProcessKey) -> u32 {
        let slices = self.slices.max(1);
        if self.out_of_turn.binary_search(&key.pid).is_ok() {
            return 0;
        }
        let (turn, now) = (Self::slice_of(key, slices), self.slice % slices);
        // No sum: whoever wrote this may have chosen the largest numbers there are.
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
