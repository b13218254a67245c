//! Reused pids: no row mixes two processes, and no row of an ended process is reused for the new process with the same
//! pid.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use edr_wire::snapshot::{Fd, Process};

use super::common::{ChildProgram, reader, tick};
use super::rights::again;

/// Keeps 19 children with ten names, each with an open file of the same name, and replaces the oldest child by a new
/// child with the same *pid*, again and again (`ns_last_pid` of a new pid namespace: proc_sys_kernel(5)). Each child
/// lives longer than a clock tick, since two processes with one pid within a clock tick have the same identity. Each
/// child opens the file before taking the name (execve(2) sets both `comm` and `argv`), so a child with its name is
/// complete.
const CHURN: &str = "
import os, sys, time
folder, last_pid = sys.argv[1], '/proc/sys/kernel/ns_last_pid'
def start(name):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f'{folder}/held.{name}', os.O_RDONLY), 50)
        os.execv(f'{folder}/{name}', [name, '-', name])
    return child
children = [start(f'name{n % 10}') for n in range(19)]
print('ready', flush=True)
n = 0
while True:
    oldest = children.pop(0)
    os.kill(oldest, 9)
    os.waitpid(oldest, 0)
    with open(last_pid, 'w') as file: file.write(str(oldest - 1))
    # 19 x 7 is no multiple of 10, so a pid gets another name each time.
    children.append(start(f'name{n * 7 % 10}'))
    n += 1
    time.sleep(0.002)
";

/// The names shown by this process: name, first argument, executable and file.
fn names(process: &Process, folder: &Path) -> Vec<String> {
    let below = |path: &str| Path::new(path).strip_prefix(folder).ok().map(|name| name.display().to_string());
    let held = process.files.iter().find(|file| file.fd == Fd::Number(50)).map(|file| file.path.to_string());
    let held = held.and_then(|path| Some(below(&path)?.strip_prefix("held.")?.to_owned()));
    [
        Some(process.comm.to_string()),
        process.argv.first().map(ToString::to_string),
        process.argv.last().map(ToString::to_string),
        process.exe.as_ref().and_then(|exe| below(&exe.path.to_string())),
        held,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn a_pid_that_is_given_away_again_never_mixes_two_processes() {
    let namespace = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--"];
    if !again("reuse::a_pid_that_is_given_away_again_never_mixes_two_processes", &namespace) {
        return;
    }
    if std::fs::OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid").is_err() {
        // The outer run counts this run as passed, so the reason must be visible.
        println!("skipped: this kernel has no ns_last_pid (CONFIG_CHECKPOINT_RESTORE)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for n in 0..10 {
        std::fs::copy("/bin/cat", folder.path().join(format!("name{n}"))).unwrap();
        std::fs::write(folder.path().join(format!("held.name{n}")), "").unwrap();
    }
    let churn = ChildProgram::start(Command::new("python3").args(["-c", CHURN]).arg(folder.path()));
    let mut reader = reader();
    let mut seen_before: HashMap<u32, (u64, String)> = HashMap::new();
    let (mut reused, mut renamed, mut whole, mut carried) = (0, 0, 0, 0);
    for round in 0.. {
        let seen = tick(&mut reader);
        carried += seen.carried;
        for process in seen.processes.iter().filter(|process| process.ppid == churn.pid()) {
            if process.comm.to_string() == "python3" || process.incomplete.contains(&"stat".to_owned()) {
                continue; // before execve, or it ended while it was read and the row says so
            }
            let names = names(process, folder.path());
            assert!(names.iter().all(|name| *name == names[0]), "{names:?} {process:?}");
            whole += u32::from(names.len() == 5);
            let now = (process.start_ticks, names[0].clone());
            if let Some(before) = seen_before.insert(process.pid, now.clone()) {
                reused += u32::from(before.0 != now.0);
                renamed += u32::from(before.0 != now.0 && before.1 != now.1);
                assert!(before.0 != now.0 || before.1 == now.1, "one process, two names: {before:?} {now:?}");
            }
        }
        if reused >= 200 && renamed >= 100 && whole >= 500 && carried >= 200 {
            println!(
                "{round} ticks: {reused} pids given away again, {renamed} to another name, {carried} rows taken over"
            );
            return;
        }
        assert!(round < 3_000, "{reused} reused, {renamed} renamed, {whole} whole, {carried} taken over");
    }
}
