//! One tick: everything that the sources find in one reading of the host.

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
    /// Bytes of rows of processes from which on a row lists no files, and the limits on one process's lists shrink in
    /// the next tick. The rest of `rows_bytes` is for the other sources.
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

    /// Discards the parts without a limit of their own and halves the rest, for a snapshot that would not fit a frame.
    pub fn shed(&mut self, why: &str) {
        let packets = self.rows.packets.len();
        self.rows.packets.clear();
        self.psad = Psad { mode: self.psad.mode, ..Psad::default() };
        self.cut_to(self.budget.rows_bytes / 2);
        let detail = format!("psad and {packets} packets left out: {why}");
        self.gaps.add("psad", None, b"", GapReason::TooLong, &detail);
    }

    /// Shortens the long lists so that a snapshot fits its limit on every host, and records the cut as a gap.
    pub(crate) fn cut_to(&mut self, bytes_max: usize) {
        let TableRows { processes, sockets, .. } = &mut self.rows;
        if processes.byte_len() + sockets.byte_len() <= bytes_max {
            return;
        }
        // Sockets get the space left by processes, but at least a quarter.
        let for_processes = bytes_max - sockets.byte_len().min(bytes_max / 4);
        let cut_processes = processes.cut_to(for_processes);
        let cut_sockets = sockets.cut_to(bytes_max.saturating_sub(processes.byte_len()));
        for (source, cut) in [("processes", cut_processes), ("sockets", cut_sockets)] {
            if cut > 0 {
                let detail = format!("{cut} rows did not fit {bytes_max} bytes");
                self.gaps.add(source, None, b"rows", GapReason::TooLong, &detail);
            }
        }
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
    fn rows_that_do_not_fit_are_cut_and_counted_and_sockets_keep_a_quarter() {
        let mut tick = full();
        tick.cut_to(bytes(&tick));
        assert_eq!((tick.rows.processes.len(), tick.rows.sockets.len(), tick.gaps.list().len()), (1_000, 1_000, 0));
        let room = 40_000;
        tick.cut_to(room);
        assert!(bytes(&tick) <= room);
        assert!(tick.rows.processes.byte_len() > room / 2 && tick.rows.sockets.byte_len() > room / 5);
        let said = tick.gaps.list();
        let cut = [1_000 - tick.rows.processes.len(), 1_000 - tick.rows.sockets.len()];
        assert_eq!(said.len(), 2);
        for (gap, cut) in said.iter().zip(cut) {
            assert_eq!(gap.reason, GapReason::TooLong);
            assert!(gap.detail.starts_with(&format!("{cut} rows")), "{gap:?}");
        }
    }

    #[test]
    fn a_snapshot_that_would_not_fit_names_the_parts_left_out_and_keeps_earlier_gaps() {
        let mut tick = full();
        tick.budget.rows_bytes = bytes(&tick);
        tick.rows.packets.push_packet(&PacketRow::default());
        tick.gaps.add("sockets", None, b"tcp", GapReason::Io, "earlier");
        tick.shed("too long");
        assert!(bytes(&tick) <= tick.budget.rows_bytes / 2 && tick.rows.packets.is_empty());
        let details: Vec<String> = tick.gaps.list().into_iter().map(|gap| gap.detail).collect();
        assert!(details.contains(&"earlier".to_owned()), "{details:?}");
        assert!(details.contains(&"psad and 1 packets left out: too long".to_owned()), "{details:?}");
    }
}
