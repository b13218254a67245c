//! The state of psad, and the packets analysed by psad.
//!
//! Promises: the state is read from psad's files. Each file is taken as a whole, and the last good value is kept while
//! psad rewrites the file. A fault in a file is reported, never guessed away. A dead, stuck or restarted psad is
//! reported. The cost follows change: an unchanged file or folder is not read again.
//!
//! The agent does not run psad, does not communicate with psad, and writes nothing into psad's folder.

mod blocked;
mod config;
mod counters;
mod daemon;
mod file_value;
mod folder;
#[cfg(test)]
mod properties;
mod rankings;
mod signatures;
mod source_folders;
mod sources;
mod tree;
mod watch;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, Position, Psad, PsadConf, PsadMode, PsadRunState};

use self::config::{Arguments, Conf, parse_daemon_args};
use self::daemon::{DaemonProcess, PidFile};
use self::tree::{FileTimes, PsadFileNames, PsadFiles};
use crate::common::files::{FileStamp, read_config, stamp_of_path};
use crate::common::hung::AbandonableThread;
use crate::common::hung::policy::PSAD_THREADS_MAX;
use crate::firewall_log::{JOURNAL, JournalTail, LogContent, LogFormat, LogRows, PacketLog};
use crate::tick::{RowCount, Source, Tick};

/// Default of psad's folder.
const PSAD_DIR: &str = "/var/log/psad";
/// Default of the folder of psad's pid files.
const PSAD_RUN_DIR: &str = "/var/run/psad";

/// Default number of sources sent in detail. A source has about 400 bytes.
pub const SOURCES_MAX: usize = 2_000;
/// Default number of packets per tick. A packet has about 500 bytes.
pub const PACKETS_MAX: usize = 10_000;

/// The places of psad's files, and limits.
#[derive(Debug, Clone)]
pub struct PsadSettings {
    /// psad's folder; `None` for the folder in `/etc/psad/psad.conf`, else `/var/log/psad`.
    pub psad_dir: Option<PathBuf>,
    /// The log with the packets, or `journal`; `None` for the log in psad's configuration.
    pub packet_log: Option<PathBuf>,
    /// `/proc`.
    pub proc_root: PathBuf,
    /// `/etc`: the folder of `psad/psad.conf` and `default/psad`.
    pub etc_dir: PathBuf,
    /// Folders of the journal in order of preference; each has a subfolder for each machine id.
    pub journal_dirs: Vec<PathBuf>,
    /// Number of sources sent in detail, worst first; the rest become totals.
    pub sources_max: usize,
    /// Packets taken per tick; further packets wait for the next tick.
    pub packets_max: usize,
}

impl Default for PsadSettings {
    fn default() -> Self {
        Self {
            psad_dir: None,
            packet_log: None,
            proc_root: PathBuf::from("/proc"),
            etc_dir: PathBuf::from("/etc"),
            journal_dirs: vec![PathBuf::from("/var/log/journal"), PathBuf::from("/run/log/journal")],
            sources_max: SOURCES_MAX,
            packets_max: PACKETS_MAX,
        }
    }
}

/// Reads psad's folder and follows the packet log.
#[derive(Debug)]
pub struct PsadReader {
    settings: PsadSettings,
    installation: PsadInstallation,
    /// Stamps of the files behind `installation`.
    config_files: Vec<(PathBuf, Option<FileStamp>)>,
    /// psad's process at the time of reading the configuration, because psad reads the configuration only at the start.
    daemon: Option<DaemonProcess>,
    mode: PsadMode,
    tree: PsadFiles,
    logs: Vec<PacketLog>,
    /// Positions from an earlier run, for logs not yet open.
    remembered: Vec<Position>,
    /// Reads files of the process named by a pid file.
    thread: AbandonableThread,
}

/// The places of psad's files according to psad's configuration.
#[derive(Debug, Clone, Default)]
struct PsadInstallation {
    conf: Conf,
    check_interval_s: u64,
    psad_dir: PathBuf,
    /// `None` for a folder set by hand to another folder than in the configuration: then the run folder belongs to
    /// another psad.
    run_dir: Option<PathBuf>,
}

impl PsadReader {
    /// Opens the reader and continues at `positions` (from the newest frame in the spool).
    pub fn open(settings: PsadSettings, positions: &[Position]) -> Self {
        let mut reader = Self {
            installation: PsadInstallation::default(),
            config_files: Vec::new(),
            daemon: None,
            mode: PsadMode::Absent,
            tree: PsadFiles::new(PathBuf::new(), PsadFileNames::of(&Conf::default())),
            logs: Vec::new(),
            remembered: positions.to_vec(),
            thread: AbandonableThread::new("edr-psad", PSAD_THREADS_MAX),
            settings,
        };
        reader.configure(None);
        reader
    }

    /// Reads psad's configuration and updates all dependent values. A restart of psad discards the old state.
    fn configure(&mut self, daemon: Option<DaemonProcess>) {
        let restarted = daemon.is_some() && self.daemon.is_some_and(|before| Some(before) != daemon);
        self.daemon = daemon;
        (self.installation, self.config_files) = PsadInstallation::read(&self.settings);
        let names = PsadFileNames::of(&self.installation.conf);
        if !self.tree.is_of(&self.installation.psad_dir, &names) {
            self.tree = PsadFiles::new(self.installation.psad_dir.clone(), names);
        } else if restarted {
            self.tree.forget();
        }
        let mut runs = |key, name, program| self.pid_file(key, name, program).running().is_some();
        let reader_runs = runs("PSAD_FW_READ_PID_FILE", "psad_fw_read.pid", "");
        let kmsgsd_runs = runs("KMSGSD_PID_FILE", "kmsgsd.pid", "kmsgsd");
        let journald_runs = daemon::journald_runs(&self.settings.proc_root);
        self.mode = match self.installation.run_dir {
            Some(_) => daemon::mode(&self.installation.conf, reader_runs, kmsgsd_runs, journald_runs),
            None => self.installation.mode_by_files(),
        };
    }

    fn pid_file(&mut self, key: &str, name: &str, program: &str) -> PidFile {
        let Some(run_dir) = &self.installation.run_dir else { return PidFile::Missing };
        let path = self.installation.conf.path(key, || run_dir.join(name));
        daemon::look_up(&path, &self.settings.proc_root, program, &mut self.thread)
    }

    /// Fills in psad's run state and the start of its counters.
    fn describe(&self, psad: &mut Psad, pid_file: PidFile, times: FileTimes, now_ns: i64) {
        let conf = &self.installation.conf;
        psad.mode = self.mode;
        psad.fresh_as_of = times.heartbeat_ns;
        let age_s = times.heartbeat_ns.map(|ns| u64::try_from(now_ns.saturating_sub(ns) / 1_000_000_000).unwrap_or(0));
        psad.state = daemon::run_state(pid_file, age_s, self.installation.check_interval_s);
        psad.pid = pid_file.running().map(|running| running.pid);
        // dshield_ctr is written at psad's start and after a mail to DShield.
        let dshield = conf.yes("ENABLE_DSHIELD_ALERTS", false);
        let started_ns = match pid_file.running() {
            Some(running) => daemon::started_ns(running, &self.settings.proc_root),
            None => times.dshield_ns.filter(|_| !dshield).max(times.fell_ns),
        };
        psad.status_stale = started_ns.zip(times.status_ns).is_some_and(|(started, status)| status < started);
        psad.counters_since = started_ns.filter(|_| !conf.yes("IMPORT_OLD_SCANS", false));
        psad.conf = (!conf.is_empty() && self.installation.run_dir.is_some()).then(|| self.installation.to_wire());
    }

    /// Chooses the logs to read, and keeps the positions in logs that stay.
    fn choose_logs(&mut self, mode: PsadMode) {
        let mut wanted = Vec::new();
        // The present log stays chosen while the file exists. Between a rotation and the next line the log is empty;
        // reading another log in this time would take lines twice.
        let known = |path: &Path| {
            let source = path.as_os_str().as_bytes();
            let is_open = self.logs.iter().any(|log| log.path() == path);
            (is_open || self.remembered.iter().any(|position| position.source.0 == source)) && path.exists()
        };
        let choose = |candidates: Vec<PathBuf>| {
            let chosen =
                candidates.iter().find(|path| known(path)).or_else(|| candidates.iter().find(|path| has_lines(path)));
            chosen.cloned()
        };
        let (candidates, format) = self.installation.packet_logs(&self.settings, mode);
        if format == LogFormat::Journal {
            wanted.push((PathBuf::from(JOURNAL), format, LogContent::Packets));
        } else if let Some(path) = choose(candidates) {
            wanted.push((path, format, LogContent::Packets));
        } else if self.installation.has_journal(&self.settings) {
            wanted.push((PathBuf::from(JOURNAL), LogFormat::Journal, LogContent::Packets));
        }
        // The journal also has psad's own lines.
        if wanted.iter().all(|(_, format, _)| *format != LogFormat::Journal)
            && let Some(path) = choose(self.installation.event_logs())
            && wanted.iter().all(|(packet_log, ..)| *packet_log != path)
        {
            wanted.push((path, LogFormat::Syslog, LogContent::Events));
        }
        let mut open = std::mem::take(&mut self.logs);
        for (path, format, wanted) in wanted {
            let log = match open.iter().position(|log| log.is_of(&path, format)) {
                Some(place) => open.swap_remove(place),
                None if format == LogFormat::Journal => {
                    PacketLog::journal(self.settings.journal_dirs.clone(), &self.remembered)
                }
                None => PacketLog::file(path, format, wanted, &self.remembered),
            };
            self.logs.push(log);
        }
        for left in open {
            let positions = left.positions();
            self.remembered.retain(|known| positions.iter().all(|position| position.source != known.source));
            self.remembered.extend(positions);
        }
    }
}

impl Source for PsadReader {
    fn name(&self) -> &'static str {
        "psad"
    }

    /// Adds the packets since the last reading, and psad's whole state.
    fn read(&mut self, tick: &mut Tick) -> RowCount {
        let gaps = &mut tick.gaps;
        let now_ns = now_ns();
        let pid_file = self.pid_file("PSAD_PID_FILE", "psad.pid", "psad");
        if pid_file == PidFile::Unanswered {
            gaps.add(
                "psad",
                None,
                b"pid",
                GapReason::Stuck,
                "the kernel does not answer for the process in psad's pid file",
            );
        }
        let changed = |(path, stamp): &(PathBuf, Option<FileStamp>)| stamp_of_path(path) != *stamp;
        if pid_file.running() != self.daemon || self.config_files.iter().any(changed) {
            self.configure(pid_file.running());
        }

        let mut psad = Psad::default();
        let times = match self.tree.read(&mut psad, self.settings.sources_max, now_ns, gaps) {
            Ok(times) => times,
            Err(refusal) => {
                gaps.add("psad", None, b"folder", refusal.reason(), &refusal.detail());
                psad.mode = self.mode;
                psad.state = PsadRunState::Unknown;
                None
            }
        };
        if let Some(times) = times {
            self.describe(&mut psad, pid_file, times, now_ns);
        }
        self.choose_logs(psad.mode);
        let mut found = LogRows { packets: std::mem::take(&mut tick.rows.packets), events: Vec::new() };
        for log in &mut self.logs {
            log.read(now_ns, self.settings.packets_max, &mut found, gaps);
        }
        psad.events = found.events;
        if let (Some(conf), Some(log)) = (&mut psad.conf, self.logs.first()) {
            conf.packet_log = Bytes::from(log.path().as_os_str().as_bytes());
        }
        tick.positions = self.logs.iter().flat_map(PacketLog::positions).collect();
        (tick.psad, tick.rows.packets) = (psad, found.packets);
        RowCount { rows: tick.rows.packets.len(), carried: 0 }
    }
}

impl PsadInstallation {
    /// Reads `psad.conf` and the override files. Returns also the files that determine the result.
    fn read(settings: &PsadSettings) -> (Self, Vec<(PathBuf, Option<FileStamp>)>) {
        let mut files = Vec::new();
        let mut read = |path: &Path| {
            files.push((path.to_owned(), stamp_of_path(path)));
            read_config(path).unwrap_or_default()
        };
        let main = settings.etc_dir.join("psad/psad.conf");
        let mut conf = Conf::default();
        conf.add(&read(&main));
        // The arguments of a running daemon take precedence; the arguments in the start-up file count when the daemon
        // does not run.
        let run_dir = conf.path("PSAD_RUN_DIR", || PathBuf::from(PSAD_RUN_DIR));
        let command_line = read(&conf.path("PSAD_CMDLINE_FILE", || run_dir.join("psad.cmd")));
        let arguments = if command_line.is_empty() {
            parse_daemon_args(&read(&settings.etc_dir.join("default/psad")))
        } else {
            command_line
        };
        let arguments = Arguments::parse(&arguments);
        if !arguments.overrides.is_empty() || arguments.config.is_some() {
            conf = Conf::default();
            for path in &arguments.overrides {
                conf.add(&read(path));
            }
            conf.add(&read(arguments.config.as_deref().unwrap_or(&main)));
        }
        let conf_dir = conf.path("PSAD_DIR", || PathBuf::from(PSAD_DIR));
        let psad_dir = settings.psad_dir.clone().unwrap_or_else(|| conf_dir.clone());
        let run_dir = conf.path("PSAD_RUN_DIR", || PathBuf::from(PSAD_RUN_DIR));
        let run_dir = (psad_dir == conf_dir).then_some(run_dir);
        let check_interval_s = arguments.interval_s.unwrap_or_else(|| conf.number("CHECK_INTERVAL", 5));
        (Self { conf, check_interval_s, psad_dir, run_dir }, files)
    }

    /// Derives the mode from the files, for a psad with a folder but without a configuration.
    fn mode_by_files(&self) -> PsadMode {
        match () {
            () if has_lines(&self.psad_dir.join("fwdata")) => PsadMode::Kmsgsd,
            () if has_lines(&self.psad_dir.join("ulogd.log")) => PsadMode::Ulogd,
            () => PsadMode::File,
        }
    }

    /// Logs that may have the packets, in order of preference, with their format.
    fn packet_logs(&self, settings: &PsadSettings, mode: PsadMode) -> (Vec<PathBuf>, LogFormat) {
        if let Some(path) = &settings.packet_log {
            let name = path.file_name().unwrap_or_default().as_bytes();
            if path == Path::new(JOURNAL) {
                return (Vec::new(), LogFormat::Journal);
            }
            let format = match () {
                () if name.starts_with(b"fwdata") => LogFormat::Fwdata,
                () if name.starts_with(b"ulog") => LogFormat::Ulogd,
                () => LogFormat::Syslog,
            };
            return (vec![path.clone()], format);
        }
        match mode {
            PsadMode::Journal if self.has_journal(settings) => return (Vec::new(), LogFormat::Journal),
            PsadMode::Ulogd => return (vec![self.in_dir("ULOG_DATA_FILE", "ulogd.log")], LogFormat::Ulogd),
            PsadMode::Kmsgsd => return (vec![self.in_dir("FW_DATA_FILE", "fwdata")], LogFormat::Fwdata),
            _ => {}
        }
        let own = self.run_dir.is_some().then(|| self.conf.path("IPT_SYSLOG_FILE", || self.beside("messages")));
        let candidates = own.into_iter().chain(["kern.log", "messages", "syslog"].map(|name| self.beside(name)));
        (candidates.collect(), LogFormat::Syslog)
    }

    /// True when the journal belongs to this psad and exists.
    fn has_journal(&self, settings: &PsadSettings) -> bool {
        self.run_dir.is_some() && JournalTail::exists(&settings.journal_dirs)
    }

    /// Files with psad's own lines (facility local7) under the rules shipped by distributions.
    fn event_logs(&self) -> Vec<PathBuf> {
        ["syslog", "messages"].map(|name| self.beside(name)).to_vec()
    }

    /// A file of psad's folder, which may differ from the folder of the configuration.
    fn in_dir(&self, key: &str, name: &str) -> PathBuf {
        match &self.run_dir {
            Some(_) => self.conf.path(key, || self.psad_dir.join(name)),
            None => self.psad_dir.join(name),
        }
    }

    /// A log beside psad's folder: in `/var/log`, or in a copy of `/var/log`.
    fn beside(&self, name: &str) -> PathBuf {
        self.psad_dir.parent().unwrap_or(Path::new("/")).join(name)
    }

    fn to_wire(&self) -> PsadConf {
        let conf = &self.conf;
        let blocks = conf.yes("ENABLE_AUTO_IDS", false);
        let defaults = [5, 15, 150, 1_500, 10_000];
        PsadConf {
            dir: Bytes::from(self.psad_dir.as_os_str().as_bytes()),
            packet_log: Bytes::default(),
            check_interval_s: self.check_interval_s,
            scan_timeout_s: conf.number("SCAN_TIMEOUT", 3_600),
            danger_levels: [1, 2, 3, 4, 5].map(|n| conf.number(&format!("DANGER_LEVEL{n}"), defaults[n - 1])),
            min_danger_level: conf.number("MIN_DANGER_LEVEL", 1),
            email_danger_level: conf.number("EMAIL_ALERT_DANGER_LEVEL", 1),
            block_danger_level: blocks.then(|| conf.number("AUTO_IDS_DANGER_LEVEL", 5)),
            block_timeout_s: blocks.then(|| conf.number("AUTO_BLOCK_TIMEOUT", 3_600)),
            import_old_scans: conf.yes("IMPORT_OLD_SCANS", false),
            dshield: conf.yes("ENABLE_DSHIELD_ALERTS", false),
            top_rows: ["TOP_IP_LOG_THRESHOLD", "TOP_SIGS_LOG_THRESHOLD", "TOP_PORTS_LOG_THRESHOLD"]
                .map(|key| conf.number(key, 500)),
        }
    }
}

/// True for a regular file with content: psad creates a missing log, and some hosts never write to that file.
fn has_lines(path: &Path) -> bool {
    stamp_of_path(path).is_some_and(|stamp| stamp.size > 0)
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
