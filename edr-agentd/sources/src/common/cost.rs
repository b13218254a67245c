//! The cost of one stage of a tick: CPU time, wall time, system calls and bytes read.

use std::time::{Duration, Instant};

use edr_wire::snapshot::SourceCost;

use super::calls::{self, Calls};
use super::clock::{nanos, thread_cpu};
use super::heartbeat;

/// The counter of a stage's system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallCounter {
    /// None: a stage that only computes.
    None,
    /// The source itself ([`calls`]).
    Source,
    /// The kernel, which counts bytes only: a source that reads through a library.
    Kernel,
}

/// A stage under measurement.
#[derive(Debug)]
pub(crate) struct Meter {
    stage: &'static str,
    counter: CallCounter,
    read: Option<ReadBytes>,
    calls: Calls,
    wall: Instant,
    cpu: Duration,
}

impl Meter {
    /// Begins a stage.
    pub(crate) fn start(stage: &'static str, counter: CallCounter) -> Self {
        let read = (counter == CallCounter::Kernel).then(thread_read_bytes).flatten();
        let meter = Self { stage, counter, read, calls: calls::so_far(), wall: Instant::now(), cpu: thread_cpu() };
        heartbeat::begin(stage);
        meter
    }

    /// Ends the stage, with its number of rows or bytes. The CPU time of helper threads is included.
    pub(crate) fn stop(self, produced: usize) -> SourceCost {
        heartbeat::end();
        let (cpu, wall) = (thread_cpu().saturating_sub(self.cpu), self.wall.elapsed());
        let calls = calls::so_far() - self.calls;
        let is_own = self.counter == CallCounter::Source;
        // `rchar` in the first look excludes the read of that look; the second look includes the first read, so its
        // size is subtracted.
        let by_kernel = |before: ReadBytes| {
            thread_read_bytes().map(|after| after.bytes.saturating_sub(before.bytes + before.text_bytes))
        };
        SourceCost {
            source: self.stage.to_owned(),
            cpu_ns: nanos(cpu) + calls.cpu_ns,
            wall_ns: nanos(wall),
            produced: produced as u64,
            syscalls: is_own.then_some(calls.made),
            read_bytes: if is_own { Some(calls.bytes) } else { self.read.and_then(by_kernel) },
            ..SourceCost::default()
        }
    }
}

/// Runs a stage that returns a value and its number of rows or bytes, and records the cost.
pub fn measured<T>(cost: &mut Vec<SourceCost>, stage: &'static str, work: impl FnOnce() -> (T, usize)) -> T {
    let meter = Meter::start(stage, CallCounter::None);
    let (value, produced) = work();
    cost.push(meter.stop(produced));
    value
}

/// `rchar` of `/proc/thread-self/io`, and the size of the file's text.
#[derive(Debug)]
struct ReadBytes {
    bytes: u64,
    text_bytes: u64,
}

fn thread_read_bytes() -> Option<ReadBytes> {
    let text = std::fs::read("/proc/thread-self/io").ok()?;
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"rchar: "))?;
    Some(ReadBytes { bytes: std::str::from_utf8(line).ok()?.parse().ok()?, text_bytes: text.len() as u64 })
}
