//! SIGABRT: logs the state of every thread before the agent ends.
//!
//! The watchdog sends SIGABRT when a thread of the agent no longer moves (`WatchdogSignal=` of the unit). There is no
//! core dump (`LimitCORE=0`: memory with data of every process must not leave the agent). A separate thread takes the
//! signal, so any other thread may hang, `main` included. The report needs no other thread: all facts come from the
//! agent's own folder in `/proc`, where a thread may always read its siblings, and from the heartbeats. Then the
//! process ends by SIGABRT, as by the default action.
//!
//! A handled signal may fail to kill. Three safeguards:
//! - the report may hang in a blocked log: the kernel's alarm ends the process after [`ACCOUNT_SECONDS_MAX`], by
//!   SIGALRM, without the help of a thread;
//! - a process in which even this thread does not run (frozen, or without memory) gets SIGKILL from systemd after
//!   `TimeoutAbortSec=`. The default action would have ended the process sooner, but without a report;
//! - abort(3), as after a panic, unblocks the signal and bypasses this thread.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::alarm;

use crate::event::Event;
use crate::heartbeat::{self, Heartbeat};

/// Time limit of the report, seconds. Well below `TimeoutAbortSec=`.
const ACCOUNT_SECONDS_MAX: u32 = 3;
/// Maximum number of reported threads; the Kafka client has a thread for each broker.
const THREADS_MAX: usize = 128;
const TASKS: &str = "/proc/self/task";

/// Takes SIGABRT.
#[derive(Debug)]
pub struct Aborts {
    signal: SignalFd,
    heartbeats: Vec<(&'static str, Arc<Heartbeat>)>,
}

impl Aborts {
    /// Blocks SIGABRT in the calling thread and in all threads started later, so the call must come before the first
    /// thread. Afterwards a thread has to [`answer`](Self::answer). The report lists the heartbeats by the names of
    /// their threads.
    ///
    /// # Errors
    /// When no descriptor is available; SIGABRT then keeps its default action.
    pub fn take(heartbeats: Vec<(&'static str, Arc<Heartbeat>)>) -> nix::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGABRT);
        let signal = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        signals.thread_block()?;
        Ok(Self { signal, heartbeats })
    }

    /// Waits for the signal, logs the report, and ends the process. Returns only when the descriptor fails.
    pub fn answer(&self) {
        loop {
            match self.signal.read_signal() {
                Ok(Some(info)) => {
                    alarm::set(ACCOUNT_SECONDS_MAX);
                    self.account(&info);
                    std::process::abort();
                }
                Ok(None) | Err(nix::Error::EINTR) => {}
                Err(errno) => {
                    log::error!("wait for SIGABRT: {errno}");
                    return;
                }
            }
        }
    }

    fn account(&self, info: &siginfo) {
        let (pid, uid) = (info.ssi_pid, info.ssi_uid);
        say(format_args!("SIGABRT from pid {pid} (uid {uid}); before it ends this process:"));
        // A line for each thread: the first lines are in the log even if a later read hangs.
        for (name, heartbeat) in &self.heartbeats {
            say(format_args!("{name} {}", heartbeat.in_words()));
        }
        if let Some(stage) = heartbeat::stage() {
            say(format_args!("stage of the tick: {stage}"));
        }
        let tasks = match std::fs::read_dir(TASKS) {
            Ok(tasks) => tasks,
            Err(error) => return say(format_args!("list {TASKS}: {error}")),
        };
        for task in tasks.flatten().take(THREADS_MAX) {
            say(format_args!("thread {} {}", task.file_name().to_string_lossy(), ThreadState::read(&task.path())));
        }
    }
}

fn say(words: fmt::Arguments<'_>) {
    edr_daemon::event!(log::Level::Error, Event::Aborted, "{words}");
}

/// The kernel's facts about a thread (proc_pid_stat(5), proc_pid_wchan(5), proc_pid_syscall(5)). Unknown facts are left
/// out.
#[derive(Debug, Default, PartialEq, Eq)]
struct ThreadState {
    name: String,
    /// `R` runs, `S` sleeps, `D` sleeps and cannot be woken.
    state: Option<char>,
    /// CPU time, clock ticks. High for a thread in an endless loop.
    cpu_ticks: Option<u64>,
    call: Option<Call>,
    /// The file behind the descriptor of the call.
    on: Option<String>,
    /// The kernel function in which the thread waits.
    wchan: Option<String>,
}

impl ThreadState {
    fn read(task: &Path) -> Self {
        let text = |file: &str| std::fs::read(task.join(file)).unwrap_or_default();
        let (name, state, cpu_ticks) = parse_stat(&text("stat"));
        let call = parse_syscall(&text("syscall"));
        let wchan = String::from_utf8_lossy(&text("wchan")).into_owned();
        let on = call.and_then(Call::descriptor).and_then(|fd| {
            // The link's text is in kernel memory, so the read waits for no file system.
            std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
        });
        Self {
            name,
            state,
            cpu_ticks,
            call,
            on: on.map(|path| path.display().to_string()),
            wchan: Some(wchan).filter(|wchan| !matches!(wchan.as_str(), "" | "0")),
        }
    }
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}): state {}", self.name, self.state.unwrap_or('?'))?;
        if let Some(ticks) = self.cpu_ticks {
            let millis = ticks.saturating_mul(1_000) / procfs::ticks_per_second().max(1);
            write!(f, ", CPU time {millis} ms")?;
        }
        match self.call {
            None => {}
            Some(Call::None) => f.write_str(", in no system call")?,
            Some(Call::Made { number, .. }) => match known(number) {
                Some((name, _)) => write!(f, ", in {name}")?,
                None => write!(f, ", in system call {number}")?,
            },
        }
        if let Some(on) = &self.on {
            write!(f, " on {on}")?;
        }
        if let Some(wchan) = &self.wchan {
            write!(f, ", waits in {wchan}")?;
        }
        Ok(())
    }
}

/// Returns name, state and CPU time. The name may contain any byte, also a parenthesis, and ends at the last
/// parenthesis.
fn parse_stat(stat: &[u8]) -> (String, Option<char>, Option<u64>) {
    let open = stat.iter().position(|&byte| byte == b'(');
    let close = stat.iter().rposition(|&byte| byte == b')');
    let Some((open, close)) = open.zip(close).filter(|(open, close)| open < close) else {
        return (String::new(), None, None);
    };
    let name = stat.get(open + 1..close).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let rest = String::from_utf8_lossy(stat.get(close + 1..).unwrap_or_default()).into_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The state is field 3; utime and stime are 14 and 15.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let cpu_ticks = number(14).zip(number(15)).map(|(user, system)| user.saturating_add(system));
    (name, fields.first().and_then(|state| state.chars().next()), cpu_ticks)
}

/// Where a thread is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// The thread runs, or waits without a system call (for a page).
    None,
    Made {
        number: i64,
        first: u64,
    },
}

impl Call {
    fn descriptor(self) -> Option<u64> {
        match self {
            Self::Made { number, first } if known(number).is_some_and(|(_, has_descriptor)| has_descriptor) => {
                Some(first)
            }
            _ => None,
        }
    }
}

/// Parses `running`, `-1 SP PC`, or a number and its six arguments.
fn parse_syscall(text: &[u8]) -> Option<Call> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let mut words = text.split(' ');
    let word = words.next()?;
    if word == "running" {
        return Some(Call::None);
    }
    let number: i64 = word.parse().ok()?;
    let first = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    Some(if number < 0 { Call::None } else { Call::Made { number, first } })
}

/// Name of a system call in which an agent may wait; true when the first argument is a descriptor. The numbers are of
/// the build's architecture.
fn known(number: i64) -> Option<(&'static str, bool)> {
    Some(match number {
        libc::SYS_read => ("read", true),
        libc::SYS_pread64 => ("pread64", true),
        libc::SYS_write => ("write", true),
        libc::SYS_writev => ("writev", true),
        libc::SYS_pwrite64 => ("pwrite64", true),
        libc::SYS_fsync => ("fsync", true),
        libc::SYS_fdatasync => ("fdatasync", true),
        libc::SYS_ftruncate => ("ftruncate", true),
        libc::SYS_fallocate => ("fallocate", true),
        libc::SYS_flock => ("flock", true),
        libc::SYS_close => ("close", true),
        libc::SYS_getdents64 => ("getdents64", true),
        libc::SYS_openat => ("openat", true),
        libc::SYS_openat2 => ("openat2", true),
        libc::SYS_readlinkat => ("readlinkat", true),
        libc::SYS_newfstatat => ("newfstatat", true),
        libc::SYS_statx => ("statx", true),
        libc::SYS_unlinkat => ("unlinkat", true),
        libc::SYS_renameat2 => ("renameat2", true),
        libc::SYS_recvfrom => ("recvfrom", true),
        libc::SYS_recvmsg => ("recvmsg", true),
        libc::SYS_sendto => ("sendto", true),
        libc::SYS_sendmsg => ("sendmsg", true),
        libc::SYS_connect => ("connect", true),
        libc::SYS_epoll_pwait => ("epoll_pwait", true),
        libc::SYS_ppoll => ("ppoll", false),
        libc::SYS_futex => ("futex", false),
        libc::SYS_nanosleep => ("nanosleep", false),
        libc::SYS_clock_nanosleep => ("clock_nanosleep", false),
        libc::SYS_mmap => ("mmap", false),
        libc::SYS_munmap => ("munmap", false),
        libc::SYS_madvise => ("madvise", false),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => ("poll", false),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => ("open", false),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => ("unlink", false),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => ("rename", false),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => ("epoll_wait", true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat = b"12 (a) R (b) D 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20";
        assert_eq!(parse_stat(stat), ("a) R (b".to_owned(), Some('D'), Some(42)));
        for broken in [&b""[..], b"12", b"12 (a", b")(", b"12 (a)"] {
            assert_eq!((parse_stat(broken).1, parse_stat(broken).2), (None, None), "{broken:?}");
        }
    }

    #[test]
    fn a_call_its_argument_and_no_call() {
        assert_eq!(parse_syscall(b"running\n"), Some(Call::None));
        assert_eq!(parse_syscall(b"-1 0x7ffc 0x7f01\n"), Some(Call::None));
        let made = Call::Made { number: libc::SYS_read, first: 17 };
        let text = format!("{} 0x11 0x7f 0x1 0x0 0x0 0x0 0x7ffc 0x7f01\n", libc::SYS_read);
        assert_eq!(parse_syscall(text.as_bytes()), Some(made));
        assert_eq!(made.descriptor(), Some(17));
        assert_eq!(Call::Made { number: libc::SYS_futex, first: 17 }.descriptor(), None);
        for broken in [&b""[..], b"0", b"0 17", b"0 0xg", b"\xff"] {
            assert_eq!(parse_syscall(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_waiting_thread_is_shown_with_its_call_and_file() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let descriptor = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = std::thread::Builder::new().name("waits (here)".to_owned()).spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            reader.read(&mut [0])
        });
        let path = Path::new(TASKS).join(told.recv().unwrap().to_string());
        let task = loop {
            let task = ThreadState::read(&path);
            if task.on.is_some() && task.state == Some('S') {
                break task;
            }
            std::thread::yield_now();
        };
        assert_eq!((task.name.as_str(), task.on.as_deref()), ("waits (here)", descriptor.to_str()));
        let said = task.to_string();
        assert!(said.starts_with("(waits (here)): state S, CPU time "), "{said}");
        assert!(said.contains(&format!(", in read on {}", descriptor.display())), "{said}");
        drop(writer);
        assert_eq!(waiting.unwrap().join().unwrap().unwrap(), 0);
    }
}
