//! The real psad of Debian, in temporary folders. The agent's state must match psad's files, and each packet line must
//! be taken once, through new lines, rotation and a restart of psad.
//!
//! psad reads its packets in each of its modes; mail, whois and the firewall are off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use edr_sources::psad::{PsadReader, PsadSettings};
use edr_tests::unpacked::{command, unpacked};
use edr_wire::snapshot::{Gap, GapReason, PsadMode, PsadRunState};

use super::compare::{compare, tree};
use super::journal::{Journal, REMOTE};
use super::running::ChildDaemon;
use super::world::{PsadReading, PsadWorld, fixtures, read};

const PSAD: &str = "usr/share/perl5/IPTables/ChainMgr.pm";

/// psad's folders and configuration.
struct PsadBase {
    root: PathBuf,
    world: PsadWorld,
}

impl PsadBase {
    fn new(root: PathBuf, changes: &[(&str, &str)]) -> Self {
        let world = PsadWorld::empty();
        let installation = Self { root, world };
        let base = installation.base();
        for folder in ["run", "lib", "var/log/psad", "etc/psad"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        let shipped = installation.root.join("etc/psad");
        for entry in fs::read_dir(&shipped).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), base.join("etc/psad").join(entry.file_name())).unwrap();
            }
        }
        fs::create_dir_all(base.join("etc/psad/snort_rules")).unwrap();
        fs::write(base.join("etc/syslog.conf"), format!("kern.info |{}\n", base.join("lib/psadfifo").display()))
            .unwrap();
        let at = |path: &str| base.join(path).display().to_string();
        let program = |name: &str| installation.root.join("usr/sbin").join(name).display().to_string();
        let mut settings = BTreeMap::from([
            ("HOSTNAME", "fw01".to_owned()),
            ("PSAD_DIR", at("var/log/psad")),
            ("PSAD_RUN_DIR", at("run")),
            ("PSAD_FIFO_DIR", at("lib")),
            ("PSAD_CONF_DIR", at("etc/psad")),
            ("IPT_SYSLOG_FILE", at("var/log/kern.log")),
            ("ETC_SYSLOG_CONF", at("etc/syslog.conf")),
            ("ALERTING_METHODS", "noemail".to_owned()),
            ("AUTO_DETECT_JOURNALCTL", "N".to_owned()),
            ("ENABLE_WHOIS_LOOKUPS", "N".to_owned()),
            ("ENABLE_DNS_LOOKUPS", "N".to_owned()),
            ("ENABLE_FW_LOGGING_CHECK", "N".to_owned()),
            ("IFCFGTYPE", "iproute2".to_owned()),
            ("kmsgsdCmd", program("kmsgsd")),
            ("psadCmd", program("psad")),
            ("psadwatchdCmd", program("psadwatchd")),
            ("fwcheck_psadCmd", program("fwcheck_psad")),
        ]);
        // All programs outside of the folders are replaced by `true`.
        for outside in ["mailCmd", "sendmailCmd", "whoisCmd", "wgetCmd", "killallCmd", "iptablesCmd", "ip6tablesCmd"] {
            settings.insert(outside, "/bin/true".to_owned());
        }
        settings.insert("netstatCmd", "/bin/true".to_owned());
        settings.extend(changes.iter().map(|(key, value)| (*key, value.replace("$BASE", &base.display().to_string()))));
        let shipped = fs::read_to_string(shipped.join("psad.conf")).unwrap();
        let mut conf = String::new();
        for line in shipped.lines() {
            let key = line.split_whitespace().next().unwrap_or_default();
            match settings.get(key) {
                Some(value) => conf.push_str(&format!("{key} {value};\n")),
                None => conf.push_str(&format!("{line}\n")),
            }
        }
        fs::write(installation.conf(), conf).unwrap();
        installation
    }

    fn base(&self) -> PathBuf {
        self.world.log_dir().join("../..").canonicalize().unwrap()
    }

    fn conf(&self) -> PathBuf {
        self.base().join("etc/psad/psad.conf")
    }

    /// Starts psad and waits for its first pass.
    fn start(&self) -> ChildDaemon {
        let before = self.heartbeat();
        let mut psad = command(&self.root, "perl");
        psad.arg(self.root.join("usr/sbin/psad")).arg("-c").arg(self.conf());
        psad.args(["--no-daemon", "--no-whois", "--no-rdns", "--no-snort-sids", "--log-server", "-I", "1"]);
        let output = File::create(self.base().join("output")).unwrap();
        let running =
            ChildDaemon(psad.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap());
        self.wait("psad's first pass", || {
            self.heartbeat() > before && fs::metadata(self.file("top_sigs")).unwrap().len() > 0
        });
        running
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.psad(name)
    }

    /// End of psad's last pass.
    fn heartbeat(&self) -> Option<SystemTime> {
        fs::metadata(self.file("top_attackers")).ok()?.modified().ok()
    }

    fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !until() {
            let output = fs::read_to_string(self.base().join("output")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what} did not come: {output}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn settings(&self) -> PsadSettings {
        PsadSettings { psad_dir: None, ..self.world.settings() }
    }

    /// Reads at `ticks` different passes, and compares when psad changed nothing during the reading.
    fn compare(&self, reader: &mut PsadReader, seen: &mut PacketLines, ticks: usize) {
        let (mut compared, mut tried, mut last) = (0, 0, None);
        while compared < ticks {
            tried += 1;
            assert!(tried < 20 * ticks, "psad changes its files all the time");
            // Waits until a pass has been over for a while: files written just now may be half written, and are
            // reported as such.
            self.wait("a pass of psad", || {
                let age = self.heartbeat().and_then(|time| time.elapsed().ok());
                self.heartbeat() != last && age.is_some_and(|age| age > Duration::from_millis(250))
            });
            last = self.heartbeat();
            let before = tree(&self.world.log_dir().join("psad"));
            let (reading, gaps) = seen.read(reader);
            if before == tree(&self.world.log_dir().join("psad")) && compare(&before, &reading, &gaps) {
                compared += 1;
            }
        }
    }

    /// Returns the agent's reading when psad's heartbeat is fresh: on a busy machine a pass may be late.
    fn running(&self, reader: &mut PsadReader, seen: &mut PacketLines) -> PsadReading {
        let mut found = None;
        self.wait("a psad that runs", || {
            let (reading, _) = seen.read(reader);
            let runs = reading.psad.state == PsadRunState::Running;
            found = runs.then_some(reading);
            runs
        });
        found.unwrap()
    }
}

/// The packet lines taken in all ticks of the agent.
#[derive(Default)]
struct PacketLines {
    packets: Vec<String>,
    /// Number of lines and parts of lines without a packet, counted with their reasons.
    unparsed: u64,
}

impl PacketLines {
    /// Reads one tick. Returns the gaps, except gaps of packet lines.
    fn read(&mut self, reader: &mut PsadReader) -> (PsadReading, Vec<Gap>) {
        let (reading, gaps) = read(reader);
        self.packets.extend(reading.packets.iter().map(|packet| packet.raw.to_string()));
        let (packets, others): (Vec<_>, Vec<_>) =
            gaps.into_iter().partition(|gap| gap.source == "packets" && gap.reason == GapReason::Malformed);
        // A packet with an invalid value is still a packet.
        let unparsed = packets.iter().filter(|gap| gap.field.to_string() != "a field with a value that cannot be");
        self.unparsed += unparsed.map(|gap| gap.count).sum::<u64>();
        (reading, others)
    }
}

/// Packet lines of psad's test suite and of a real kernel, most without a year.
fn lines(case: &str) -> Vec<String> {
    let text = fs::read_to_string(fixtures().join(case).join("var/log/kern.log")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn append(path: &Path, lines: &[String]) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
}

#[test]
fn file_mode_through_rotation_and_restart() {
    let Some(root) = unpacked(PSAD) else { return };
    let installation = PsadBase::new(root, &[]);
    let log = installation.world.log_dir().join("kern.log");
    fs::write(&log, "").unwrap();
    let mut psad = installation.start();
    let mut reader = PsadReader::open(installation.settings(), &[]);
    let (mut fed, mut seen) = (Vec::new(), PacketLines::default());
    let mut feed = |log: &Path, lines: &[String], seen: &mut PacketLines, reader: &mut PsadReader, ticks| {
        append(log, lines);
        fed.extend_from_slice(lines);
        installation.compare(reader, seen, ticks);
    };
    for part in lines("small-scan/t2").chunks(330) {
        feed(&log, part, &mut seen, &mut reader, 2);
    }
    for part in lines("ipv6")[..1_200].chunks(600) {
        feed(&log, part, &mut seen, &mut reader, 2);
    }
    let reading = installation.running(&mut reader, &mut seen);
    assert_eq!((reading.psad.mode, reading.psad.pid), (PsadMode::File, Some(psad.0.id())));
    assert!(reading.psad.sources.iter().any(|source| source.ip == "192.168.10.55" && !source.targets.is_empty()));
    assert!(reading.psad.sources.iter().any(|source| source.ip.contains(':')));
    let since = reading.psad.counters_since.unwrap();

    // A stopped psad has no heartbeat for three passes and a second: its process exists but does nothing.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(psad.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    installation.wait("psad to be stuck", || {
        let (reading, _) = seen.read(&mut reader);
        reading.psad.state == PsadRunState::Stuck && reading.psad.pid == Some(psad.0.id())
    });
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();

    // Rotated as by logrotate. psad itself loses lines here, the agent does not.
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    for part in lines("icmp-udp-proto").chunks(450) {
        feed(&log, part, &mut seen, &mut reader, 2);
    }

    psad.stop();
    let (reading, _) = seen.read(&mut reader);
    assert_eq!((reading.psad.state, reading.psad.pid), (PsadRunState::Dead, None));
    assert!(!reading.psad.sources.is_empty(), "what a dead psad left behind is still there");
    psad = installation.start();
    feed(&log, &lines("autoblock/t1"), &mut seen, &mut reader, 5);
    let reading = installation.running(&mut reader, &mut seen);
    assert_eq!(reading.psad.pid, Some(psad.0.id()));
    assert!(reading.psad.counters_since.unwrap() > since);
    assert!(reading.psad.sources.iter().all(|source| source.ip != "192.168.10.55"), "psad forgot it at its start");
    assert_eq!(seen.unparsed, 0);
    assert!(seen.packets == fed, "{} of {} lines", seen.packets.len(), fed.len());
    psad.stop();
}

#[test]
fn kmsgsd_mode_with_fwdata() {
    let Some(root) = unpacked(PSAD) else { return };
    let installation = PsadBase::new(root, &[("ENABLE_SYSLOG_FILE", "N"), ("SYSLOG_DAEMON", "syslogd")]);
    let psad = installation.start();
    let kmsgsd = installation.base().join("run/kmsgsd.pid");
    installation.wait("kmsgsd", || fs::read_to_string(&kmsgsd).is_ok_and(|pid| !pid.trim().is_empty()));
    let pid: i32 = fs::read_to_string(&kmsgsd).unwrap().trim().parse().unwrap();
    let kmsgsd = DaemonPid(nix::unistd::Pid::from_raw(pid));
    let signal = |signal| nix::sys::signal::kill(kmsgsd.0, signal).unwrap();
    let mut pipe = OpenOptions::new().write(true).open(installation.base().join("lib/psadfifo")).unwrap();
    let mut reader = PsadReader::open(installation.settings(), &[]);
    let (mut fed, mut seen) = (Vec::new(), PacketLines::default());
    // Written line by line, like a syslog daemon. The content of fwdata is decided by kmsgsd.
    let pipe_is_empty = |pipe: &File| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        rustix::io::ioctl_fionread(pipe).unwrap() == 0 && stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    let (all_at_once, slow) = (lines("kmsgsd-fwdata/t1"), lines("small-scan/t1"));
    let bursts = bursts(&all_at_once);
    let parts = bursts.iter().map(|part| (*part, true)).chain(slow.chunks(300).map(|part| (part, false)));
    for (part, at_once) in parts {
        if at_once {
            installation.wait("an empty pipe", || pipe_is_empty(&pipe));
            signal(nix::sys::signal::Signal::SIGSTOP);
        }
        for line in part {
            pipe.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        if at_once {
            signal(nix::sys::signal::Signal::SIGCONT);
        }
        fed.extend_from_slice(part);
        installation.compare(&mut reader, &mut seen, 2);
    }
    // kmsgsd has read everything and waits for more.
    installation.wait("kmsgsd to take the rest", || pipe_is_empty(&pipe));
    let fwdata = installation.file("fwdata");
    let mut text = String::new();
    let mut mode = None;
    installation.wait("a tick that sees all of fwdata", || {
        text = fs::read_to_string(&fwdata).unwrap();
        let reading = installation.running(&mut reader, &mut seen);
        mode = Some(reading.psad.mode);
        fs::read_to_string(&fwdata).unwrap() == text
    });
    assert_eq!(mode, Some(PsadMode::Kmsgsd));
    // kmsgsd's last block may end inside a line. An incomplete line is not read yet.
    let ended = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let pieces = pieces(ended, &fed);
    let whole: Vec<&str> = pieces.iter().copied().filter(|piece| fed.iter().any(|line| line == piece)).collect();
    println!("{} whole lines and {} cut ones of {}", whole.len(), pieces.len() - whole.len(), fed.len());
    assert!(pieces.len() > whole.len(), "bursts make kmsgsd cut lines");
    assert!(whole.len() > fed.len() / 2, "kmsgsd kept {} of {} lines", whole.len(), fed.len());
    let read_whole: Vec<&String> = seen.packets.iter().filter(|line| fed.contains(line)).collect();
    assert!(read_whole == whole, "{} of {} whole lines, in their order", read_whole.len(), whole.len());
    assert_eq!(seen.packets.len() as u64 + seen.unparsed, pieces.len() as u64, "each piece is a packet or counted");
    psad.stop();
}

/// Splits `lines` so that kmsgsd's last block of each part contains only the end of a line: kmsgsd drops that block and
/// so cuts the line. kmsgsd reads 1,023 bytes at a time, and the pipe holds 64 KiB.
fn bursts(lines: &[String]) -> Vec<&[String]> {
    let (mut bursts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, line) in lines.iter().enumerate() {
        bytes += line.len() + 1;
        if at - start >= 80 && (1..60).contains(&(bytes % 1_023)) {
            bursts.push(&lines[start..=at]);
            (start, bytes) = (at + 1, 0);
        }
    }
    bursts
}

/// The lines of `fwdata`, split where kmsgsd glued the head of a `fed` line to a cut line.
fn pieces<'a>(text: &'a str, fed: &[String]) -> Vec<&'a str> {
    const TAG: &str = " kernel: ";
    let heads: BTreeSet<&str> = fed.iter().map(|line| &line[..line.find(TAG).unwrap() + TAG.len()]).collect();
    let mut pieces = Vec::new();
    for line in text.lines() {
        let found = heads.iter().flat_map(|head| line.match_indices(head).map(|(at, _)| at));
        let starts: BTreeSet<usize> = found.chain([0, line.len()]).collect();
        let starts: Vec<usize> = starts.into_iter().collect();
        pieces.extend(starts.windows(2).map(|ends| &line[ends[0]..ends[1]]));
    }
    pieces
}

/// psad's own reader runs journalctl on journal files written by systemd's code; the agent reads the same files
/// directly.
#[test]
fn journal_mode() {
    let Some(root) = unpacked(PSAD).and_then(|_| unpacked(REMOTE)) else { return };
    let Some(journalctl) = ["/usr/bin/journalctl", "/bin/journalctl"].iter().find(|path| Path::new(path).exists())
    else {
        println!("skipped: there is no journalctl for psad");
        return;
    };
    let mut journal = Journal::start(&root, &[]);
    let kernel = |case: &str| -> Vec<String> {
        lines(case).iter().map(|line| line.split_once("] ").unwrap().1.to_owned()).collect()
    };
    let (small, blocked) = (kernel("small-scan/t1"), kernel("autoblock/t1"));
    // journalctl starts with the existing entries.
    journal.write(&small[..10]);
    let arguments = format!("-f -D {} _TRANSPORT=kernel", journal.parent().display());
    let settings =
        [("ENABLE_FW_MSG_READ_CMD", "Y"), ("FW_MSG_READ_CMD", *journalctl), ("FW_MSG_READ_CMD_ARGS", &arguments)];
    let installation = PsadBase::new(root, &settings);
    let psad = installation.start();
    let child = fs::read_to_string(installation.base().join("run/psad_fw_read.pid")).unwrap();
    let _child = DaemonPid(nix::unistd::Pid::from_raw(child.trim().parse().unwrap()));
    let journal_dirs = vec![journal.parent()];
    let settings = PsadSettings { journal_dirs, ..installation.settings() };
    let mut reader = PsadReader::open(settings.clone(), &[]);
    let mut fed = small[..10].to_vec();
    let (mut seen, mut counted) = (PacketLines::default(), 0);
    // psad ignores its reader's output until the reader is silent for the first time.
    installation.compare(&mut reader, &mut seen, 4);
    for part in small[10..].chunks(250).chain(blocked.chunks(140)) {
        journal.write(part);
        fed.extend_from_slice(part);
        installation.compare(&mut reader, &mut seen, 3);
        // psad's reader is notified of the entries; psad takes only a part of a burst at a time.
        installation.wait("psad's packets", || {
            assert!(journal.nudge());
            let text = fs::read_to_string(installation.file("packet_ctr")).unwrap_or_default();
            let packets: usize = text.split_whitespace().last().and_then(|packets| packets.parse().ok()).unwrap_or(0);
            let grew = packets > counted;
            counted = counted.max(packets);
            grew
        });
        installation.compare(&mut reader, &mut seen, 3);
        let reading = installation.running(&mut reader, &mut seen);
        assert_eq!(reading.psad.mode, PsadMode::Journal);
        reader = PsadReader::open(settings.clone(), &reading.positions);
    }
    assert_eq!(seen.unparsed, 0);
    assert!(seen.packets == fed, "{} of {}", seen.packets.len(), fed.len());
    let (reading, _) = read(&mut reader);
    assert!(reading.psad.sources.iter().any(|source| source.ip == "192.168.10.55"), "psad saw them, too");
    let conf = reading.psad.conf.unwrap();
    assert_eq!(conf.packet_log.to_string(), "journal");
    psad.stop();
}

/// A daemon without its parent. Dropping the value ends the daemon.
struct DaemonPid(nix::unistd::Pid);

impl Drop for DaemonPid {
    fn drop(&mut self) {
        nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGTERM).ok();
    }
}
