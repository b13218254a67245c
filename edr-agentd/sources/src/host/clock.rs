//! The clocks: wall clock, boot time, and the kernel's estimate of the wall clock's error.

use edr_wire::snapshot::Time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::libc;
use rustix::time::{ClockId, clock_gettime};

const NANOSECONDS: i64 = 1_000_000_000;

/// Returns the present time. `synchronised` is filled in by the caller.
pub(super) fn now() -> Time {
    let wall_ns = nanoseconds(ClockId::Realtime);
    Time {
        wall_ns,
        boottime_ns: nanoseconds(ClockId::Boottime).unsigned_abs(),
        synchronised: None,
        utc_offset_seconds: utc_offset_seconds(wall_ns),
    }
}

/// 64 bits of nanoseconds last until the year 2262.
fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(NANOSECONDS).saturating_add(time.tv_nsec)
}

/// Offset of the host's time zone (`TZ`, else `/etc/localtime`) at the given moment, seconds. A host without a zone
/// uses UTC (localtime(5)).
fn utc_offset_seconds(wall_ns: i64) -> i32 {
    let Ok(zone) = TimeZone::try_system() else { return 0 };
    Timestamp::from_nanosecond(wall_ns.into()).map_or(0, |now| zone.to_offset(now).seconds())
}

/// The kernel's state of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockState {
    /// True when the clock is synchronised (not `STA_UNSYNC`).
    pub synchronised: bool,
    /// Largest possible error, microseconds (`maxerror`); grows by 500 per second without corrections.
    pub error_us_max: i64,
}

/// Reads the kernel's state (adjtimex(2)); `None` when the sandbox forbids the call.
#[expect(unsafe_code, reason = "no crate in use wraps adjtimex(2), and nothing else is the kernel's own account")]
pub fn clock_state() -> Option<ClockState> {
    // SAFETY: `timex` holds only integers, for which all-zero bytes are valid. Zero in `modes` makes the call
    // read-only, which needs no privilege. The pointer is to a whole `timex` that outlives the call.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    let synchronised = timex.status & libc::STA_UNSYNC == 0;
    (state >= 0).then_some(ClockState { synchronised, error_us_max: timex.maxerror })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_equal_the_systems_clocks() {
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        let (first, second) = (now(), now());
        let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        assert!((before..=after).contains(&first.wall_ns));
        assert!(second.boottime_ns >= first.boottime_ns && first.boottime_ns > 0);
        assert!(clock_state().is_some_and(|state| state.error_us_max >= 0));
    }

    #[test]
    fn summer_and_winter_offsets_differ_in_a_zone_with_summer_time() {
        // `TZ` of this process depends on the machine, so the test uses the zone directly.
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |text: &str| berlin.to_offset(text.parse().unwrap()).seconds();
        assert_eq!((at("2026-01-15T12:00:00Z"), at("2026-07-15T12:00:00Z")), (3_600, 7_200));
    }
}
