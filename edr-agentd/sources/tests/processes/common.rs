//! Helpers that start processes, wait for events, and read the processes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use edr_sources::common::Inhabitants;
use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_sources::{Budget, Source as _, Tick};
use edr_wire::snapshot::{Agent, Fd, Gap, OpenFile, Process, Reread, SnapshotView};

/// A process of a test; ends with the test.
pub(crate) struct ChildProgram {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl ChildProgram {
    /// Starts a program and waits for the line `ready`.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::try_start(command).unwrap_or_else(|line| panic!("{line:?} instead of ready: {command:?}"))
    }

    /// Like [`ChildProgram::start`]; a first line other than `ready` is returned as the error.
    pub(crate) fn try_start(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, lines };
        match running.line() {
            line if line == "ready" => Ok(running),
            line => Err(line),
        }
    }

    /// Starts a Python program that prints `ready`.
    pub(crate) fn python(program: &str) -> Self {
        Self::start(Command::new("python3").arg("-c").arg(program))
    }

    /// The next line of the program's output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Writes a line to the program's input.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The process id of the only child.
    pub(crate) fn child(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        std::fs::read_to_string(children).unwrap().trim().parse().unwrap()
    }

    /// Kills the process and waits for the end.
    pub(crate) fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the process (SIGSTOP) and waits until it is stopped.
    pub(crate) fn freeze(&self) {
        freeze(self.pid());
    }
}

impl Drop for ChildProgram {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

pub(crate) fn freeze(pid: u32) {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    loop {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
        let after = stat.iter().rposition(|&b| b == b')').unwrap();
        if stat[after + 2] == b'T' {
            return;
        }
        std::thread::yield_now();
    }
}

/// Result of one tick.
pub(crate) struct ProcessReading {
    pub(crate) reread: Reread,
    pub(crate) processes: Vec<Process>,
    pub(crate) rows: Vec<Vec<u8>>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) inhabitants: Inhabitants,
    /// Number of rows taken over without a read.
    pub(crate) carried: u64,
}

impl ProcessReading {
    pub(crate) fn process(&self, pid: u32) -> &Process {
        self.find(pid).unwrap_or_else(|| panic!("no row for {pid}: {:?}", self.gaps))
    }

    pub(crate) fn find(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    pub(crate) fn row(&self, pid: u32) -> &[u8] {
        let index = self.processes.iter().position(|process| process.pid == pid).unwrap();
        &self.rows[index]
    }
}

pub(crate) fn file(process: &Process, fd: u32) -> &OpenFile {
    process.files.iter().find(|file| file.fd == Fd::Number(fd)).unwrap_or_else(|| panic!("no {fd}: {process:?}"))
}

/// Reads once with an open reader.
pub(crate) fn tick(reader: &mut ProcessReader) -> ProcessReading {
    tick_within(reader, Budget::default())
}

/// Reads once within a budget.
pub(crate) fn tick_within(reader: &mut ProcessReader, budget: Budget) -> ProcessReading {
    let mut tick = Tick::new(budget);
    let produced = reader.read(&mut tick);
    let gaps = tick.gaps.take();
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
    let processes: Vec<Process> = view.processes().map(Result::unwrap).collect();
    assert!(processes.is_sorted_by_key(|process| process.pid));
    assert_eq!(processes.len(), produced.rows);
    ProcessReading {
        reread: tick.reread,
        processes,
        rows: view.process_rows().map(<[u8]>::to_vec).collect(),
        gaps,
        inhabitants: tick.inhabitants,
        carried: produced.carried,
    }
}

/// A reader of this machine.
pub(crate) fn reader() -> ProcessReader {
    reader_at(Path::new("/proc"))
}

pub(crate) fn reader_at(proc_root: &Path) -> ProcessReader {
    ProcessReader::open(proc_root, ProcessSettings { hash: None, ..ProcessSettings::default() }).unwrap()
}

/// Reads this machine once.
pub(crate) fn look() -> ProcessReading {
    tick(&mut reader())
}

/// A `/proc` made of files.
pub(crate) struct FakeProc {
    folder: tempfile::TempDir,
}

impl FakeProc {
    pub(crate) fn new() -> Self {
        // Thousands of small files: in memory where possible.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::write(
            folder.path().join("stat"),
            "cpu 1 2 3 4\nctxt 1\nbtime 1700000000\nprocesses 9\nprocs_running 1\nprocs_blocked 0\n",
        )
        .unwrap();
        Self { folder }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a process of a user in a cgroup, with the minimum of files.
    pub(crate) fn add_of(&self, pid: u32, comm: &str, uid: u32, cgroup: &str) -> PathBuf {
        let folder = self.add(pid, comm);
        let status = format!(
            "Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t1\t1\t1\t1\nGroups:\t\n\
            CapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t0\nCapAmb:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n"
        );
        std::fs::write(folder.join("status"), status).unwrap();
        std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        folder
    }

    /// Adds a process with the minimum of files.
    pub(crate) fn add(&self, pid: u32, comm: &str) -> PathBuf {
        let folder = self.folder.path().join(pid.to_string());
        std::fs::create_dir_all(folder.join("fd")).unwrap();
        std::fs::create_dir_all(folder.join("fdinfo")).unwrap();
        let stat = format!(
            "{pid} ({comm}) S 1 {pid} {pid} 0 -1 4194560 0 0 0 0 1 2 0 0 20 0 1 0 500 1000 10 18446744073709551615 \
            1 1 7 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        std::fs::write(folder.join("stat"), stat).unwrap();
        std::fs::write(folder.join("status"), "Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n").unwrap();
        std::fs::write(folder.join("cmdline"), format!("{comm}\0")).unwrap();
        std::fs::write(folder.join("cgroup"), "0::/\n").unwrap();
        folder
    }
}
