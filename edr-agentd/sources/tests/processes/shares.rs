//! Fair shares by owner: no user and no container shortens rows of further owners.

use std::path::Path;
use std::process::Command;

use edr_sources::Budget;
use edr_sources::process::{HashSettings, ProcessReader, ProcessSettings};
use edr_wire::snapshot::{Fd, GapReason, Process};

use super::common::{ChildProgram, FakeProc, ProcessReading, look, reader_at, tick, tick_within};

const USER: u32 = 1_000;
const USER_SLICE: &str = "/user.slice/user-1000.slice/session-1.scope";
const SERVICE: &str = "/system.slice/victim.service";
const ID: &str = "c4a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f";

/// Adds `files` descriptors, each with a path of about this length.
fn add_files(folder: &Path, files: u32, path_bytes: usize) {
    let path = format!("{}/etc/passwd", "/.".repeat(path_bytes / 2));
    for fd in 0..files {
        std::os::unix::fs::symlink(&path, folder.join("fd").join(fd.to_string())).unwrap();
        std::fs::write(folder.join("fdinfo").join(fd.to_string()), "pos:\t0\nflags:\t0100000\nmnt_id:\t1\n").unwrap();
    }
}

/// Adds a process of another owner with a command line, 205 descriptors and mapped files; its pid is the highest.
fn add_victim(proc: &FakeProc, pid: u32) {
    let folder = proc.add_of(pid, "victim", 0, SERVICE);
    std::fs::write(folder.join("cmdline"), "/usr/sbin/victim\0--listen\0").unwrap();
    std::fs::write(folder.join("maps"), "0-1 r-xp 00000000 fe:00 2097 /usr/sbin/victim\n").unwrap();
    add_files(&folder, 205, 40);
}

fn numbered(process: &Process) -> usize {
    process.files.iter().filter(|file| matches!(file.fd, Fd::Number(_))).count()
}

fn assert_whole(seen: &ProcessReading, pid: u32) {
    let victim = seen.process(pid);
    assert!(victim.incomplete.is_empty() && !victim.truncated, "{:?} {:?}", victim.incomplete, seen.gaps);
    assert_eq!((victim.argv.len(), victim.mapped.len(), numbered(victim)), (2, 1, 205));
}

fn bytes(seen: &ProcessReading) -> usize {
    seen.rows.iter().map(Vec::len).sum()
}

/// A part of the usual room, so that a flood fits a test.
fn small() -> Budget {
    Budget { process_rows_bytes_soft: 4 << 20, ..Budget::default() }
}

/// Reads `proc` some times: every process has a row, the victim is whole, and the gap about `owner` counts the rest.
fn check_flood(proc: &FakeProc, first_pid: u32, flood: u32, owner: &str, what: &str) -> ProcessReading {
    let victim = first_pid + flood;
    add_victim(proc, victim);
    let mut reader = reader_at(proc.root());
    for round in 0..3 {
        let seen = tick_within(&mut reader, small());
        assert_eq!(seen.processes.len() as u32, flood + 1, "round {round}");
        assert!(bytes(&seen) <= 4 << 20, "round {round}");
        assert_whole(&seen, victim);
        // New processes of the same owner and of others come later, and are there at once.
        let (new, new_victim) = (victim + 10 + round, victim + 20 + round);
        proc.add_of(new, "new", USER, USER_SLICE);
        add_victim(proc, new_victim);
        let seen = tick_within(&mut reader, small());
        assert_eq!(seen.process(new).comm.as_ref(), b"new");
        assert_whole(&seen, new_victim);
        for pid in [new, new_victim] {
            std::fs::remove_dir_all(proc.root().join(pid.to_string())).unwrap();
        }
    }
    let seen = tick_within(&mut reader, small());
    let field = format!("lists: {owner}");
    let gap = seen.gaps.iter().find(|gap| gap.field.to_string() == field).unwrap_or_else(|| panic!("{:?}", seen.gaps));
    assert!(gap.reason == GapReason::TooLong && gap.count > 0 && gap.detail.starts_with("alarm: "), "{gap:?}");
    let cut = seen.process(first_pid);
    assert!(cut.incomplete.contains(&what.to_owned()), "{:?}", cut.incomplete);
    assert!(!cut.comm.is_empty() && cut.start_ticks > 0 && cut.uids[0] > 0, "the core stays");
    // The same rows at each tick.
    let settled: Vec<ProcessReading> = (0..3).map(|_| tick_within(&mut reader, small())).collect();
    assert!(settled[1].rows == settled[2].rows);
    seen
}

#[test]
fn long_command_lines_of_one_user_cost_only_that_user() {
    let proc = FakeProc::new();
    for pid in 100..180 {
        let folder = proc.add_of(pid, "flood", USER, USER_SLICE);
        std::fs::write(folder.join("cmdline"), [b"sleep\0".as_slice(), &vec![b'0'; 65_000], b"\0"].concat()).unwrap();
    }
    let seen = check_flood(&proc, 100, 80, "uid 1000 in user.slice/user-1000.slice", "argv");
    let cut = seen.process(100);
    assert_eq!((cut.argv_bytes, cut.argv[0].as_ref()), (Some(65_007), b"sleep".as_slice()));
    assert_eq!(cut.argv_hash.as_ref().map(|hash| hash.0.len()), Some(16));
}

/// An owner has 2.6 of 4 MiB: in the first reading, or suddenly after a reading of a single process.
#[test]
fn a_reading_shortens_nothing_that_fits() {
    for known in [0, 1] {
        let proc = FakeProc::new();
        let add = |pid: u32| {
            let folder = proc.add_of(pid, "large", USER, USER_SLICE);
            std::fs::write(folder.join("cmdline"), [vec![b'0'; 65_000].as_slice(), b"\0"].concat()).unwrap();
        };
        let mut reader = reader_at(proc.root());
        (100..100 + known).for_each(add);
        if known > 0 {
            tick_within(&mut reader, small());
        }
        (100 + known..140).for_each(add);
        let seen = tick_within(&mut reader, small());
        assert_eq!(seen.processes.len(), 40);
        assert!(seen.processes.iter().all(|process| process.argv[0].0.len() == 65_000), "{known}: {:?}", seen.gaps);
        assert!(seen.gaps.iter().all(|gap| !gap.field.to_string().starts_with("lists: ")), "{:?}", seen.gaps);
    }
}

#[test]
fn long_paths_of_open_files_cost_only_their_user() {
    let proc = FakeProc::new();
    for pid in 100..160 {
        add_files(&proc.add_of(pid, "flood", USER, USER_SLICE), 24, 4_000);
    }
    let seen = check_flood(&proc, 100, 60, "uid 1000 in user.slice/user-1000.slice", "files");
    let cut = seen.process(100);
    assert!(cut.truncated && cut.files_total == Some(24) && numbered(cut) < 24);
}

#[test]
fn mapped_files_of_a_container_cost_only_the_container() {
    let proc = FakeProc::new();
    let cgroup = format!("/system.slice/docker-{ID}.scope");
    let maps: String =
        (1..600).map(|inode| format!("0-1 r--p 00000000 fe:00 {inode} /{}\n", "m".repeat(200))).collect();
    for pid in 100..160 {
        std::fs::write(proc.add_of(pid, "flood", 5, &cgroup).join("maps"), &maps).unwrap();
    }
    let owner = format!("uid 5 in system.slice/docker-{ID}.scope");
    check_flood(&proc, 100, 60, &owner, "mapped");
}

#[test]
fn many_ids_of_one_user_have_one_share() {
    let proc = FakeProc::new();
    for pid in 100..180 {
        let folder = proc.add_of(pid, "flood", 100_000 + pid, USER_SLICE);
        std::fs::write(folder.join("cmdline"), vec![b'0'; 65_000]).unwrap();
    }
    check_flood(&proc, 100, 80, "uid 100100 in user.slice/user-1000.slice", "argv");
}

#[test]
fn a_crowd_with_long_names_takes_rows_only_from_its_own() {
    let proc = FakeProc::new();
    let cgroup = format!("{USER_SLICE}/{}", vec!["c".repeat(250); 12].join("/"));
    for pid in 100..1_300 {
        proc.add_of(pid, "flood", USER, &cgroup);
    }
    for pid in 3_000..3_100 {
        proc.add_of(pid, "victim", 0, &format!("/system.slice/{pid}.service"));
    }
    let mut reader = reader_at(proc.root());
    let budget = Budget { process_rows_bytes_soft: 512 << 10, ..Budget::default() };
    for round in 0..3 {
        let seen = tick_within(&mut reader, budget);
        assert!(bytes(&seen) <= 512 << 10, "{}", bytes(&seen));
        let victims = seen.processes.iter().filter(|process| process.pid >= 3_000).count();
        // In the first tick nothing is known of anybody.
        assert!(round == 0 || victims >= 100, "round {round}: {victims}");
        assert!(seen.processes.len() > 300, "{}", seen.processes.len());
        let new = 4_000 + round;
        proc.add_of(new, "new", USER, &cgroup);
        assert!(tick_within(&mut reader, budget).find(new).is_some(), "a new process of the crowd, round {round}");
    }
    let gaps = tick_within(&mut reader, budget).gaps;
    assert!(gaps.iter().any(|gap| gap.field.to_string().starts_with("rows: uid 1000") && gap.count > 400), "{gaps:?}");
}

#[test]
fn a_command_line_that_changes_at_each_tick_is_sent_as_hash_and_head() {
    let proc = FakeProc::new();
    for pid in 100..120 {
        proc.add_of(pid, "rewrites", USER, USER_SLICE);
    }
    // A server that tells its state in a short title.
    proc.add_of(50, "server", 70, SERVICE);
    add_victim(&proc, 200);
    let mut reader = reader_at(proc.root());
    let mut round = |rewrites: bool, n: u32| {
        for pid in (100..120).filter(|_| rewrites) {
            let argv: Vec<u8> = (0..20_000_u32).map(|at| 1 + ((at * 31 + n * 17 + pid) % 255) as u8).collect();
            std::fs::write(proc.root().join(pid.to_string()).join("cmdline"), argv).unwrap();
        }
        std::fs::write(proc.root().join("50/cmdline"), format!("server: query {n}\0")).unwrap();
        tick(&mut reader)
    };
    let first = round(true, 0);
    assert!(bytes(&first) > 20 * 20_000, "new command lines are whole");
    let seen = (1..8).map(|n| round(true, n)).last().unwrap();
    let of_user: usize = (100..120).map(|pid| seen.row(pid).len()).sum();
    assert!(of_user < 20 * 1_000 + (64 << 10), "{of_user}");
    for pid in 100..120 {
        let process = seen.process(pid);
        assert!(process.argv_hash.is_some() && process.argv_bytes == Some(20_000));
        assert_eq!(process.incomplete, ["argv"]);
    }
    assert_eq!(seen.process(50).argv[0].to_string(), "server: query 7");
    assert_whole(&seen, 200);
    let gap = seen.gaps.iter().find(|gap| gap.field.to_string().starts_with("rewritten: uid 1000")).unwrap();
    assert!(gap.count == 20 && gap.detail.starts_with("alarm: "), "{gap:?}");
    // Left alone for some reads, the command line is whole again.
    let seen = (8..14).map(|n| round(false, n)).last().unwrap();
    assert!(seen.process(100).argv_hash.is_none() && seen.process(100).argv[0].0.len() == 20_000);
}

#[test]
fn new_large_executables_of_some_users_keep_nobody_elses_from_being_hashed() {
    let (proc, store) = (FakeProc::new(), tempfile::tempdir().unwrap());
    let sparse = |name: &str, bytes: u64| {
        let path = store.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    };
    let run = |pid: u32, uid: u32, cgroup: &str, exe: &Path| {
        let link = proc.add_of(pid, "runs", uid, cgroup).join("exe");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(exe, link).unwrap();
    };
    let hash = HashSettings { tick_bytes_max: 2 << 20, ..HashSettings::default() };
    let settings = ProcessSettings { hash: Some(hash), ..ProcessSettings::default() };
    let mut reader = ProcessReader::open(proc.root(), settings).unwrap();
    let sha256 = |seen: &ProcessReading, pid| seen.process(pid).exe.as_ref().unwrap().sha256.is_some();
    let (mut waits, mut longest) = (0, 0);
    run(900, 0, SERVICE, &sparse("service", 3 << 20));
    for round in 0..12_u32 {
        for (pid, uid, cgroup) in [(10, USER, USER_SLICE), (11, 1_001, "/"), (12, 100_000 + round, USER_SLICE)] {
            let name = format!("new-{pid}-{}", round % 3);
            let _ = std::fs::remove_file(store.path().join(&name));
            run(pid, uid, cgroup, &sparse(&name, (2 << 20) + u64::from(round)));
        }
        run(800, 0, "/", &sparse(&format!("implant-{round}"), 44 << 10));
        let seen = tick(&mut reader);
        assert!(sha256(&seen, 800), "a small executable is hashed at once, round {round}");
        waits = if sha256(&seen, 900) { 0 } else { waits + 1 };
        longest = longest.max(waits);
    }
    assert!(longest <= 3, "the executable of the service waited for {longest} ticks");
}

#[test]
fn a_container_named_below_a_users_own_manager_is_marked_as_a_claim() {
    let proc = FakeProc::new();
    let own = "/user.slice/user-1000.slice/user@1000.service/app.slice";
    proc.add_of(10, "claims", USER, &format!("{own}/docker-{ID}.scope"));
    proc.add_of(11, "real", 0, &format!("/system.slice/docker-{ID}.scope"));
    let seen = tick(&mut reader_at(proc.root()));
    let claimed = |pid| seen.process(pid).container.as_ref().unwrap().claimed;
    assert!(claimed(10) && !claimed(11));
}

/// Real processes of another user: 90 with 64 KiB of arguments, beyond the room of a small snapshot, and then a new
/// process of this user. (More would take the room of other tests, which read this machine, too.)
#[test]
fn real_processes_with_long_command_lines_hide_no_later_process() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of another user");
        return;
    }
    // PR_SET_PDEATHSIG: the processes end with their parent.
    let program = "import ctypes, os
for _ in range(90):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 9)
        os.execv('/bin/sleep', ['sleep', '1000', '0' * 65000])
print('ready', flush=True)
input()";
    let mut flood = Command::new("setpriv");
    flood.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", program]);
    let flood = ChildProgram::start(&mut flood);
    let later = ChildProgram::python("print('ready', flush=True)\ninput()");
    let mut reader = super::common::reader();
    // Also in the first reading, which knows nothing of anybody.
    for _ in 0..3 {
        let seen = tick_within(&mut reader, small());
        let process = seen.process(later.pid());
        assert!(!process.argv.is_empty() && process.exe.is_some() && process.argv_hash.is_none(), "{process:?}");
        assert!(seen.gaps.iter().all(|gap| !gap.field.to_string().starts_with("rows: ")), "{:?}", seen.gaps);
    }
    drop(flood);
    assert!(look().find(later.pid()).is_some());
}
