//! Cost follows change: a process that did not run is not read again, and every change is seen within the promised
//! time.

use std::io::Write;
use std::path::Path;

use edr_sources::Budget;
use edr_sources::process::{HashSettings, ProcessReader, ProcessSettings};
use edr_wire::snapshot::{Fd, Reread};
use edr_wire::{Bytes, ProcessKey};

use super::common::{ChildProgram, FakeProc, ProcessReading, file, tick};

const SLICES: u32 = 6;

fn reader_at(proc_root: &Path) -> ProcessReader {
    let settings = ProcessSettings {
        interval: Budget::default().reread_interval / SLICES,
        hash: None,
        ..ProcessSettings::default()
    };
    ProcessReader::open(proc_root, settings).unwrap()
}

fn reader() -> ProcessReader {
    reader_at(Path::new("/proc"))
}

/// True when a process was read in this tick.
fn was_read(seen: &ProcessReading, pid: u32) -> bool {
    let key = ProcessKey { pid, start_ticks: seen.process(pid).start_ticks };
    seen.reread.age_ticks_max(key) == 0
}

/// Ticks until the process has been passed over once, and its next turn is some ticks away.
fn settle(reader: &mut ProcessReader, pid: u32) -> ProcessReading {
    for _ in 0..10 * SLICES {
        let seen = tick(reader);
        let key = ProcessKey { pid, start_ticks: seen.process(pid).start_ticks };
        let age = (seen.reread.slice + SLICES - Reread::slice_of(key, SLICES)) % SLICES;
        if !was_read(&seen, pid) && age == 1 {
            return seen;
        }
    }
    panic!("{pid} is read at each tick");
}

fn holding(program: &str) -> ChildProgram {
    ChildProgram::python(&format!(
        "import ctypes, os, sys, threading, time\n{program}\nprint('ready', flush=True)\nfor line in sys.stdin: \
        exec(line)\n"
    ))
}

fn schedstat_counts() -> bool {
    let counts = std::fs::read_to_string("/proc/self/schedstat").is_ok_and(|text| !text.starts_with("0 0 0"));
    if !counts {
        println!("skipped: this kernel does not count how much threads run");
    }
    counts
}

#[test]
fn a_process_that_did_not_run_is_passed_over_and_its_bytes_stay() {
    if !schedstat_counts() {
        return;
    }
    let running = holding("for n in range(4): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()");
    let mut reader = reader();
    let first = tick(&mut reader);
    assert!(was_read(&first, running.pid()) && first.carried == 0);
    let seen = settle(&mut reader, running.pid());
    assert!(seen.row(running.pid()) == first.row(running.pid()));
    assert!(seen.carried > 0 && seen.carried < seen.processes.len() as u64);
}

#[test]
fn a_process_that_ran_is_read_at_the_next_tick() {
    let mut running = holding("");
    let mut reader = reader();
    settle(&mut reader, running.pid());
    running.say("os.dup2(0, 90); print('done', flush=True)");
    assert_eq!(running.line(), "done");
    let seen = tick(&mut reader);
    assert!(was_read(&seen, running.pid()));
    assert!(seen.process(running.pid()).files.iter().any(|file| file.fd == Fd::Number(90)));
}

#[test]
fn a_changed_or_new_second_thread_makes_the_process_read() {
    let mut running = holding(
        "r, w = os.pipe()
def echo():
    os.read(r, 1)
    os.dup2(0, 91)
    print('done', flush=True)
    time.sleep(1000)
threading.Thread(target=echo, daemon=True).start()",
    );
    let mut reader = reader();
    settle(&mut reader, running.pid());
    running.say("os.write(w, b'x')");
    assert_eq!(running.line(), "done");
    let seen = tick(&mut reader);
    assert!(seen.process(running.pid()).files.iter().any(|file| file.fd == Fd::Number(91)));
}

#[test]
fn a_descriptor_that_another_process_opened_in_a_shared_table_is_seen_at_the_next_tick() {
    if std::fs::metadata("/proc/self/fd").unwrap().len() == 0 {
        println!("skipped: before Linux 6.2 the folder does not tell how many descriptors there are");
        return;
    }
    // clone(CLONE_FILES | SIGCHLD): a second process with the same descriptor table. The child waits for a file to
    // appear, opens one more descriptor, and never returns into the interpreter, whose memory is not shared.
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let running = holding(&format!(
        "libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall({clone}, 0x400 | 17, 0, 0, 0, 0) == 0:
    while not os.path.exists({go:?}): time.sleep(0.01)
    os.dup2(0, 92)
    while True: time.sleep(1000)",
        clone = nix::libc::SYS_clone,
    ));
    let pid = running.pid();
    let mut reader = reader();
    settle(&mut reader, pid);
    std::fs::write(&go, "").unwrap();
    let opened = format!("/proc/{pid}/fd/92");
    while !Path::new(&opened).exists() {
        std::thread::yield_now();
    }
    let seen = tick(&mut reader);
    super::common::kill(running.child());
    assert!(seen.process(pid).files.iter().any(|file| file.fd == Fd::Number(92)));
}

#[test]
fn changes_of_stat_from_outside_are_seen_at_the_next_tick() {
    let running = holding("");
    let pid = running.pid();
    let mut reader = reader();
    let before = settle(&mut reader, pid);
    // A niceness different from the test's own; 19 is the maximum.
    let nice = if before.process(pid).nice < 19 { before.process(pid).nice + 1 } else { 18 };
    let of = rustix::process::Pid::from_raw(pid.cast_signed());
    if rustix::process::setpriority_process(of, nice).is_err() {
        println!("skipped: only root can make a process less nice");
        return;
    }
    let seen = tick(&mut reader);
    assert_eq!(seen.process(pid).nice, nice);
}

#[test]
fn a_parent_that_dies_is_seen_at_the_next_tick() {
    let mut running = holding(
        "if os.fork() == 0:
    os.close(0)
    while True: time.sleep(1000)",
    );
    let child = running.child();
    let mut reader = reader();
    let before = settle(&mut reader, child);
    assert_eq!(before.process(child).ppid, running.pid());
    running.end();
    let seen = tick(&mut reader);
    assert_ne!(seen.process(child).ppid, before.process(child).ppid);
    super::common::kill(child);
}

#[test]
fn changes_of_a_file_from_outside_are_seen_within_the_reread_interval() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held");
    std::fs::write(&path, "1").unwrap();
    let running = holding(&format!("os.dup2(os.open({path:?}, os.O_RDONLY), 93)"));
    let pid = running.pid();
    let mut reader = reader();
    let before = settle(&mut reader, pid);
    assert_eq!((file(before.process(pid), 93).size, file(before.process(pid), 93).deleted), (1, false));
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"23").unwrap();
    std::fs::remove_file(&path).unwrap();
    for age in 1..=SLICES {
        let seen = tick(&mut reader);
        let held = file(seen.process(pid), 93);
        if was_read(&seen, pid) {
            assert_eq!((held.size, held.deleted), (3, true));
            return;
        }
        assert!(age < SLICES, "not read for {age} ticks");
    }
}

#[test]
fn every_process_is_read_within_the_reread_interval() {
    let mut reader = reader();
    let first = tick(&mut reader);
    let mut unread: Vec<u32> = first.processes.iter().map(|process| process.pid).collect();
    for _ in 0..SLICES {
        let seen = tick(&mut reader);
        unread.retain(|&pid| seen.find(pid).is_some() && !was_read(&seen, pid));
    }
    assert_eq!(unread, Vec::<u32>::new());
}

#[test]
fn without_counters_everything_is_read() {
    // No counters, counters without content, and counters that stand still although the agent runs.
    for own in [None, Some("0 0 0\n"), Some("7 0 7\n")] {
        let proc = FakeProc::new();
        std::fs::write(proc.add(60, "x").join("schedstat"), own.unwrap_or("0 0 0\n")).unwrap();
        if let Some(own) = own {
            std::fs::create_dir(proc.root().join("thread-self")).unwrap();
            std::fs::write(proc.root().join("thread-self/schedstat"), own).unwrap();
        }
        let mut reader = reader_at(proc.root());
        for round in 0..2 * SLICES {
            std::fs::write(proc.root().join("60/cmdline"), format!("{round}\0")).unwrap();
            let seen = tick(&mut reader);
            assert_eq!(seen.process(60).argv, [Bytes::from(round.to_string().as_bytes())]);
        }
    }
}

/// A fake `/proc` with counters set by the test.
struct CountingProc(FakeProc, u64);

impl CountingProc {
    fn new() -> Self {
        let proc = FakeProc::new();
        std::fs::create_dir(proc.root().join("thread-self")).unwrap();
        std::fs::write(proc.add(60, "x").join("schedstat"), "100 0 5\n").unwrap();
        Self(proc, 1)
    }

    /// Makes a tick during which the agent itself ran.
    fn tick(&mut self, reader: &mut ProcessReader) -> ProcessReading {
        self.1 += 1;
        std::fs::write(self.0.root().join("thread-self/schedstat"), format!("{0} 0 {0}\n", self.1)).unwrap();
        tick(reader)
    }

    fn argv(&self, argument: &str) {
        std::fs::write(self.0.root().join("60/cmdline"), format!("{argument}\0")).unwrap();
    }
}

fn argv(seen: &ProcessReading) -> String {
    seen.process(60).argv.iter().map(ToString::to_string).collect()
}

#[test]
fn with_unchanged_counters_a_row_is_reused_for_one_reread_interval() {
    let mut proc = CountingProc::new();
    let mut reader = reader_at(proc.0.root());
    proc.argv("old");
    let first = proc.tick(&mut reader);
    assert_eq!(argv(&first), "old");
    proc.argv("new");
    let seen: Vec<String> = (0..SLICES).map(|_| argv(&proc.tick(&mut reader))).collect();
    assert!(seen.is_sorted_by_key(|argv| argv == "new") && seen[SLICES as usize - 1] == "new", "{seen:?}");
}

#[test]
fn one_time_slice_or_another_cgroup_is_enough_to_be_read() {
    for change in ["schedstat", "cgroup"] {
        let mut proc = CountingProc::new();
        let mut reader = reader_at(proc.0.root());
        for round in 0..2 * SLICES {
            proc.argv(&round.to_string());
            let text = match change {
                "schedstat" => format!("100 0 {round}\n"),
                _ => format!("0::/{round}\n"),
            };
            std::fs::write(proc.0.root().join("60").join(change), text).unwrap();
            assert_eq!(argv(&proc.tick(&mut reader)), round.to_string(), "{change}");
        }
    }
}

#[test]
fn an_executable_gets_its_hash_within_the_budget_and_a_reason_before() {
    use sha2::{Digest, Sha256};
    let settings = ProcessSettings {
        hash: Some(HashSettings { file_bytes_max: 256 << 20, tick_bytes_max: 4 << 20 }),
        ..ProcessSettings::default()
    };
    let running = holding("");
    let mut reader = ProcessReader::open(Path::new("/proc"), settings).unwrap();
    let expected = Sha256::digest(std::fs::read(format!("/proc/{}/exe", running.pid())).unwrap());
    let distinct: std::collections::HashSet<_> = tick(&mut reader)
        .processes
        .iter()
        .filter_map(|process| process.exe.as_ref().map(|exe| (exe.dev, exe.inode)))
        .collect();
    // At least one executable per tick.
    for _ in 0..=2 * distinct.len() + 20 {
        let seen = tick(&mut reader);
        let exe = seen.process(running.pid()).exe.clone().unwrap();
        match &exe.sha256 {
            Some(sha256) => return assert_eq!((sha256.0.as_slice(), exe.not_hashed), (expected.as_slice(), None)),
            None => assert_eq!(exe.not_hashed.as_deref(), Some("budget")),
        }
    }
    panic!("not hashed although each of {} executables had its tick", distinct.len());
}
