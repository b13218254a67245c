//! The due times of snapshots, and missed ticks. Ticks form a grid of `CLOCK_BOOTTIME`, which continues during suspend.
//! A late agent takes one snapshot and names the missed ticks, without a burst to catch up.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use edr_wire::frame::MissedTicks;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::clock::{boottime, monotonic, nanos};
use crate::stop::Stop;

/// The agent did not run: a crash, an upgrade, or not started yet in this boot.
pub const NOT_RUNNING: &str = "not_running";
/// The agent was stopped: its last frame has `bye` set.
pub const STOPPED: &str = "stopped";
/// Snapshots may have been made: an agent without a usable disk makes snapshots in memory.
pub const UNKNOWN: &str = "unknown";
/// The previous snapshot took longer than an interval.
const OVERRUN: &str = "overrun";
/// The host was suspended.
const SUSPENDED: &str = "suspended";
/// The agent was ready but got no processor: stopped by a signal, starved, or the machine was paused.
const NOT_SCHEDULED: &str = "not_scheduled";

/// The grid of due times.
#[derive(Debug)]
pub struct Ticks {
    timer: OwnedFd,
    interval: Duration,
    due: Duration,
    /// Start of the present wait, and the total time of suspend by then.
    waits_since: Duration,
    slept: Duration,
}

impl Ticks {
    /// Starts a grid whose first tick is due now.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn start(interval: Duration) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let now = boottime();
        Ok(Self { timer, interval, due: now, waits_since: now, slept: slept() })
    }

    /// Due time of the next tick, since boot.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// Changes the interval, counted from the last tick.
    pub fn set_interval(&mut self, interval: Duration) {
        if interval != self.interval {
            self.due = self.due.saturating_sub(self.interval).saturating_add(interval);
            self.interval = interval;
        }
    }

    /// Waits for the next tick or for `stop`. Returns the ticks missed before the next tick.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub fn wait(&mut self, stop: &Stop) -> io::Result<Option<MissedTicks>> {
        self.waits_since = boottime();
        self.slept = slept();
        let at = Timespec { tv_sec: self.due.as_secs() as i64, tv_nsec: self.due.subsec_nanos().into() };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: at };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        while boottime() < self.due {
            if stop.wait_or(&[self.timer.as_fd()], None) {
                return Ok(None);
            }
        }
        let (missed, next) = self.late(boottime(), slept());
        self.due = next;
        Ok(missed)
    }

    /// Returns the ticks missed at `now`, at or after the due time, and the next due time.
    fn late(&self, now: Duration, slept: Duration) -> (Option<MissedTicks>, Duration) {
        let interval = nanos(self.interval).max(1);
        let late = nanos(now.saturating_sub(self.due));
        let ticks = late / interval;
        let due = nanos(self.due);
        let next = Duration::from_nanos(due + (ticks + 1) * interval);
        if ticks == 0 {
            return (None, next);
        }
        let reason = if nanos(slept.saturating_sub(self.slept)) >= late / 2 {
            SUSPENDED
        } else if self.waits_since > self.due {
            OVERRUN
        } else {
            NOT_SCHEDULED
        };
        let missed = MissedTicks {
            from_boottime_ns: due,
            to_boottime_ns: due + (ticks - 1) * interval,
            ticks,
            reason: reason.to_owned(),
        };
        (Some(missed), next)
    }
}

/// Returns the ticks between the last snapshot of an earlier run and `now`. `last` is `None` when this boot has no such
/// snapshot.
pub fn missed_before(last: Option<Duration>, now: Duration, interval: Duration, reason: &str) -> Option<MissedTicks> {
    let interval = nanos(interval).max(1);
    let last = last.map_or(0, nanos);
    // A tick due now is not missed: the agent takes its snapshot.
    let ticks = nanos(now).checked_sub(last)?.saturating_sub(1) / interval;
    (ticks > 0).then(|| MissedTicks {
        from_boottime_ns: last + interval,
        to_boottime_ns: last + ticks * interval,
        ticks,
        reason: reason.to_owned(),
    })
}

/// Total time of suspend since boot.
fn slept() -> Duration {
    boottime().saturating_sub(monotonic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ticks(waits_since: u64) -> Ticks {
        let mut ticks = Ticks::start(Duration::from_secs(10)).unwrap();
        (ticks.due, ticks.waits_since) = (Duration::from_secs(100), Duration::from_secs(waits_since));
        ticks.slept = Duration::from_secs(7);
        ticks
    }

    fn late(ticks: &Ticks, now: u64, slept: u64) -> (Option<(u64, u64, u64, String)>, u64) {
        let (missed, next) = ticks.late(Duration::from_secs(now), Duration::from_secs(slept));
        let short = |m: MissedTicks| (m.from_boottime_ns / SECOND, m.to_boottime_ns / SECOND, m.ticks, m.reason);
        (missed.map(short), next.as_secs())
    }

    #[test]
    fn a_late_tick_stays_on_the_grid_and_names_missed_ticks() {
        assert_eq!(late(&ticks(95), 100, 7), (None, 110));
        assert_eq!(late(&ticks(95), 109, 7), (None, 110));
        assert_eq!(late(&ticks(95), 110, 7), (Some((100, 100, 1, NOT_SCHEDULED.into())), 120));
        assert_eq!(late(&ticks(125), 125, 7), (Some((100, 110, 2, OVERRUN.into())), 130));
        assert_eq!(late(&ticks(95), 4_000, 3_900), (Some((100, 3_990, 390, SUSPENDED.into())), 4_010));
    }

    #[test]
    fn every_tick_since_the_last_snapshot_or_the_boot_is_missed_until_now() {
        let of = |last: Option<u64>, now| {
            let (last, now) = (last.map(Duration::from_secs), Duration::from_secs(now));
            let missed = missed_before(last, now, Duration::from_secs(10), NOT_RUNNING);
            missed.map(|m| (m.from_boottime_ns / SECOND, m.to_boottime_ns / SECOND, m.ticks))
        };
        assert_eq!(of(Some(100), 109), None);
        assert_eq!(of(Some(100), 110), None);
        assert_eq!(of(Some(100), 111), Some((110, 110, 1)));
        assert_eq!(of(Some(100), 130), Some((110, 120, 2)));
        assert_eq!(of(None, 35), Some((10, 30, 3)));
        assert_eq!(of(Some(100), 50), None);
    }

    #[test]
    fn stop_ends_the_wait_for_a_far_tick() {
        let stop = Stop::new().unwrap();
        let mut ticks = Ticks::start(Duration::from_secs(3600)).unwrap();
        assert_eq!(ticks.wait(&stop).unwrap(), None);
        let due = ticks.due();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ticks.wait(&stop));
            stop.request();
            assert_eq!(waiting.join().unwrap().unwrap(), None);
        });
        assert_eq!(ticks.due(), due);
    }
}
