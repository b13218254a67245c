//! Journal files written by systemd's own code and read by the agent: every packet line exactly once.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use edr_sources::psad::{PsadReader, PsadSettings};
use edr_tests::unpacked::{command, unpacked};
use edr_wire::snapshot::{GapReason, Position};
use proptest::prelude::*;

use super::running::ChildDaemon;
use super::world::{PsadWorld, fixtures, read};

pub(crate) const REMOTE: &str = "lib/systemd/systemd-journal-remote";
const MACHINE: &str = "0123456789abcdef0123456789abcdee";

/// A writer of journal files, fed with systemd's export format.
pub(crate) struct Journal {
    world: PsadWorld,
    writer: ChildDaemon,
    written: u64,
}

impl Journal {
    pub(crate) fn start(root: &Path, variant: &[(&str, &str)]) -> Self {
        let world = PsadWorld::empty();
        let folder = world.log_dir().join("journal").join(MACHINE);
        fs::create_dir_all(&folder).unwrap();
        let mut writer = command(root, root.join(REMOTE));
        writer.arg(format!("--output={}", folder.join("system.journal").display())).arg("-");
        writer.envs(variant.iter().copied()).stdin(Stdio::piped()).stderr(Stdio::null());
        Self { world, writer: ChildDaemon(writer.spawn().unwrap()), written: 0 }
    }

    /// The folder with one subfolder per machine id.
    pub(crate) fn parent(&self) -> PathBuf {
        self.world.log_dir().join("journal")
    }

    fn folder(&self) -> PathBuf {
        self.world.log_dir().join("journal").join(MACHINE)
    }

    /// Writes kernel entries with these messages, each after an entry of another program.
    pub(crate) fn write(&mut self, messages: &[String]) {
        let mut text = Vec::new();
        for message in messages {
            self.written += 1;
            let (real, mono) = (1_795_000_000_000_000 + self.written * 1_000, 1_000_000 + self.written * 1_000);
            let head = |real: u64, mono: u64| {
                format!(
                    "__REALTIME_TIMESTAMP={real}\n__MONOTONIC_TIMESTAMP={mono}\n\
                    _BOOT_ID=0123456789abcdef0123456789abcdef\n\
                     _MACHINE_ID={MACHINE}\n_HOSTNAME=fw01\nPRIORITY=6\n"
                )
            };
            text.extend(head(real, mono).bytes());
            let other = format!(
                "_TRANSPORT=syslog\nSYSLOG_IDENTIFIER=app\n_PID={}\n_UID=1000\nMESSAGE=IN=eth0 OUT= SRC=6.6.6.6 {}\n\n",
                self.written % 300,
                self.written
            );
            text.extend(other.bytes());
            text.extend(head(real + 500, mono + 500).bytes());
            let source = mono + 400;
            let kernel = format!(
                "_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\n_SOURCE_MONOTONIC_TIMESTAMP={source}\n\
                MESSAGE={message}\n\n"
            );
            text.extend(kernel.bytes());
        }
        self.writer.0.stdin.as_mut().unwrap().write_all(&text).unwrap();
    }

    /// Notifies readers of new entries. journald notifies after its entries (by a truncation to the same size); the
    /// writer here does not. Returns true when the file exists.
    pub(crate) fn nudge(&self) -> bool {
        let file = fs::File::open(self.folder().join("system.journal"));
        file.and_then(|file| file.set_modified(std::time::SystemTime::now())).is_ok()
    }

    /// Ends the writer's input and waits until everything is written.
    fn finish(&mut self) {
        self.writer.0.stdin.take();
        assert!(self.writer.0.wait().unwrap().success());
    }

    fn settings(&self) -> PsadSettings {
        PsadSettings {
            packet_log: Some("journal".into()),
            journal_dirs: vec![self.parent()],
            packets_max: usize::MAX,
            ..self.world.settings()
        }
    }

    fn reader(&self, positions: &[Position]) -> PsadReader {
        PsadReader::open(self.settings(), positions)
    }
}

fn raw(reading: &crate::world::PsadReading) -> Vec<String> {
    reading.packets.iter().map(|packet| packet.raw.to_string()).collect()
}

/// Packet lines as messages of the kernel: without head and timestamp. Some are long enough to be compressed.
fn messages() -> Vec<String> {
    let text = fs::read_to_string(fixtures().join("log-lines/kern.log")).unwrap()
        + &fs::read_to_string(fixtures().join("ipv6/var/log/kern.log")).unwrap();
    let mut messages: Vec<String> =
        text.lines().enumerate().map(|(n, line)| format!("n{n} {}", line.split_once("] ").unwrap().1)).collect();
    let long = format!("long IN=eth0 OUT= SRC=192.0.2.9 DST=192.0.2.1 LEN=40 OPT ({}) PROTO=47 ", "0102".repeat(400));
    messages.insert(40, long);
    messages
}

#[test]
fn every_form_of_file_gives_every_packet_line_once() {
    let Some(root) = unpacked(REMOTE) else { return };
    let messages = messages();
    // Compact files with keyed hashes as written by systemd 252, and the forms of versions before 252 and before 246.
    let variants: [&[(&str, &str)]; 3] = [
        &[],
        &[("SYSTEMD_JOURNAL_COMPACT", "0")],
        &[("SYSTEMD_JOURNAL_COMPACT", "0"), ("SYSTEMD_JOURNAL_KEYED_HASH", "0")],
    ];
    for variant in variants {
        let mut journal = Journal::start(&root, variant);
        journal.write(&messages);
        journal.finish();
        let (reading, gaps) = read(&mut journal.reader(&[]));
        assert!(gaps.is_empty(), "{variant:?}: {gaps:?}");
        assert!(raw(&reading) == messages, "{variant:?}: {} of {}", reading.packets.len(), messages.len());
        let first = &reading.packets[0];
        assert_eq!((first.time, first.kernel_us), (Some(1_795_000_000_001_500_000), Some(1_001_400)));
        let journalctl = Command::new("journalctl")
            .arg(format!("--directory={}", journal.folder().display()))
            .args(["-o", "cat", "-q", "_TRANSPORT=kernel"])
            .output();
        match journalctl {
            Ok(output) => {
                let theirs = String::from_utf8(output.stdout).unwrap();
                assert!(theirs.lines().eq(messages.iter().map(String::as_str)), "{variant:?}");
            }
            Err(error) => println!("skipped: the comparison with journalctl: {error}"),
        }
        // journalctl accepts the cursor too: no entries come after it.
        let cursor = reading.positions[0].cursor.clone().unwrap();
        let after = Command::new("journalctl")
            .arg(format!("--directory={}", journal.folder().display()))
            .args(["-o", "cat", "-q", "_TRANSPORT=kernel", "--after-cursor", &cursor])
            .output();
        assert!(after.is_ok_and(|output| output.stdout.is_empty()), "{variant:?}: {cursor}");
        let (again, _) = read(&mut journal.reader(&reading.positions));
        assert!(again.packets.is_empty(), "{variant:?}");
    }
}

/// Reads while the journal is written, in parts, with restarts of the agent and small budgets, over several files.
#[test]
fn live_over_rotation_and_restarts() {
    let Some(root) = unpacked(REMOTE) else { return };
    let lines = messages();
    let mut journal = Journal::start(&root, &[]);
    let settings = PsadSettings { packets_max: 500, ..journal.settings() };
    let mut reader = PsadReader::open(settings.clone(), &[]);
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    let mut readings = 0;
    for round in 0..40 {
        let part: Vec<String> =
            (0..250).map(|n| format!("r{round} {n} {}", lines[(round * 250 + n) % lines.len()])).collect();
        journal.write(&part);
        written.extend(part);
        // The writer is another process, so a reading may get only a part of the entries.
        let (reading, gaps) = read(&mut reader);
        assert!(gaps.is_empty(), "{gaps:?}");
        seen.extend(raw(&reading));
        readings += usize::from(!reading.packets.is_empty());
        if round % 7 == 0 {
            reader = PsadReader::open(settings.clone(), &reading.positions);
        }
    }
    journal.finish();
    while seen.len() < written.len() {
        let (reading, gaps) = read(&mut reader);
        assert!(gaps.is_empty(), "{gaps:?}");
        assert!(!reading.packets.is_empty(), "{} of {}", seen.len(), written.len());
        seen.extend(raw(&reading));
    }
    assert!(seen == written);
    assert!(readings > 3, "{readings}");
    assert!(read(&mut reader).0.packets.is_empty());
}

#[test]
fn files_removed_while_the_agent_was_down_are_a_gap() {
    let Some(root) = unpacked(REMOTE) else { return };
    let lines = messages();
    let mut journal = Journal::start(&root, &[]);
    journal.write(&lines[..50]);
    journal.finish();
    let (first, _) = read(&mut journal.reader(&[]));
    // The sequence continues in another file, as after a rotation, and the first file is removed.
    let kept = journal.folder().join("system.journal");
    let text = fs::read(&kept).unwrap();
    let mut moved = text.clone();
    // head_entry_seqnum. The entries keep their numbers, which are not read for this check.
    moved[168..176].copy_from_slice(&1_000_u64.to_le_bytes());
    fs::write(&kept, moved).unwrap();
    let (second, gaps) = read(&mut journal.reader(&first.positions));
    assert!(second.packets.is_empty());
    assert_eq!(gaps[0].reason, GapReason::RotatedAway, "{gaps:?}");
    assert!(gaps[0].detail.starts_with("entries 101 to 999"), "{gaps:?}");
}

#[test]
fn damage_costs_a_gap_and_nothing_else() {
    let Some(root) = unpacked(REMOTE) else { return };
    let mut journal = Journal::start(&root, &[]);
    let lines = messages();
    journal.write(&lines[..100]);
    journal.finish();
    let path = journal.folder().join("system.journal");
    let text = fs::read(&path).unwrap();
    let used = text.iter().rposition(|&byte| byte != 0).unwrap();
    let all = raw(&read(&mut journal.reader(&[])).0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let flips = proptest::collection::vec((0..used, any::<u8>()), 1..40);
    let strategy = (flips, prop_oneof![3 => Just(used + 1), 1 => 0..used]);
    runner
        .run(&strategy, |(flips, len)| {
            let mut damaged = text.clone();
            for (at, value) in flips {
                damaged[at] = value;
            }
            fs::write(&path, &damaged[..len]).unwrap();
            let (reading, _) = read(&mut journal.reader(&[]));
            prop_assert!(reading.packets.len() <= 4 * all.len());
            Ok(())
        })
        .unwrap();
}
