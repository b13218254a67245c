//! The clocks the agent looks at.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Since boot, suspend included (`CLOCK_BOOTTIME`): the clock of the ticks, the same for every process of a boot.
pub fn boottime() -> Duration {
    read(ClockId::Boottime)
}

/// Since boot without suspend (`CLOCK_MONOTONIC`).
pub fn monotonic() -> Duration {
    read(ClockId::Monotonic)
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // None of these clocks goes below zero.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds in 64 bits: 584 years.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
