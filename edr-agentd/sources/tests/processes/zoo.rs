//! Processes with hostile behaviour.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use edr_wire::Bytes;
use edr_wire::limits::{ARGV_BYTES_MAX, ARGV_MAX};
use edr_wire::snapshot::{Access, Fd, FileKind, GapReason, OpenFile, Process};

use super::common::{ChildProgram, FakeProc, file, look, reader, reader_at, tick};

const HOLD: &str = "\nprint('ready', flush=True)\nsys.stdin.read()\n";

/// Starts a Python program, waits for the end of its preparations, and keeps the program waiting.
fn holding(program: &str) -> ChildProgram {
    ChildProgram::python(&format!("import ctypes, fcntl, os, select, socket, sys, threading\n{program}{HOLD}"))
}

/// Makes `path` a copy of `cat` and runs the copy, which waits for input.
fn running_copy(path: &Path) -> ChildProgram {
    std::fs::copy("/bin/cat", path).unwrap();
    running(path, &[])
}

fn running(path: &Path, arguments: &[&[u8]]) -> ChildProgram {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg("echo ready; exec \"$0\" \"$@\"").arg(path);
    shell.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    let running = ChildProgram::start(&mut shell);
    let exe = PathBuf::from(format!("/proc/{}/exe", running.pid()));
    let (dev, ino) = std::fs::metadata(path).map(|found| (found.dev(), found.ino())).unwrap();
    while std::fs::metadata(&exe).map(|found| (found.dev(), found.ino())).unwrap() != (dev, ino) {
        std::thread::yield_now();
    }
    running
}

fn bytes(path: &Path) -> Bytes {
    Bytes::from(path.as_os_str().as_bytes())
}

fn held(process: &Process, fd: Fd) -> &OpenFile {
    process.files.iter().find(|file| file.fd == fd).unwrap()
}

#[test]
fn a_comm_of_any_bytes_is_kept_exactly() {
    for (comm, expected) in [
        ("b') R 1 1 \\n\\x1b[2'", b") R 1 1 \n\x1b[2".as_slice()),
        ("b'<b>)\\n\\xff'", b"<b>)\n\xff"),
        ("b'))))(((('", b"))))(((("),
        ("b'[kworker/0:0]'", b"[kworker/0:0]"),
    ] {
        let running = holding(&format!("ctypes.CDLL(None).prctl(15, {comm}, 0, 0, 0)"));
        let seen = look();
        let process = seen.process(running.pid());
        assert_eq!(process.comm, Bytes::from(expected));
        assert_eq!((process.ppid, process.kernel_thread, process.state), (std::process::id(), false, 'S'));
        assert!(process.argv.len() >= 3 && process.argv.iter().any(|argument| *argument == Bytes::from(b"-c")));
    }
}

#[test]
fn a_process_with_a_wiped_command_line_is_no_kernel_thread() {
    let running = holding(
        "fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
start, end = int(fields[45]), int(fields[46])
with open('/proc/self/mem', 'r+b', 0) as memory:
    memory.seek(start)
    memory.write(bytes(end - start))
ctypes.CDLL(None).prctl(15, b'kthreadd', 0, 0, 0)",
    );
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap();
    assert!(cmdline.iter().all(|&b| b == 0));
    let seen = look();
    let process = seen.process(running.pid());
    assert!(!process.kernel_thread && process.exe.is_some());
    assert!(process.argv.len() == cmdline.len() && process.argv.iter().all(Bytes::is_empty));
}

#[test]
fn a_process_without_any_argument_is_a_row_and_no_kernel_thread() {
    let parent = holding(
        "if os.fork() == 0:
    ctypes.CDLL(None).execve(b'/bin/cat', (ctypes.c_char_p * 1)(None), (ctypes.c_char_p * 1)(None))
child = int(open(f'/proc/self/task/{os.getpid()}/children').read())
while not os.readlink(f'/proc/{child}/exe').endswith('/cat'): pass",
    );
    let seen = look();
    let process = seen.process(parent.child());
    // Since Linux 5.18 execve(2) adds an empty argument to an empty list.
    assert!(process.argv.is_empty() || process.argv == [Bytes::default()], "{process:?}");
    assert!(process.exe.is_some() && !process.kernel_thread && process.argv_bytes.is_none(), "{process:?}");
    assert!(process.incomplete.is_empty(), "{process:?}");
    super::common::kill(parent.child());
}

#[test]
fn a_kernel_thread_is_recognized_by_its_flag() {
    let seen = look();
    let Some(kthreadd) = seen.find(2).filter(|process| process.comm == Bytes::from(b"kthreadd")) else {
        println!("skipped: no kernel threads are visible here");
        return;
    };
    assert!(kthreadd.kernel_thread && kthreadd.argv.is_empty() && kthreadd.exe.is_none());
    assert!(kthreadd.incomplete.is_empty(), "{:?}", kthreadd.incomplete);
}

#[test]
pub(crate) fn long_command_lines_are_cut_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cat");
    std::fs::copy("/bin/cat", &path).unwrap();

    // 17 arguments of 120,000 bytes; `-` makes cat wait for input first.
    let long = [b"-".to_vec(), vec![b'x'; 120_000]].concat();
    let mut arguments: Vec<&[u8]> = vec![b"-", b"--"];
    arguments.extend(std::iter::repeat_n(long.as_slice(), 17));
    let big = running(&path, &arguments);
    let many: Vec<&[u8]> = std::iter::repeat_n(b"-".as_slice(), 100_000).collect();
    let many = running(&path, &many);

    let seen = look();
    let total = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().len() as u64;
    let process = seen.process(big.pid());
    assert_eq!(process.argv_bytes, Some(total(big.pid())));
    assert!(total(big.pid()) > 2_000_000);
    let kept: usize = process.argv.iter().map(|argument| argument.0.len() + 1).sum();
    assert!(kept <= ARGV_BYTES_MAX + 1 && kept > ARGV_BYTES_MAX - 1, "{kept}");
    assert_eq!(process.argv[1], Bytes::from(b"-"));

    let process = seen.process(many.pid());
    assert_eq!((process.argv.len(), process.argv_bytes), (ARGV_MAX, Some(total(many.pid()))));
}

#[test]
fn arguments_of_any_bytes_keep_their_boundaries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c\nat \u{202e}(deleted)");
    std::fs::copy("/bin/cat", &path).unwrap();
    let running = running(&path, &[b"-", b"", b"a b\nc", b"\xff\xfe", b"<script>alert(1)</script>", b""]);
    let seen = look();
    let process = seen.process(running.pid());
    let expected: Vec<Bytes> = [b"-".as_slice(), b"", b"a b\nc", b"\xff\xfe", b"<script>alert(1)</script>", b""]
        .into_iter()
        .map(Bytes::from)
        .collect();
    assert_eq!(process.argv[0], bytes(&path));
    assert_eq!((&process.argv[1..], process.argv_bytes), (expected.as_slice(), None));
    assert_eq!(process.exe.as_ref().unwrap().path, bytes(&path));
}

#[test]
fn deleted_means_without_a_link_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let running = holding(&format!(
        "os.chdir({:?})
def descriptor(path, number, flags=os.O_RDWR | os.O_CREAT):
    os.dup2(os.open(path, flags), number)
descriptor('kept (deleted)', 50)
descriptor('gone', 51)
os.unlink('gone')
descriptor('gone (deleted)', 52)
os.unlink('gone (deleted)')
descriptor('linked', 53)
os.link('linked', 'other name')
os.mkdir('folder')
descriptor('folder', 54, os.O_RDONLY)
os.rmdir('folder')
os.dup2(os.open('.', os.O_TMPFILE | os.O_RDWR), 55)
os.mkdir('cwd')
os.chdir('cwd')
os.rmdir('../cwd')
os.write(51, b'held')",
        folder.path()
    ));
    let seen = look();
    let process = seen.process(running.pid());
    let of = |fd| {
        let file = file(process, fd);
        (file.path.clone(), file.deleted, file.nlink)
    };
    assert_eq!(of(50), (bytes(&at("kept (deleted)")), false, 1));
    assert_eq!(of(51), (bytes(&at("gone")), true, 0));
    assert_eq!(of(52), (bytes(&at("gone (deleted)")), true, 0));
    assert_eq!(of(53), (bytes(&at("linked")), false, 2));
    assert_eq!(of(54), (bytes(&at("folder")), true, 0));
    assert!(of(55).1);
    assert_eq!(process.cwd, Some(bytes(&at("cwd"))));
    assert!(held(process, Fd::Cwd).deleted && !held(process, Fd::Root).deleted);
    // A deleted file that is still open, and the offset of its descriptor.
    let gone = file(process, 51);
    assert_eq!((gone.size, gone.offset, gone.access, gone.kind), (4, 4, Access::ReadWrite, FileKind::Regular));
}

#[test]
fn a_mapped_file_that_is_only_called_deleted_is_not() {
    // A file system where device and inode are the same in maps and stat; on overlayfs the two differ.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let running = holding(&format!(
        "import mmap
os.chdir({:?})
def mapped(path):
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 4096)
    return mmap.mmap(file, 4096)
kept = [mapped(name) for name in ('kept (deleted)', 'gone', 'gone (deleted)', 'forged')]
for name in ('gone', 'gone (deleted)', 'forged'): os.unlink(name)
os.symlink(f'/proc/{{os.getpid()}}/fd/{{max(map(int, os.listdir(\"/proc/self/fd\"))) - 1}}', 'forged (deleted)')",
        folder.path()
    ));
    let seen = look();
    let mapped = &seen.process(running.pid()).mapped;
    let of: Vec<(String, bool)> = mapped
        .iter()
        .filter_map(|file| {
            Some((file.path.to_string().strip_prefix(folder.path().to_str()?)?.to_owned(), file.deleted))
        })
        .collect();
    let mut expected = [("/kept (deleted)", false), ("/gone", true), ("/gone (deleted)", true), ("/forged", true)]
        .map(|(name, deleted)| (name.to_owned(), deleted));
    let mut of = of;
    of.sort_unstable();
    expected.sort_unstable();
    assert_eq!(of, expected);
}

#[test]
fn executables_that_are_deleted_replaced_setuid_or_in_memory_only() {
    let folder = tempfile::tempdir().unwrap();
    let (deleted, replaced, setuid) =
        (folder.path().join("deleted"), folder.path().join("replaced"), folder.path().join("setuid"));
    let deleted_runs = running_copy(&deleted);
    let before = std::fs::metadata(&deleted).unwrap();
    std::fs::remove_file(&deleted).unwrap();
    let replaced_runs = running_copy(&replaced);
    let old = std::fs::metadata(&replaced).unwrap();
    std::fs::write(folder.path().join("new"), "another file").unwrap();
    std::fs::rename(folder.path().join("new"), &replaced).unwrap();
    std::fs::copy("/bin/cat", &setuid).unwrap();
    std::fs::set_permissions(&setuid, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let setuid_runs = running(&setuid, &[]);
    let in_memory = holding(
        "program = os.memfd_create('x (deleted)', 0)
os.write(program, open('/bin/cat', 'rb').read())
if os.fork() == 0:
    os.execve(program, ['innocent'], {})
child = int(open(f'/proc/self/task/{os.getpid()}/children').read())
while 'memfd' not in os.readlink(f'/proc/{child}/exe'): pass",
    );
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", in_memory.pid())).unwrap();
    let child: u32 = children.trim().parse().unwrap();

    let seen = look();
    let exe = |pid: u32| seen.process(pid).exe.clone().unwrap();
    let of = exe(deleted_runs.pid());
    assert_eq!((of.path, of.deleted, of.memfd), (bytes(&deleted), true, false));
    assert_eq!((of.dev, of.inode, of.size), (before.dev(), before.ino(), before.size()));
    let of = exe(replaced_runs.pid());
    assert_eq!((of.path, of.deleted, of.inode), (bytes(&replaced), true, old.ino()));
    let of = exe(setuid_runs.pid());
    assert_eq!((of.path, of.deleted, of.setid), (bytes(&setuid), false, true));
    let of = exe(child);
    assert_eq!((of.path, of.memfd), (Bytes::from(b"/memfd:x (deleted)"), true));
    let file = held(seen.process(child), Fd::Exe);
    assert_eq!((file.kind, file.path.clone()), (FileKind::Memfd, Bytes::from(b"x (deleted)")));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[test]
fn every_kind_of_descriptor_is_listed_with_its_flags() {
    let folder = tempfile::tempdir().unwrap();
    let running = holding(&format!(
        "os.chdir({:?})
libc = ctypes.CDLL(None)
def at(number, descriptor, cloexec=False):
    os.dup2(descriptor, number, not cloexec)
    os.close(descriptor)
os.mkfifo('fifo')
at(60, os.open('fifo', os.O_RDWR | os.O_NONBLOCK))
read, write = os.pipe()
at(61, read)
at(62, write)
at(63, os.eventfd(5))
epoll = select.epoll()
epoll.register(63)
os.dup2(epoll.fileno(), 64)
at(65, libc.timerfd_create(0, 0))
at(66, libc.inotify_init())
libc.inotify_add_watch(66, b'.', 0x100)
at(67, os.pidfd_open(os.getpid()))
at(68, os.memfd_create('name'))
master, slave = os.openpty()
at(69, slave)
at(70, os.open('/dev/null', os.O_WRONLY | os.O_APPEND))
os.symlink('nowhere', 'link')
at(71, os.open('link', os.O_PATH | os.O_NOFOLLOW))
at(72, os.open('.', os.O_RDONLY | os.O_DIRECTORY), True)
at(73, os.open('/proc/self/ns/net', os.O_RDONLY))
s = socket.socket(socket.AF_UNIX)
os.dup2(s.fileno(), 74)
at(75, os.open('locked', os.O_RDWR | os.O_CREAT | os.O_SYNC))
fcntl.flock(75, fcntl.LOCK_EX)
bound = socket.socket(socket.AF_UNIX)
bound.bind('bound')
at(76, os.open('bound', os.O_PATH))",
        folder.path()
    ));
    let seen = look();
    let process = seen.process(running.pid());
    let inode = |fd: u32| std::fs::metadata(format!("/proc/{}/fd/{fd}", running.pid())).unwrap().ino();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for (fd, kind, access, name, flags) in [
        (60, FileKind::Pipe, Access::ReadWrite, path("fifo"), "nonblock"),
        (61, FileKind::Pipe, Access::Read, String::new(), ""),
        (62, FileKind::Pipe, Access::Write, String::new(), ""),
        (63, FileKind::AnonInode, Access::ReadWrite, "eventfd".to_owned(), ""),
        (64, FileKind::AnonInode, Access::ReadWrite, "eventpoll".to_owned(), ""),
        (65, FileKind::AnonInode, Access::ReadWrite, "timerfd".to_owned(), ""),
        (66, FileKind::AnonInode, Access::Read, "inotify".to_owned(), ""),
        (67, FileKind::AnonInode, Access::ReadWrite, "pidfd".to_owned(), ""),
        (68, FileKind::Memfd, Access::ReadWrite, "name".to_owned(), ""),
        (70, FileKind::Char, Access::Write, "/dev/null".to_owned(), "append"),
        (71, FileKind::Symlink, Access::Path, path("link"), "nofollow"),
        (72, FileKind::Directory, Access::Read, folder.path().to_string_lossy().into_owned(), "cloexec directory"),
        (74, FileKind::Socket, Access::ReadWrite, String::new(), ""),
        (75, FileKind::Regular, Access::ReadWrite, path("locked"), "sync"),
        (76, FileKind::Socket, Access::Path, path("bound"), ""),
    ] {
        let file = file(process, fd);
        assert_eq!((file.kind, file.access, file.flags.join(" ")), (kind, access, flags.to_owned()), "{fd} {file:?}");
        assert_eq!((file.path.to_string(), file.inode), (name, inode(fd)), "{fd} {file:?}");
    }
    let detail = |fd: u32| file(process, fd).detail.to_string();
    assert!(detail(63).starts_with("eventfd-count:"), "{}", detail(63));
    assert!(detail(64).starts_with("tfd:") && detail(64).contains("63"), "{}", detail(64));
    assert!(detail(65).contains("clockid: 0") && !detail(65).contains("it_value"), "{}", detail(65));
    assert!(detail(66).starts_with("inotify wd:1 "), "{}", detail(66));
    assert!(detail(67).contains(&format!("Pid:\t{}", running.pid())), "{}", detail(67));
    assert!(detail(75).contains("FLOCK  ADVISORY  WRITE"), "{}", detail(75));
    assert!(file(process, 69).path.to_string().starts_with("/dev/pts/"));
    assert_eq!(file(process, 69).kind, FileKind::Char);
    assert!(file(process, 69).rdev != 0);
    assert_eq!(file(process, 73).path.to_string(), format!("net:[{}]", process.namespaces.net));
    assert_eq!(process.files_total, Some(process.files.len() as u64 - 3));
}

#[test]
fn zombies_and_stopped_processes_are_rows_with_nothing_missing() {
    let running = holding("if os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid())).unwrap();
    let stopped = holding("");
    stopped.freeze();
    let seen = look();
    let zombie = seen.process(children.trim().parse().unwrap());
    assert_eq!((zombie.state, zombie.ppid), ('Z', running.pid()));
    assert!(zombie.files.is_empty() && zombie.exe.is_none() && zombie.incomplete.is_empty(), "{zombie:?}");
    assert_eq!(zombie.comm, Bytes::from(b"python3"));
    let stopped = seen.process(stopped.pid());
    assert_eq!((stopped.state, stopped.incomplete.len()), ('T', 0));
    assert!(stopped.files.len() >= 6);
}

#[test]
fn a_process_whose_first_thread_ended_keeps_its_files() {
    let mut running = ChildProgram::python(
        "import ctypes, os, sys, threading
def go_on():
    held = os.open('/etc/passwd', os.O_RDONLY)
    os.dup2(held, 77)
    while open(f'/proc/{os.getpid()}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z': pass
    print('alone', flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=go_on).start()
print('ready', flush=True)
ctypes.CDLL(None).syscall(60, 0)",
    );
    assert_eq!(running.line(), "alone");
    let seen = look();
    let process = seen.process(running.pid());
    assert_eq!((process.state, process.threads), ('Z', 2));
    assert_eq!(file(process, 77).path, Bytes::from(b"/etc/passwd"));
    assert!(process.exe.is_some() && !process.argv.is_empty() && process.incomplete.is_empty(), "{process:?}");
}

#[test]
fn descriptors_beyond_the_limit_are_counted_and_the_same_are_listed_each_time() {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 100_000.min(hard - 10);
    if wanted < 100_000 {
        println!("only {wanted} descriptors: the limit of this machine is {hard} (now {soft})");
    }
    let running = holding(&format!(
        "import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard}))
null = os.open('/dev/null', os.O_RDONLY)
while os.dup(null) < {wanted}: pass"
    ));
    let (first, second) = (look(), look());
    let process = first.process(running.pid());
    assert_eq!(process.files_total, Some(wanted + 1));
    assert!(process.truncated);
    let listed: Vec<Fd> = process.files.iter().map(|file| file.fd).collect();
    let expected: Vec<Fd> = [Fd::Cwd, Fd::Root, Fd::Exe].into_iter().chain((0..4_096).map(Fd::Number)).collect();
    assert_eq!(listed, expected);
    assert!(first.row(running.pid()) == second.row(running.pid()));
}

#[test]
fn processes_that_vanish_during_the_read_are_only_counted() {
    let running = ChildProgram::python(
        "import os, sys
print('ready', flush=True)
while True:
    if os.fork() == 0: os._exit(0)
    os.wait()",
    );
    let mut reader = reader();
    for _ in 0..20 {
        let seen = tick(&mut reader);
        for gap in &seen.gaps {
            // Processes of other tests may be in any state.
            let is_child = |pid| seen.find(pid).is_none_or(|process| process.ppid == running.pid());
            if gap.source == "processes" && gap.pid.is_some_and(|pid| pid > running.pid() && is_child(pid)) {
                assert_eq!(gap.reason, GapReason::Gone, "{gap:?}");
            }
        }
        for process in seen.processes.iter().filter(|process| process.ppid == running.pid()) {
            assert!(process.comm == Bytes::from(b"python3"), "{process:?}");
        }
    }
}

#[test]
fn a_name_imitated_by_a_file_is_a_file() {
    let proc = FakeProc::new();
    let folder = proc.add(700, "x");
    for (fd, target) in [(3, "/dev/null"), (4, "/etc/passwd")] {
        symlink(target, folder.join("fd").join(fd.to_string())).unwrap();
        std::fs::write(folder.join("fdinfo").join(fd.to_string()), "pos:\t7\nflags:\t0100002\nmnt_id:\t1\n").unwrap();
    }
    let mut reader = reader_at(proc.root());
    let seen = tick(&mut reader);
    let process = seen.process(700);
    assert_eq!((process.start_ticks, process.start_time_ns), (500, 1_700_000_005_000_000_000));
    assert_eq!((file(process, 4).offset, file(process, 4).access), (7, Access::ReadWrite));
    assert_eq!(file(process, 3).kind, FileKind::Char);
}

#[test]
fn a_thread_that_lives_is_found_behind_many_that_are_dead() {
    let proc = FakeProc::new();
    let folder = proc.add(700, "x");
    let stat = std::fs::read_to_string(folder.join("stat")).unwrap();
    let dead = stat.replacen(" S ", " Z ", 1);
    std::fs::write(folder.join("stat"), dead.replacen(" 20 0 1 0 ", " 20 0 102 0 ", 1)).unwrap();
    for tid in 701..802 {
        let thread = folder.join("task").join(tid.to_string());
        std::fs::create_dir_all(thread.join("fd")).unwrap();
        std::fs::create_dir_all(thread.join("fdinfo")).unwrap();
        std::fs::write(thread.join("stat"), if tid < 801 { &dead } else { &stat }).unwrap();
        std::fs::write(thread.join("cmdline"), format!("{tid}\0")).unwrap();
    }
    let mut reader = reader_at(proc.root());
    assert_eq!(tick(&mut reader).process(700).argv, [Bytes::from(b"801")]);
    std::fs::write(folder.join("task/801/stat"), &dead).unwrap();
    let seen = tick(&mut reader);
    assert!(seen.process(700).incomplete.contains(&"files".to_owned()));
    assert!(seen.gaps.iter().any(|gap| gap.detail.contains("101 other threads checked")), "{:?}", seen.gaps);
}
