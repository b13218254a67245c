//! Hanging reads: a FIFO in the place of a `/proc` file, whose open waits for a writer for ever.

use std::fs::OpenOptions;
use std::time::Duration;

use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_wire::Bytes;
use edr_wire::snapshot::GapReason;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::common::{FakeProc, ProcessReading, tick};

fn reader(proc: &FakeProc) -> ProcessReader {
    let settings = ProcessSettings { hung_after: Duration::from_millis(50), ..ProcessSettings::default() };
    ProcessReader::open(proc.root(), settings).unwrap()
}

fn hang(proc: &FakeProc, pid: u32, file: &str) -> std::path::PathBuf {
    let path = proc.add(pid, "hangs").join(file);
    std::fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

fn stuck(seen: &ProcessReading) -> Vec<(Option<u32>, String)> {
    let stuck = seen.gaps.iter().filter(|gap| gap.reason == GapReason::Stuck);
    stuck.map(|gap| (gap.pid, gap.field.to_string())).collect()
}

#[test]
pub(crate) fn a_command_line_that_hangs_costs_that_field_and_nothing_else() {
    let proc = FakeProc::new();
    proc.add(1233, "before");
    let fifo = hang(&proc, 1234, "cmdline");
    proc.add(1235, "after");
    let mut reader = reader(&proc);
    for round in 0..3 {
        let seen = tick(&mut reader);
        let pids: Vec<u32> = seen.processes.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [1233, 1234, 1235], "round {round}");
        assert_eq!(seen.process(1235).argv, [Bytes::from(b"after")]);
        let hangs = seen.process(1234);
        assert_eq!((hangs.comm.clone(), hangs.argv.len()), (Bytes::from(b"hangs"), 0));
        assert!(hangs.incomplete.contains(&"argv".to_owned()), "{hangs:?}");
        let fields = ["argv", "mapped"].map(|field| (Some(1234), field.to_owned()));
        assert_eq!(stuck(&seen), fields, "round {round}");
    }
    // The field returns together with the read.
    let writer = OpenOptions::new().write(true).open(&fifo).unwrap();
    drop(writer);
    std::fs::remove_file(&fifo).unwrap();
    std::fs::write(&fifo, "back\0").unwrap();
    loop {
        let seen = tick(&mut reader);
        if stuck(&seen).is_empty() {
            assert_eq!(seen.process(1234).argv, [Bytes::from(b"back")]);
            break;
        }
    }
}

#[test]
fn two_that_hang_are_left_behind_and_a_third_is_not_touched() {
    let proc = FakeProc::new();
    let fifos: Vec<_> = [10, 20, 30].into_iter().map(|pid| hang(&proc, pid, "cmdline")).collect();
    proc.add(40, "fine");
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let mut reader = reader(&proc);
    let first = tick(&mut reader);
    assert_eq!(first.processes.len(), 4);
    let after_first = threads();
    let second = tick(&mut reader);
    assert_eq!(second.processes.len(), 4);
    assert!(threads() <= after_first + 8, "other tests run beside this one");
    for seen in [&first, &second] {
        // Without a limit a third thread would be lost in process 30.
        assert!(seen.process(30).incomplete.contains(&"argv".to_owned()));
        assert!(stuck(seen).iter().all(|(_, field)| field == "argv" || field == "mapped"), "{:?}", seen.gaps);
        assert!(seen.process(40).state == 'S' && seen.process(40).comm == Bytes::from(b"fine"));
    }
    for fifo in fifos {
        drop(OpenOptions::new().write(true).custom_flags_nonblock().open(fifo));
    }
}

#[test]
fn hanging_reads_of_one_user_cost_another_nothing() {
    let proc = FakeProc::new();
    let fifos: Vec<_> = [10, 20, 30].into_iter().map(|pid| hang(&proc, pid, "cmdline")).collect();
    let folder = proc.add(40, "fine");
    std::fs::write(folder.join("status"), "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t\n").unwrap();
    let mut reader = reader(&proc);
    for _ in 0..2 {
        let seen = tick(&mut reader);
        assert!(seen.process(30).argv.is_empty());
        assert_eq!(seen.process(40).argv, [Bytes::from(b"fine")]);
    }
    for fifo in fifos {
        drop(OpenOptions::new().write(true).custom_flags_nonblock().open(fifo));
    }
}

#[test]
pub(crate) fn many_that_hang_in_stat_take_neither_all_threads_nor_the_rows() {
    let proc = FakeProc::new();
    let fifos: Vec<_> = (10..60).map(|pid| hang(&proc, pid, "stat")).collect();
    proc.add(70, "after");
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let mut reader = reader(&proc);
    let before = threads();
    for _ in 0..3 {
        let seen = tick(&mut reader);
        assert_eq!(seen.processes.len(), 51);
        for hangs in seen.processes.iter().take(50) {
            assert_eq!((hangs.comm.clone(), hangs.start_ticks), (Bytes::from(b"x"), 0));
            assert!(hangs.incomplete.contains(&"stat".to_owned()), "{hangs:?}");
        }
    }
    assert!(threads() <= before + 3 + 8, "other tests run beside this one");
    for fifo in fifos {
        drop(OpenOptions::new().write(true).custom_flags_nonblock().open(fifo));
    }
}

#[test]
pub(crate) fn what_comes_drop_by_drop_is_given_up() {
    let proc = FakeProc::new();
    std::fs::write(proc.add(10, "drips").join("maps"), "").unwrap();
    let fifo = hang(&proc, 10, "maps");
    proc.add(20, "after");
    let mut reader = reader(&proc);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let drops = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut pipe = OpenOptions::new().write(true).open(fifo).unwrap();
        while stopped.recv_timeout(Duration::from_millis(5)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // The reader thread ends after the last of its reads.
            let _ = pipe.write(b"x");
        }
    });
    let seen = tick(&mut reader);
    assert!(seen.process(10).incomplete.contains(&"mapped".to_owned()), "{:?}", seen.process(10));
    assert_eq!(seen.process(20).argv, [Bytes::from(b"after")]);
    assert!(stuck(&seen).contains(&(Some(10), "mapped".to_owned())));
    drop(stop);
    drops.join().unwrap();
}

/// `maps` of two processes take 2.5 s each, in drops: on a busy machine some of that time counts as a wait for a
/// processor, 0.75 s of blocked time are slow, and 4 s would be hung. No row of a made-up `/proc` is whole, so every
/// row is doubtful.
#[test]
fn slow_reads_count_against_their_owner() {
    use std::io::Write as _;
    let proc = FakeProc::new();
    let fifos = [10, 20].map(|pid| {
        std::fs::write(proc.add(pid, "slow").join("maps"), "").unwrap();
        hang(&proc, pid, "maps")
    });
    std::fs::write(proc.add(30, "of their owner").join("maps"), "").unwrap();
    let mut reader = ProcessReader::open(proc.root(), ProcessSettings::default()).unwrap();
    let paths = fifos.clone();
    let drops = std::thread::spawn(move || {
        for path in paths {
            let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
            let end = std::time::Instant::now() + Duration::from_millis(2_500);
            while std::time::Instant::now() < end {
                pipe.write_all(b"x").unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let first = tick(&mut reader);
    drops.join().unwrap();
    assert_eq!(stuck(&first), [], "they came back");
    for fifo in fifos {
        std::fs::remove_file(&fifo).unwrap();
        std::fs::write(fifo, "").unwrap();
    }
    let status = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t\n";
    std::fs::write(proc.add(40, "of another").join("maps"), "").unwrap();
    std::fs::write(proc.root().join("40/status"), status).unwrap();
    let second = tick(&mut reader);
    assert_eq!(stuck(&second), ["argv", "mapped"].map(|field| (Some(30), field.to_owned())));
    assert_eq!(second.process(40).argv, [Bytes::from(b"of another")]);
}

#[test]
fn an_answer_that_comes_late_is_in_no_later_pass() {
    let proc = FakeProc::new();
    let fifo = hang(&proc, 10, "cgroup");
    proc.add(5, "before");
    let mut reader = reader(&proc);
    assert_eq!(stuck(&tick(&mut reader)), [(Some(10), "cgroup".to_owned())]);
    drop(OpenOptions::new().write(true).open(&fifo).unwrap());
    std::fs::remove_file(&fifo).unwrap();
    std::fs::write(&fifo, "0::/\n").unwrap();
    loop {
        let seen = tick(&mut reader);
        assert!(seen.find(5).is_some());
        if seen.find(10).is_some() {
            assert_eq!(stuck(&seen), []);
            break;
        }
    }
}

#[test]
fn a_reader_is_closed_while_a_read_hangs() {
    let proc = FakeProc::new();
    let fifo = hang(&proc, 10, "stat");
    let mut reader = reader(&proc);
    tick(&mut reader);
    drop(reader);
    drop(OpenOptions::new().write(true).open(fifo).unwrap());
}

#[test]
fn a_file_that_never_hangs_and_does_costs_that_process() {
    let proc = FakeProc::new();
    let fifo = hang(&proc, 50, "status");
    proc.add(51, "after");
    let mut reader = reader(&proc);
    for _ in 0..2 {
        let seen = tick(&mut reader);
        assert!(seen.find(50).is_none());
        assert_eq!(seen.process(51).comm, Bytes::from(b"after"));
        assert_eq!(stuck(&seen).len(), 1, "{:?}", seen.gaps);
    }
    drop(OpenOptions::new().write(true).open(fifo).unwrap());
}

trait Nonblock {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl Nonblock for OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
    }
}
