//! A tick: the findings of all sources in a reading of the host.

use std::fmt::Debug;
use std::time::Duration;

use edr_wire::limits::RAW_BYTES_SOFT;
use edr_wire::snapshot::{Agent, GapReason, Host, Position, Psad, Reread, Rows, SnapshotParts, SourceCost, Time};

use crate::common::cost::{CallCounter, Meter};
use crate::common::{DescriptorAccess, GapCollector, Inhabitants};

/// A source of facts about the host. There are two kinds:
///
/// - A source that **reads at a tick** looks at the present state: `/proc`, netlink, files.
/// - A source that **records between ticks** has a thread that receives events and writes them into a
///   [`crate::common::Recorder`]; [`Source::read`] drains the record. The watch on psad's folder is of this kind.
///
/// A source never fails a tick: a fact that was missed is a gap.
pub trait Source: Debug + Send {
    /// The name in the costs and in the gaps.
    fn name(&self) -> &'static str;

    /// The counter of the source's system calls.
    fn call_counter(&self) -> CallCounter {
        CallCounter::Kernel
    }

    /// Adds the facts of this tick.
    fn read(&mut self, tick: &mut Tick) -> RowCount;
}

/// The number of rows that a source added to a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCount {
    /// Rows, including carried rows.
    pub rows: usize,
    /// Rows taken over from the previous tick without a read.
    pub carried: u64,
}

/// Limits of one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of all rows of processes and sockets.
    pub rows_bytes: usize,
    /// Bytes of the rows of processes, divided between owners. The rest of `rows_bytes` is for sockets.
    pub process_rows_bytes_soft: usize,
    /// Maximum age of a row, even of a process that never runs. With a value of at most the interval every row is read
    /// at every tick.
    pub reread_interval: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            rows_bytes: RAW_BYTES_SOFT,
            process_rows_bytes_soft: RAW_BYTES_SOFT - (6 << 20),
            reread_interval: Duration::from_secs(60),
        }
    }
}

/// The rows of a snapshot, by table.
#[derive(Debug, Clone, Default)]
pub struct TableRows {
    /// Processes, sorted by pid.
    pub processes: Rows,
    /// Sockets, sorted by inode.
    pub sockets: Rows,
    /// Packets, in the order of their logs.
    pub packets: Rows,
}

/// The result of one tick: a snapshot without the agent's own part. A tick is used again for the next reading, so that
/// the long lists keep their memory.
#[derive(Debug, Default)]
pub struct Tick {
    /// The limits.
    pub budget: Budget,
    /// The start of the tick.
    pub time: Time,
    /// The host.
    pub host: Host,
    /// The rows of each table.
    pub rows: TableRows,
    /// The age of carried rows.
    pub reread: Reread,
    /// The state of psad.
    pub psad: Psad,
    /// The read position of each log.
    pub positions: Vec<Position>,
    /// The missed facts.
    pub gaps: GapCollector,
    /// The cost of each source.
    pub cost: Vec<SourceCost>,
    /// Reasons for limited visibility, each with a remedy.
    pub degraded: Vec<String>,
    /// The processes of each network namespace, for the source of sockets.
    pub inhabitants: Inhabitants,
    /// The right to see descriptors, as observed by the source of processes.
    pub access: DescriptorAccess,
}

impl Tick {
    /// Returns a tick with these limits.
    pub fn new(budget: Budget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Empties the tick for the next reading. Facts that a source replaces as a whole stay.
    pub(crate) fn clear(&mut self) {
        self.rows.processes.clear();
        self.rows.sockets.clear();
        self.rows.packets.clear();
        self.gaps.clear();
        self.cost.clear();
        self.inhabitants.clear();
        self.access = DescriptorAccess::default();
    }

    /// Reads a source and records the cost.
    pub(crate) fn read(&mut self, source: &mut dyn Source) {
        let meter = Meter::start(source.name(), source.call_counter());
        let produced = source.read(self);
        self.cost.push(SourceCost { carried: produced.carried, ..meter.stop(produced.rows) });
    }

    /// Returns the snapshot's msgpack.
    pub fn encode(&self, agent: &Agent) -> Vec<u8> {
        let parts = SnapshotParts {
            host: &self.host,
            agent,
            time: &self.time,
            positions: &self.positions,
            processes: &self.rows.processes,
            sockets: &self.rows.sockets,
            psad: &self.psad,
            packets: &self.rows.packets,
            reread: self.reread.clone(),
            gaps: &self.gaps.list(),
        };
        parts.encode()
    }

    /// Discards the parts without a limit of their own, for a snapshot that would not fit a frame. The rows of
    /// processes and sockets fit always ([`Budget`]).
    pub fn shed(&mut self, why: &str) {
        let packets = self.rows.packets.len();
        self.rows.packets.clear();
        self.psad = Psad { mode: self.psad.mode, ..Psad::default() };
        let detail = format!("psad and {packets} packets left out: {why}");
        self.gaps.add("psad", None, b"", GapReason::TooLong, &detail);
    }
}

#[cfg(test)]
mod tests {
    use edr_wire::snapshot::{PacketRow, Process, Socket};

    use super::*;

    fn full() -> Tick {
        let process = |pid| Process { pid, state: 'S', ..Process::default() };
        let socket = |inode| Socket { inode, protocol: "tcp".to_owned(), ..Socket::default() };
        let mut tick = Tick::default();
        tick.rows.processes = (0..1_000).map(process).collect();
        tick.rows.sockets = (0..1_000).map(socket).collect();
        tick
    }

    fn bytes(tick: &Tick) -> usize {
        tick.rows.processes.byte_len() + tick.rows.sockets.byte_len()
    }

    #[test]
    fn a_snapshot_that_would_not_fit_names_the_parts_left_out_and_keeps_earlier_gaps() {
        let mut tick = full();
        let before = bytes(&tick);
        tick.rows.packets.push_packet(&PacketRow::default());
        tick.gaps.add("sockets", None, b"tcp", GapReason::Io, "earlier");
        tick.shed("too long");
        assert!(bytes(&tick) == before && tick.rows.packets.is_empty());
        let details: Vec<String> = tick.gaps.list().into_iter().map(|gap| gap.detail).collect();
        assert!(details.contains(&"earlier".to_owned()), "{details:?}");
        assert!(details.contains(&"psad and 1 packets left out: too long".to_owned()), "{details:?}");
    }
}
