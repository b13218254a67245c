//! The kernel's account of a thread of this process (proc_pid_stat(5), `Documentation/scheduler/sched-stats.rst`).

use std::time::Duration;

use rustix::fs::CWD;

use crate::common::proc_files;

/// Time account of a thread since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ThreadAccount {
    /// State R: the thread runs, or waits for a processor.
    pub(super) is_runnable: bool,
    /// CPU time.
    pub(super) ran: Duration,
    /// Time in a run queue; `None` from a kernel without `CONFIG_SCHED_INFO`. A wait is added when it ends.
    pub(super) queued: Option<Duration>,
}

impl ThreadAccount {
    /// Reads the account of the thread `tid`; `None` where this process cannot see its own threads in `/proc`.
    pub(super) fn read(tid: i32, text: &mut Vec<u8>) -> Option<Self> {
        let folder = format!("/proc/self/task/{tid}");
        proc_files::read(CWD, &format!("{folder}/stat"), text).ok()?;
        let mut schedstat = Vec::new();
        // Without the file, the state is still known.
        let _ = proc_files::read(CWD, &format!("{folder}/schedstat"), &mut schedstat);
        Self::parse(std::str::from_utf8(text).ok()?, std::str::from_utf8(&schedstat).ok()?)
    }

    /// Parses `stat` and `schedstat`. A kernel without the counters gives `0 0 0`, or no file: an empty text here.
    fn parse(stat: &str, schedstat: &str) -> Option<Self> {
        // Fields are counted from state, field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let counted: Vec<u64> = schedstat.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
        let (ran, queued) = match counted[..] {
            [ran_ns, queued_ns, _] if ran_ns > 0 => {
                (Duration::from_nanos(ran_ns), Some(Duration::from_nanos(queued_ns)))
            }
            _ => {
                let ms = (ticks(14)? + ticks(15)?).saturating_mul(1_000) / procfs::ticks_per_second().max(1);
                (Duration::from_millis(ms), None)
            }
        };
        Some(Self { is_runnable: fields.first() == Some(&"R"), ran, queued })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_times_are_taken_from_both_files() {
        let stat = "7 (edr-a) D) S 4 5 6 7 8 9 10 11 12 13 250 50 0 0 20 0 1 0 500";
        let ms = Duration::from_millis;
        let counted = ThreadAccount { is_runnable: false, ran: ms(2), queued: Some(ms(3)) };
        assert_eq!(ThreadAccount::parse(stat, "2000000 3000000 9\n"), Some(counted));
        let by_ticks =
            ThreadAccount { is_runnable: false, ran: ms(300_000 / procfs::ticks_per_second()), queued: None };
        for uncounted in ["0 0 0\n", "", "x"] {
            assert_eq!(ThreadAccount::parse(stat, uncounted), Some(by_ticks), "{uncounted:?}");
        }
        assert_eq!(ThreadAccount::parse("7 (edr", "1 1 1"), None);
    }

    #[test]
    fn a_waiting_thread_is_distinguished_from_a_running_one() {
        let tid = nix::unistd::gettid().as_raw();
        assert!(ThreadAccount::read(tid, &mut Vec::new()).unwrap().is_runnable);
        let (tell, told) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            held.recv().is_err()
        });
        let tid = told.recv().unwrap();
        while ThreadAccount::read(tid, &mut Vec::new()).unwrap().is_runnable {
            std::thread::yield_now();
        }
        drop(release);
        assert!(thread.join().unwrap());
        assert_eq!(ThreadAccount::read(tid, &mut Vec::new()), None);
    }
}
