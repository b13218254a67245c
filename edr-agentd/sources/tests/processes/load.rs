//! An overloaded host: a thread without a processor does not count as a hung read, so nothing is left out.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_wire::snapshot::{Gap, GapReason};

use super::common::{FakeProc, ProcessReading, tick};

/// Number of processes that compete for the processors: on two processors each thread of this process gets a twentieth
/// of a processor.
const SPINNING: usize = 40;

/// Set in the child process that runs a test of this file.
const INSIDE: &str = "EDR_LOAD_INSIDE";

/// Runs `body`, the test called `name`, in a new process and session. The kernel shares the processors between sessions
/// (sched(7), autogroup), so the load starves `body` and no other test.
fn beside_a_load(name: &str, body: impl FnOnce(&SpinningProcesses)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&SpinningProcesses::start());
    }
    // One load at a time, and no hanging FUSE server of another test.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _no_server = super::fuse::ONE_SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(std::env::current_exe().unwrap()).args([
        "--exact",
        &format!("load::{name}"),
        "--nocapture",
    ]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
}

/// Spinning processes; end when the value is dropped.
struct SpinningProcesses {
    spinning: Vec<Child>,
}

impl SpinningProcesses {
    fn start() -> Self {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self { spinning: (0..SPINNING).map(|_| spin()).collect() }
    }
}

impl Drop for SpinningProcesses {
    fn drop(&mut self) {
        for child in &mut self.spinning {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// The time limit of a hung read is the daemon's default.
#[test]
fn every_field_of_every_row_is_there_beside_a_load() {
    beside_a_load("every_field_of_every_row_is_there_beside_a_load", |load| every_field(&load.spinning));
}

fn every_field(spinning: &[Child]) {
    let mut reader = ProcessReader::open(Path::new("/proc"), ProcessSettings::default()).unwrap();
    for _ in 0..2 {
        let seen = tick(&mut reader);
        assert_eq!(hung(&seen), Vec::<&Gap>::new());
        for process in &seen.processes {
            // Some processes may have ended, or be unreadable for this user. Equal gaps of several processes are joined
            // into one gap without a pid.
            let has_reason = seen.gaps.iter().any(|gap| gap.pid.is_none_or(|pid| pid == process.pid));
            assert!(
                process.start_ticks > 0 && (has_reason || process.incomplete.is_empty()),
                "{process:?}: {:?}",
                seen.gaps
            );
        }
        for spinning in spinning {
            let process = seen.process(spinning.id());
            assert_eq!(process.incomplete, [""; 0], "{process:?}");
            assert!(process.exe.is_some() && process.argv.len() == 3 && process.files_total.is_some(), "{process:?}");
        }
    }
}

fn hung(seen: &ProcessReading) -> Vec<&Gap> {
    seen.gaps.iter().filter(|gap| gap.reason == GapReason::Stuck).collect()
}

/// A thread waits far longer for a processor than a read may hang here, again and again.
#[test]
fn a_wait_for_a_processor_is_no_hang() {
    beside_a_load("a_wait_for_a_processor_is_no_hang", |_| many_rows());
}

fn many_rows() {
    let proc = FakeProc::new();
    for pid in 1..=500 {
        proc.add(pid, "whole");
    }
    let settings = ProcessSettings { hung_after: Duration::from_millis(40), ..ProcessSettings::default() };
    let mut reader = ProcessReader::open(proc.root(), settings).unwrap();
    for _ in 0..3 {
        let seen = tick(&mut reader);
        assert_eq!(seen.processes.len(), 500);
        assert_eq!(hung(&seen), Vec::<&Gap>::new());
    }
}

#[test]
fn a_long_command_line_is_whole_beside_a_load() {
    beside_a_load("a_long_command_line_is_whole_beside_a_load", |_| {
        super::zoo::long_command_lines_are_cut_and_measured();
    });
}

#[test]
fn reads_that_hang_are_found_beside_a_load() {
    beside_a_load("reads_that_hang_are_found_beside_a_load", |_| {
        super::fuse::a_process_held_inside_execve_stops_nothing_and_keeps_a_row();
        super::hanging::a_command_line_that_hangs_costs_that_field_and_nothing_else();
        super::hanging::many_that_hang_in_stat_take_neither_all_threads_nor_the_rows();
        super::hanging::what_comes_drop_by_drop_is_given_up();
    });
}
