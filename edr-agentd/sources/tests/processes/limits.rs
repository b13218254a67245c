//! Resources that a host can make large: rows beyond the limit are counted, not listed, and the same rows are listed at
//! each tick.

use std::path::Path;
use std::time::Duration;

use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_sources::{Budget, Source as _, Tick};
use edr_wire::snapshot::{Fd, GapReason};

use super::common::{ChildProgram, FakeProc, ProcessReading, file, look, reader_at, tick, tick_within};

/// 40 processes of 400 descriptors.
fn crowded() -> FakeProc {
    let proc = FakeProc::new();
    for pid in 1_000..1_040 {
        let folder = proc.add_of(pid, "crowd", 0, "/");
        for fd in 0..400 {
            std::os::unix::fs::symlink("/etc/passwd", folder.join("fd").join(fd.to_string())).unwrap();
            std::fs::write(folder.join("fdinfo").join(fd.to_string()), "pos:\t0\nflags:\t0100000\nmnt_id:\t1\n")
                .unwrap();
        }
    }
    proc
}

fn budget(process_rows_bytes_soft: usize) -> Budget {
    Budget { process_rows_bytes_soft, ..Budget::default() }
}

fn listed(seen: &ProcessReading) -> Vec<(u32, usize, bool)> {
    seen.processes
        .iter()
        .map(|process| {
            let numbered = process.files.iter().filter(|file| matches!(file.fd, Fd::Number(_))).count();
            assert_eq!(process.files_total, Some(400));
            assert_eq!(process.truncated, numbered < 400);
            (process.pid, numbered, process.truncated)
        })
        .collect()
}

#[test]
fn when_rows_do_not_fit_every_process_keeps_its_row_and_gives_up_files() {
    let proc = crowded();
    let whole = tick_within(&mut reader_at(proc.root()), budget(100 << 20));
    assert!(listed(&whole).iter().all(|(_, files, truncated)| *files == 400 && !truncated));
    let whole_bytes: usize = whole.rows.iter().map(Vec::len).sum();

    let soft = whole_bytes / 4;
    let mut reader = reader_at(proc.root());
    let first = tick_within(&mut reader, budget(soft));
    assert_eq!(listed(&first).len(), 40);
    // From the second tick on the room is shared: each process lists some files, lowest descriptors first.
    let settled: Vec<ProcessReading> = (0..4).map(|_| tick_within(&mut reader, budget(soft))).collect();
    for seen in &settled {
        let shares = listed(seen);
        assert!(shares.iter().all(|(_, files, truncated)| *files > 0 && *truncated), "{shares:?}");
        assert!(seen.processes.iter().all(|process| process.incomplete == ["files"]));
        assert!(seen.rows.iter().map(Vec::len).sum::<usize>() <= soft);
        let gap = seen.gaps.iter().find(|gap| gap.field.as_ref() == b"lists: uid 0").unwrap();
        assert_eq!((gap.reason, gap.count), (GapReason::TooLong, 40), "{gap:?}");
    }
    // The same rows at each tick.
    assert!(settled[2].rows == settled[3].rows);
    file(&settled[3].processes[0], 0);
}

#[test]
fn beyond_the_last_room_processes_are_counted() {
    let proc = FakeProc::new();
    for pid in 1..=3_000 {
        // 2 KiB of arguments each: 6 MiB, which no limit on files reduces.
        std::fs::write(proc.add_of(pid, "many", 0, "/").join("cmdline"), vec![b'x'; 2_048]).unwrap();
    }
    let mut reader = reader_at(proc.root());
    for round in 0..3 {
        let seen = tick_within(&mut reader, budget(64 << 10));
        let gap = seen.gaps.iter().find(|gap| gap.field.as_ref() == b"rows: uid 0").unwrap();
        assert!(gap.reason == GapReason::TooLong && gap.detail.starts_with("alarm: uid 0 wants "), "{gap:?}");
        assert!(!seen.processes.is_empty() && seen.rows.iter().map(Vec::len).sum::<usize>() <= 64 << 10);
        // A process that was not there before has a row.
        let pid = 4_000 + round;
        proc.add_of(pid, "new", 0, "/");
        assert!(tick_within(&mut reader, budget(64 << 10)).find(pid).is_some(), "round {round}");
    }
}

#[test]
fn a_tick_used_again_has_only_the_rows_of_its_last_reading() {
    let proc = FakeProc::new();
    proc.add(1, "x");
    let (mut reader, mut tick) = (reader_at(proc.root()), Tick::default());
    for _ in 1..=3 {
        assert_eq!(reader.read(&mut tick).rows, 1);
        assert_eq!(tick.rows.processes.len(), 1);
    }
}

/// A process that executes two programs in turn, as fast as possible.
#[test]
fn a_row_never_mixes_two_programs() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["aaaa", "bbbb"].map(|name| folder.path().join(name));
    for program in [&a, &b] {
        std::fs::copy("/bin/bash", program).unwrap();
    }
    // $0: this script, $1: the running program, $2: the next program.
    let flip = "[ -n \"$E\" ] || { export E=1; echo ready; }; exec \"$2\" -c \"$0\" \"$0\" \"$2\" \"$1\"";
    let running = ChildProgram::start(std::process::Command::new(&a).args(["-c", flip, flip]).arg(&a).arg(&b));
    let settings = ProcessSettings { hash: None, interval: Duration::from_secs(1), ..ProcessSettings::default() };
    let mut reader = ProcessReader::open(Path::new("/proc"), settings).unwrap();
    for _ in 0..40 {
        let seen = tick(&mut reader);
        let process = seen.process(running.pid());
        if process.incomplete.contains(&"exec".to_owned()) {
            continue; // it says so itself
        }
        let exe = process.exe.as_ref().unwrap().path.to_string();
        assert!(process.argv.first().is_some_and(|argument| argument.to_string() == exe), "{process:?}");
        assert!(exe.ends_with(&process.comm.to_string()), "{process:?}");
    }
}

#[test]
fn an_executable_of_another_mount_namespace_is_seen_by_its_link() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs tmpfs \"$0\" && cp /bin/cat \"$0/hidden\" && echo ready && exec \"$0/hidden\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(folder.path());
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can make a mount namespace");
        return;
    }
    let running = ChildProgram::start(&mut command);
    let path = folder.path().join("hidden");
    let exe = format!("/proc/{}/exe", running.pid());
    while std::fs::read_link(&exe).unwrap() != path {
        std::thread::yield_now();
    }
    assert!(!path.exists(), "only that process sees it");
    let seen = look();
    let process = seen.process(running.pid());
    let exe = process.exe.as_ref().unwrap();
    assert_eq!((exe.path.to_string(), exe.deleted), (path.display().to_string(), false));
    assert_ne!(process.namespaces.mnt, seen.process(std::process::id()).namespaces.mnt);
    assert!(exe.size > 0 && exe.inode > 0);
}

#[test]
fn all_the_groups_there_can_be_hide_no_capability() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can set groups");
        return;
    }
    let program =
        "import os\nos.setgroups([4000000000 + n for n in range(65536)])\nprint('ready', flush=True)\ninput()";
    let running = ChildProgram::python(program);
    let seen = look();
    let process = seen.process(running.pid());
    assert!(
        process.capabilities.effective != 0 && process.capabilities == seen.process(std::process::id()).capabilities
    );
    assert_eq!((process.uids, process.groups.len(), process.groups[1_023]), ([0; 4], 1_024, 4_000_001_023));
    let gap = seen.gaps.iter().find(|gap| gap.pid == Some(running.pid()) && gap.field.as_ref() == b"groups").unwrap();
    assert_eq!(gap.reason, GapReason::TooLong);
}
