//! The psad daemon: the process, and the source of the packets.

use std::path::Path;

use edr_wire::snapshot::{PsadMode, PsadRunState};

use super::config::Conf;
use crate::common::files::read_config;
use crate::common::hung::AbandonableThread;
use crate::common::lines::number;

/// A running process named in a pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaemonProcess {
    pub(crate) pid: u32,
    /// Field 22 of `/proc/PID/stat`, which detects a reused pid.
    pub(crate) start_ticks: u64,
}

/// The result of checking a pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidFile {
    /// The file is missing or unreadable.
    Missing,
    /// The kernel does not answer the read of the process's files.
    Unanswered,
    /// The process is gone, or the pid belongs to another program.
    Stale,
    /// The process exists.
    Running(DaemonProcess),
}

impl PidFile {
    pub(crate) fn running(self) -> Option<DaemonProcess> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }
}

/// Reads the pid file at `path` and checks that the command line of the process contains `program`. psad is a Perl
/// script, so the name of the executable would be `perl`.
pub(crate) fn look_up(path: &Path, proc_root: &Path, program: &str, thread: &mut AbandonableThread) -> PidFile {
    let Ok(text) = read_config(path) else { return PidFile::Missing };
    let Some(pid) = number::<u32>(text.trim_ascii()).filter(|&pid| pid > 0) else { return PidFile::Stale };
    // A stale pid file of psad may contain the pid of an unrelated process.
    let (process, program) = (proc_root.join(pid.to_string()), program.to_owned());
    let answer = thread.run(move |progress| {
        let command_line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        progress.beat();
        memchr::memmem::find(&command_line, program.as_bytes())?;
        parse_start_ticks(&std::fs::read(process.join("stat")).unwrap_or_default())
    });
    match answer {
        Ok(Some(start_ticks)) => PidFile::Running(DaemonProcess { pid, start_ticks }),
        Ok(None) => PidFile::Stale,
        Err(_) => PidFile::Unanswered,
    }
}

/// Parses field 22 of proc_pid_stat(5). Fields are counted from the last `)`, because `comm` may contain any byte.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let fields = &stat[memchr::memrchr(b')', stat)? + 1..];
    number(fields.trim_ascii().split(|&byte| byte == b' ').nth(19)?)
}

/// Start time of a process, Unix time in ns: `btime` of proc_stat(5) plus the start ticks.
pub(crate) fn started_ns(running: DaemonProcess, proc_root: &Path) -> Option<i64> {
    let stat = std::fs::read(proc_root.join("stat")).ok()?;
    let boot_s: i64 = crate::common::lines::lines(&stat).find_map(|line| number(line.strip_prefix(b"btime ")?))?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let ticks = i64::try_from(running.start_ticks).ok()?;
    boot_s.checked_mul(1_000_000_000)?.checked_add(ticks.checked_mul(1_000_000_000)? / per_second)
}

/// True when a process named like `systemd-journald` runs: psad makes the same check at the start.
pub(crate) fn journald_runs(proc_root: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir(proc_root) else { return false };
    processes.flatten().any(|process| {
        let is_pid = process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        // `comm` (proc_pid_comm(5)) is cut to 15 bytes.
        is_pid && std::fs::read(process.path().join("comm")).is_ok_and(|comm| comm.starts_with(b"systemd-journal"))
    })
}

/// Determines the source of psad's packets: from psad's helper processes, otherwise by the rules of psad's start (psad,
/// psad.conf).
pub(crate) fn mode(conf: &Conf, reader_runs: bool, kmsgsd_runs: bool, journald_runs: bool) -> PsadMode {
    if conf.get("SYSLOG_DAEMON").is_some_and(|daemon| daemon == "ulogd") {
        PsadMode::Ulogd
    } else if reader_runs {
        PsadMode::Journal
    } else if kmsgsd_runs {
        PsadMode::Kmsgsd
    } else if conf.yes("ENABLE_FW_MSG_READ_CMD", false) || (conf.yes("AUTO_DETECT_JOURNALCTL", true) && journald_runs) {
        PsadMode::Journal
    } else if conf.yes("ENABLE_SYSLOG_FILE", true) {
        PsadMode::File
    } else {
        PsadMode::Kmsgsd
    }
}

/// Determines psad's run state. The heartbeat is the age of the files that psad rewrites at each pass, with or without
/// packets.
pub(crate) fn run_state(pid_file: PidFile, heartbeat_age_s: Option<u64>, check_interval_s: u64) -> PsadRunState {
    // Three passes, and the time of a slow pass.
    let fresh = heartbeat_age_s.is_some_and(|age| age <= 3 * check_interval_s.max(1) + 1);
    match pid_file {
        PidFile::Running(_) if fresh => PsadRunState::Running,
        // After the start psad needs some seconds for the first pass.
        PidFile::Running(_) => PsadRunState::Stuck,
        PidFile::Stale => PsadRunState::Dead,
        // The processes may be invisible here (another pid namespace): then only the heartbeat counts.
        PidFile::Missing | PidFile::Unanswered if fresh => PsadRunState::Running,
        PidFile::Missing => PsadRunState::Dead,
        PidFile::Unanswered => PsadRunState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn conf(text: &str) -> Conf {
        let mut conf = Conf::default();
        conf.add(text.as_bytes());
        conf
    }

    #[test]
    fn modes() {
        let default = conf("");
        assert_eq!(mode(&default, false, false, true), PsadMode::Journal);
        assert_eq!(mode(&default, false, false, false), PsadMode::File);
        assert_eq!(mode(&conf("AUTO_DETECT_JOURNALCTL N;\n"), false, false, true), PsadMode::File);
        assert_eq!(mode(&conf("ENABLE_SYSLOG_FILE N;\n"), false, false, false), PsadMode::Kmsgsd);
        assert_eq!(mode(&default, false, true, false), PsadMode::Kmsgsd);
        assert_eq!(mode(&conf("SYSLOG_DAEMON ulogd;\n"), true, false, true), PsadMode::Ulogd);
    }

    #[test]
    fn states() {
        let running = PidFile::Running(DaemonProcess { pid: 7, start_ticks: 1 });
        assert_eq!(run_state(running, Some(16), 5), PsadRunState::Running);
        assert_eq!(run_state(running, Some(17), 5), PsadRunState::Stuck);
        assert_eq!(run_state(PidFile::Stale, Some(1), 5), PsadRunState::Dead);
        assert_eq!(run_state(PidFile::Missing, Some(1), 5), PsadRunState::Running);
        assert_eq!(run_state(PidFile::Missing, None, 5), PsadRunState::Dead);
    }

    #[test]
    fn a_pid_is_psads_only_with_psads_command_line() {
        let (root, mut thread) = (tempfile::tempdir().unwrap(), AbandonableThread::new("test", 1));
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let pid_file = root.path().join("psad.pid");
        assert_eq!(look_up(&pid_file, root.path(), "psad", &mut thread), PidFile::Missing);
        write("psad.pid", "77\n");
        assert_eq!(look_up(&pid_file, root.path(), "psad", &mut thread), PidFile::Stale);
        write("77/cmdline", "/usr/bin/perl\0-w\0/usr/sbin/psad\0");
        write("77/stat", "77 (ev) l) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20");
        write("stat", "cpu 1\nbtime 1000\n");
        let found = look_up(&pid_file, root.path(), "psad", &mut thread);
        assert_eq!(found, PidFile::Running(DaemonProcess { pid: 77, start_ticks: 4242 }));
        assert_eq!(started_ns(found.running().unwrap(), root.path()), Some(1_042_420_000_000));
        write("77/cmdline", "sshd\0");
        assert_eq!(look_up(&pid_file, root.path(), "psad", &mut thread), PidFile::Stale);
    }

    #[test]
    fn a_process_that_does_not_answer_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let mut thread = AbandonableThread::new("test", 3).with_hung_after(Duration::from_millis(20));
        let pid_file = root.path().join("psad.pid");
        std::fs::write(&pid_file, "77\n").unwrap();
        std::fs::create_dir(root.path().join("77")).unwrap();
        let fifo = root.path().join("77/cmdline");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..3 {
            assert_eq!(look_up(&pid_file, root.path(), "psad", &mut thread), PidFile::Unanswered);
        }
        assert_eq!(run_state(PidFile::Unanswered, None, 5), PsadRunState::Unknown);
        drop(std::fs::OpenOptions::new().write(true).open(fifo).unwrap());
    }
}
