//! Age of the rows of processes and their files. A process that did not run is not read in every tick, and the time of
//! the last reading is not part of the row.

use edr_wire::ProcessKey;
use edr_wire::snapshot::{Process, Reread};

use crate::cell::Cell;
use crate::snapshot::HostSnapshot;

/// Reading times of the rows of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct AsOf {
    captured_ns: i64,
    interval_ns: i64,
    reread: Reread,
}

impl AsOf {
    /// A snapshot without this data counts as completely read at the time of capture.
    pub fn new(snapshot: &HostSnapshot) -> Self {
        let interval_ns = snapshot.view.agent().map_or(0, |agent| agent.interval_ns);
        Self {
            captured_ns: snapshot.captured_ns,
            interval_ns: i64::try_from(interval_ns).unwrap_or(0),
            reread: snapshot.view.reread().unwrap_or_default(),
        }
    }

    /// Returns the earliest possible reading time of this process and its files: the regular turn. A process that ran
    /// since that turn was read later.
    pub(crate) fn cell(&self, process: &Process) -> Cell {
        let key = ProcessKey { pid: process.pid, start_ticks: process.start_ticks };
        Cell::Time(self.before(self.reread.age_ticks_max(key)))
    }

    /// Returns the moment before which no row was read; `None` when all rows were read with the snapshot.
    pub fn oldest_ns(&self) -> Option<i64> {
        (self.reread.slices > 1).then(|| self.before(self.reread.slices - 1))
    }

    fn before(&self, ticks: u32) -> i64 {
        self.captured_ns.saturating_sub(self.interval_ns.saturating_mul(ticks.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_old_as_its_turn_unless_it_was_read_out_of_turn() {
        let slices = 6;
        let process = |pid| Process { pid, start_ticks: 77, ..Process::default() };
        let slice = Reread::slice_of(ProcessKey { pid: 3, start_ticks: 77 }, slices);
        for age in 0..slices {
            let reread = Reread { slice: (slice + age) % slices, slices, out_of_turn: vec![5] };
            let as_of = AsOf { captured_ns: 1_000, interval_ns: 10, reread };
            assert_eq!(as_of.cell(&process(3)), Cell::Time(1_000 - 10 * i64::from(age)));
            assert_eq!(as_of.cell(&process(5)), Cell::Time(1_000));
            assert_eq!(as_of.oldest_ns(), Some(950));
        }
        let whole = AsOf { captured_ns: 1_000, interval_ns: 10, reread: Reread::default() };
        assert_eq!((whole.cell(&process(3)), whole.oldest_ns()), (Cell::Time(1_000), None));
        // A hostile snapshot may contain any values.
        let absurd = Reread { slice: u32::MAX, slices: u32::MAX, out_of_turn: vec![] };
        let absurd = AsOf { captured_ns: i64::MIN, interval_ns: i64::MAX, reread: absurd };
        assert_eq!(absurd.oldest_ns(), Some(i64::MIN));
        absurd.cell(&process(3));
    }
}
