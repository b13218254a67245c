//! Parser of `/proc/PID/task/TID/schedstat` (`Documentation/scheduler/sched-stats.rst`): shows if a thread ran.

use super::number::decimal;
use super::{MalformedFile, malformed};

/// Time of a thread on a processor, and the number of its time slices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Schedstat {
    pub(super) run_ns: u64,
    pub(super) timeslices: u64,
}

/// Parses `schedstat`: time on a processor, time waiting for a processor, and the number of time slices. A kernel
/// without counters prints `0 0 0`.
pub(super) fn parse_schedstat(schedstat: &[u8]) -> Result<Schedstat, MalformedFile> {
    let mut fields = schedstat.trim_ascii_end().split(|&b| b == b' ').map(decimal);
    match (fields.next().flatten(), fields.next().flatten(), fields.next().flatten()) {
        (Some(run_ns), Some(_), Some(timeslices)) => Ok(Schedstat { run_ns, timeslices }),
        _ => Err(malformed("schedstat", "three numbers")),
    }
}

/// Run time of all threads of a process, as one number for each state: a changed thread, time or count gives a changed
/// sum. The order of the threads does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RunTime(u64);

impl RunTime {
    pub(super) fn add(&mut self, tid: u32, thread: Schedstat) {
        let mixed = mix(mix(mix(u64::from(tid)) ^ thread.run_ns) ^ thread.timeslices);
        self.0 = self.0.wrapping_add(mixed);
    }
}

/// The finalizer of splitmix64: each bit of the input moves half of the output.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (number ^ (number >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_numbers_and_nothing_else() {
        assert_eq!(parse_schedstat(b"123 4 56\n"), Ok(Schedstat { run_ns: 123, timeslices: 56 }));
        for text in [b"".as_slice(), b"1 2", b"1 2 x", b"-1 2 3"] {
            assert!(parse_schedstat(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_change_of_a_thread_or_of_the_threads_is_seen(
            threads in proptest::collection::btree_map(1_u32.., (any::<u64>(), any::<u64>()), 1..20),
            which: prop::sample::Index,
            ran in 1_u64..,
        ) {
            let sum = |threads: &mut dyn Iterator<Item = (u32, (u64, u64))>| {
                let mut ran = RunTime::default();
                threads.for_each(|(tid, (run_ns, timeslices))| ran.add(tid, Schedstat { run_ns, timeslices }));
                ran
            };
            let before = sum(&mut threads.clone().into_iter());
            prop_assert_eq!(before, sum(&mut threads.clone().into_iter().rev()));
            let tid = *which.get(&threads.keys().copied().collect::<Vec<_>>());
            let mut other = threads.clone();
            other.insert(tid, (threads[&tid].0.wrapping_add(ran), threads[&tid].1));
            prop_assert_ne!(before, sum(&mut other.clone().into_iter()));
            other.remove(&tid);
            prop_assert_ne!(before, sum(&mut other.into_iter()));
        }
    }
}
