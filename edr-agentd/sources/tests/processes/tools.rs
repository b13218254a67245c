//! Compares frozen processes with the output of `lsof` and `ps`: in both directions, every row and every common field.
//!
//! Differences between `lsof` and this source, with the reason:
//!
//! - a descriptor opened with `O_PATH`: `lsof` derives the access from the permissions of the link; the link has none,
//!   so the `a` field is missing;
//! - names: `lsof` writes a byte considered unprintable as `\xNN`, `^X` or `\n`, prints `pipe`, `protocol: UNIX` or
//!   `type=STREAM` for descriptors without a path, appends ` (deleted)` to files without a link and the peer to
//!   sockets. So only paths of regular files, directories and devices without such bytes are compared;
//!   `uts:[4026531838]` is printed as `uts`;
//! - size: `lsof -s` and `-o` exclude each other, so `lsof` runs twice; no size is printed for devices and pipes;
//! - flags: `lsof +fG` prints the kernel's number with `O_LARGEFILE`, which every file of a 64-bit kernel has and no
//!   row contains;
//! - offset of a pipe, socket or anonymous inode: none here, `0t0` in `lsof`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use edr_wire::Bytes;
use edr_wire::snapshot::{Access, Fd, FileKind, OpenFile, Process};

use super::common::{ChildProgram, look};

/// The frozen process: ordinary and unusual descriptors.
const ZOO: &str = "
import fcntl, mmap, os, select, socket, sys, threading, time
folder = f'{sys.argv[1]}/{os.getpid()}'
os.mkdir(folder)
os.chdir(folder)
def at(number, descriptor):
    os.dup2(descriptor, number)
    os.close(descriptor)
at(30, os.open('plain', os.O_RDWR | os.O_CREAT))
os.write(30, b'x' * 5000)
os.lseek(30, 1234, os.SEEK_SET)
at(31, os.open('appended', os.O_WRONLY | os.O_CREAT | os.O_APPEND))
at(32, os.open('gone', os.O_RDWR | os.O_CREAT))
os.write(32, b'y' * 77)
os.unlink('gone')
at(33, os.open('.', os.O_RDONLY))
at(34, os.open('/dev/null', os.O_RDWR))
at(35, os.open('/dev/zero', os.O_RDONLY))
r, w = os.pipe()
at(36, r)
at(37, w)
os.mkfifo('fifo')
at(38, os.open('fifo', os.O_RDWR))
at(39, os.eventfd(3))
epoll = select.epoll()
os.dup2(epoll.fileno(), 40)
pair = socket.socketpair()
at(41, pair[0].detach())
at(42, pair[1].detach())
tcp = socket.socket()
tcp.bind(('127.0.0.1', 0))
tcp.listen(1)
at(43, tcp.detach())
at(44, os.memfd_create('in memory'))
at(45, os.open('plain', os.O_PATH))
at(46, os.open('name (deleted)', os.O_RDWR | os.O_CREAT))
at(47, os.open('/proc/self/stat', os.O_RDONLY))
at(48, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).detach())
at(49, os.open('/proc/self/ns/uts', os.O_RDONLY))
fcntl.flock(31, fcntl.LOCK_EX)
at(50, os.open('plain', os.O_RDWR | os.O_SYNC | os.O_NONBLOCK))
fcntl.lockf(50, fcntl.LOCK_SH)
os.set_inheritable(50, False)
at(51, os.open('.', os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME))
mapped = mmap.mmap(30, 4096)
# Some processor time, for %CPU and TIME.
until = time.process_time() + 0.3
while time.process_time() < until: pass
for _ in range(3): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print('ready', flush=True)
sys.stdin.read()
";

fn zoo(folder: &Path) -> ChildProgram {
    let running = ChildProgram::start(Command::new("python3").args(["-c", ZOO]).arg(folder));
    running.freeze();
    running
}

fn frozen(folder: &Path) -> Vec<ChildProgram> {
    (0..3).map(|_| zoo(folder)).collect()
}

fn tool(name: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    match Command::new(name).args(arguments).output() {
        Ok(output) => Some(output.stdout),
        Err(error) => {
            println!("skipped: run {name}: {error}");
            None
        }
    }
}

/// A set of `lsof -F` fields by letter.
type LsofFields = BTreeMap<u8, Vec<u8>>;

/// `lsof -nP -F` of one process: descriptors by name, and mapped files.
fn lsof(pid: u32, option: &str, fields: &str) -> Option<(BTreeMap<String, LsofFields>, Vec<LsofFields>)> {
    let pid = pid.to_string();
    let output = tool("lsof", &["-nP", option, fields, "-p", &pid])?;
    let (mut files, mut mapped) = (BTreeMap::new(), Vec::new());
    for set in output.split(|&b| b == b'\n') {
        let fields: LsofFields =
            set.split(|&b| b == 0).filter(|f| !f.is_empty()).map(|field| (field[0], field[1..].to_vec())).collect();
        let Some(fd) = fields.get(&b'f') else { continue };
        match fd.as_slice() {
            b"mem" | b"DEL" => mapped.push(fields),
            fd => assert!(files.insert(String::from_utf8(fd.to_vec()).unwrap(), fields).is_none()),
        }
    }
    Some((files, mapped))
}

fn lsof_name(fd: Fd) -> String {
    match fd {
        Fd::Cwd => "cwd".to_owned(),
        Fd::Root => "rtd".to_owned(),
        Fd::Exe => "txt".to_owned(),
        Fd::Number(number) => number.to_string(),
    }
}

fn number(field: Option<&Vec<u8>>) -> Option<u64> {
    let text = std::str::from_utf8(field?).unwrap();
    let (text, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0t")) {
        (Some(hex), _) => (hex, 16),
        (_, Some(decimal)) => (decimal, 10),
        _ => (text, 10),
    };
    Some(u64::from_str_radix(text, radix).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn is_plain_path(path: &Bytes) -> bool {
    path.0.starts_with(b"/") && path.0.iter().all(|b| (b' '..=b'~').contains(b) && *b != b'\\')
}

#[test]
fn open_files_equal_lsofs() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = frozen(folder.path());
    let seen = look();
    let mut compared = 0;
    for running in &frozen {
        let process = seen.process(running.pid());
        let (Some((sizes, mapped)), Some((offsets, _)), Some((flags, _))) = (
            lsof(running.pid(), "-s", "-FfatDiknrs0"),
            lsof(running.pid(), "-o", "-Ffo0"),
            lsof(running.pid(), "+fG", "-FfGl0"),
        ) else {
            return;
        };
        let ours: Vec<String> = process.files.iter().map(|file| lsof_name(file.fd)).collect();
        let mut theirs: Vec<&String> = sizes.keys().collect();
        let mut sorted: Vec<&String> = ours.iter().collect();
        sorted.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(sorted, theirs);
        for file in &process.files {
            let (sized, offset) = (&sizes[&lsof_name(file.fd)], &offsets[&lsof_name(file.fd)]);
            let context = format!("{file:?} {sized:?}");
            compared += 1;
            if matches!(file.fd, Fd::Number(_)) {
                flags_agree(file, &flags[&lsof_name(file.fd)]);
            }
            let access = sized.get(&b'a').map(Vec::as_slice);
            match (file.fd, file.access) {
                (Fd::Number(_), Access::Read) => assert_eq!(access, Some(b"r".as_slice()), "{context}"),
                (Fd::Number(_), Access::Write) => assert_eq!(access, Some(b"w".as_slice()), "{context}"),
                (Fd::Number(_), Access::ReadWrite) => assert_eq!(access, Some(b"u".as_slice()), "{context}"),
                _ => {}
            }
            let kind = match sized[&b't'].as_slice() {
                b"REG" if file.kind == FileKind::Memfd => FileKind::Memfd,
                b"REG" => FileKind::Regular,
                b"DIR" => FileKind::Directory,
                b"CHR" => FileKind::Char,
                b"FIFO" => FileKind::Pipe,
                b"a_inode" => FileKind::AnonInode,
                b"unix" | b"IPv4" | b"IPv6" | b"sock" => FileKind::Socket,
                other => panic!("{}", String::from_utf8_lossy(other)),
            };
            assert_eq!(file.kind, kind, "{context}");
            // lsof prints the number of a socket's protocol block here.
            if kind != FileKind::Socket {
                assert_eq!(number(sized.get(&b'i')), Some(file.inode), "{context}");
                assert_eq!(number(sized.get(&b'D')), Some(file.dev), "{context}");
            }
            if let Some(nlink) = number(sized.get(&b'k')) {
                assert_eq!(nlink, u64::from(file.nlink), "{context}");
            }
            if matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Memfd) {
                assert_eq!(number(sized.get(&b's')), Some(file.size), "{context}");
                // lsof knows no offset of files held without a descriptor.
                if matches!(file.fd, Fd::Number(_)) && file.access != Access::Path {
                    assert_eq!(number(offset.get(&b'o')), Some(file.offset), "{context} {offset:?}");
                }
            }
            if matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Char) && is_plain_path(&file.path) {
                let name = &sized[&b'n'];
                let expected =
                    if file.deleted { [file.path.0.as_slice(), b" (deleted)"].concat() } else { file.path.0.clone() };
                assert_eq!(name, &expected, "{context}");
            }
            if kind == FileKind::Char {
                assert_eq!(number(sized.get(&b'r')), Some(file.rdev), "{context}");
            }
        }
        mapped_files_agree(process, &mapped);
    }
    println!("{compared} descriptors compared");
    assert!(compared >= 3 * 28);
}

/// The numbers of `include/uapi/asm-generic/fcntl.h` for the names in `flags`.
fn flags_agree(file: &OpenFile, theirs: &LsofFields) {
    let bits = |name: &str| match name {
        "append" => 0o2_000,
        "nonblock" => 0o4_000,
        "dsync" => 0o10_000,
        "async" => 0o20_000,
        "direct" => 0o40_000,
        "directory" => 0o200_000,
        "nofollow" => 0o400_000,
        "noatime" => 0o1_000_000,
        "cloexec" => 0o2_000_000,
        "sync" => 0o4_010_000,
        "tmpfile" => 0o20_200_000,
        octal => u64::from_str_radix(octal.strip_prefix('0').unwrap(), 8).unwrap(),
    };
    let access = match file.access {
        Access::Read => 0,
        Access::Write => 1,
        Access::ReadWrite => 2,
        Access::Path => 0o10_000_000,
        Access::Unknown => 3,
    };
    let ours = file.flags.iter().fold(access, |sum, name| sum | bits(name));
    let theirs_text = std::str::from_utf8(&theirs[&b'G']).unwrap();
    let number = theirs_text.split(';').next().and_then(|text| text.strip_prefix("0x")).unwrap();
    if cfg!(target_arch = "x86_64") {
        assert_eq!(u64::from_str_radix(number, 16).unwrap() & !0o100_000, ours, "{file:?} {theirs_text}");
    }
    // lsof looks locks up by file, and prints a lock of this process at each of its descriptors of the file. The kernel
    // names the descriptor of a flock(2) lock, so each lock in the row must be in lsof's output, but not the reverse.
    let lock = theirs.get(&b'l').map(Vec::as_slice).unwrap_or_default();
    let detail = file.detail.to_string();
    for (kind, letter) in [("WRITE", b"W"), ("READ", b"R")] {
        if detail.contains("lock:") && detail.contains(kind) {
            assert_eq!(lock, letter, "{file:?}");
        }
    }
}

/// `lsof` leaves the executable out of its `mem` rows (listed as `txt`) and prints each mapped file once by name.
fn mapped_files_agree(process: &Process, theirs: &[LsofFields]) {
    let exe = process.exe.as_ref().unwrap();
    let mut ours: Vec<(u64, Bytes)> = process
        .mapped
        .iter()
        .filter(|file| (file.dev, file.inode) != (exe.dev, exe.inode))
        .map(|file| (file.inode, file.path.clone()))
        .collect();
    let mut theirs: Vec<(u64, Bytes)> = theirs
        .iter()
        .map(|fields| (number(fields.get(&b'i')).unwrap(), Bytes::from(fields[&b'n'].as_slice())))
        .collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    theirs.dedup();
    assert_eq!(ours, theirs);
    assert!(!ours.is_empty());
}

#[test]
fn processes_equal_pss() {
    let folder = tempfile::tempdir().unwrap();
    let mut frozen = frozen(folder.path());
    // A zombie, and a process with a terminal.
    frozen.push(ChildProgram::python(
        "import os, sys\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, \
    os.WEXITED | os.WNOWAIT)\nprint('ready', flush=True)\nsys.stdin.read()",
    ));
    frozen[3].freeze();
    let zombie = frozen[3].child();
    frozen.push(ChildProgram::python(
        "import fcntl, os, sys, termios
os.setsid() if os.getpid() != os.getsid(0) else None
controlling, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
print('ready', flush=True)
sys.stdin.read()",
    ));
    frozen[4].freeze();
    let before = uptime();
    let seen = look();
    let pids: Vec<u32> = frozen.iter().map(ChildProgram::pid).chain([zombie]).collect();
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let fields = "pid,ppid,pgid,sid,tpgid,stat,ni,pri,nlwp,vsz,rss,uid,ruid,gid,cputimes,lstart,flags,euser,\
                  pcpu,pmem,tname,time,comm";
    let Some(output) = tool("ps", &["-ww", "-p", &list, "-o", fields]) else { return };
    let after = uptime();
    let output = String::from_utf8(output).unwrap();
    let lines: Vec<&str> = output.lines().skip(1).collect();
    assert_eq!(lines.len(), pids.len(), "{output}");
    let mut terminals = 0;
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().unwrap();
        let process = seen.process(word().parse().unwrap());
        let context = format!("{line}\n{process:?}");
        let page_kib = rustix_page_bytes() / 1024;
        assert_eq!(word(), process.ppid.to_string(), "{context}");
        assert_eq!(word(), process.pgid.to_string(), "{context}");
        assert_eq!(word(), process.sid.to_string(), "{context}");
        assert_eq!(word(), process.tpgid.to_string(), "{context}");
        assert_eq!(word(), stat_letters(process), "{context}");
        assert_eq!(word(), process.nice.to_string(), "{context}");
        // ps: 39 - priority.
        assert_eq!(word(), (39 - process.priority).to_string(), "{context}");
        assert_eq!(word(), process.threads.to_string(), "{context}");
        assert_eq!(word(), (process.vsize_bytes / 1024).to_string(), "{context}");
        let rss: u64 = word().parse().unwrap();
        assert_eq!(rss, process.rss_pages * page_kib, "{context}");
        assert_eq!(word(), process.uids[1].to_string(), "{context}");
        assert_eq!(word(), process.uids[0].to_string(), "{context}");
        assert_eq!(word(), process.gids[1].to_string(), "{context}");
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
        let seconds = (process.utime_ticks + process.stime_ticks) / u64::try_from(ticks).unwrap();
        assert_eq!(word(), seconds.to_string(), "{context}");
        let start = [word(), word(), word(), word(), word()].join(" ");
        let said = Command::new("date").args(["-d", &start, "+%s"]).output().unwrap().stdout;
        let said: i64 = String::from_utf8(said).unwrap().trim().parse().unwrap();
        assert!((said - process.start_time_ns / 1_000_000_000).abs() <= 1, "{context}");
        // ps prints only PF_FORKNOEXEC and PF_SUPERPRIV.
        assert_eq!(word(), (process.flags >> 6 & 7).to_string(), "{context}");
        assert_eq!(word(), process.user.clone().unwrap_or_else(|| process.uids[1].to_string()), "{context}");
        let used = (process.utime_ticks + process.stime_ticks) as f64;
        let of_cpu = |uptime: f64| 100.0 * used / (uptime * ticks as f64 - process.start_ticks as f64);
        let pcpu: f64 = word().parse().unwrap();
        // ps read the time between the two readings here; ps prints one decimal, in older versions whole seconds.
        assert!((of_cpu(after + 1.0) - 0.1..=of_cpu(before) + 0.1).contains(&pcpu), "{pcpu} {context}");
        let pmem: f64 = word().parse().unwrap();
        let of_memory = 100.0 * (process.rss_pages * page_kib) as f64 / memory_kib() as f64;
        assert!((pmem - of_memory).abs() <= 0.1, "{pmem} {of_memory} {context}");
        assert_eq!(word(), tty_name(process.tty), "{context}");
        terminals += u32::from(process.tty != 0);
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        assert_eq!(word(), format!("{:02}:{:02}:{seconds:02}", minutes / 60, minutes % 60), "{context}");
        // Some versions add `<defunct>` to a zombie's name.
        let comm = words.filter(|word| *word != "<defunct>").collect::<Vec<_>>().join(" ");
        assert_eq!(comm, process.comm.to_string(), "{context}");
    }
    assert_eq!(terminals, 1);
}

/// Seconds since boot.
fn uptime() -> f64 {
    std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn memory_kib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    total.trim().trim_end_matches(" kB").parse().unwrap()
}

/// TTY from the device number of `/proc/PID/stat`, for the kinds of terminals in these tests.
fn tty_name(tty: u32) -> String {
    let (major, minor) = (tty >> 8 & 0xff, tty & 0xff | tty >> 12 & 0xfff00);
    match major {
        0 => "?".to_owned(),
        136 => format!("pts/{minor}"),
        _ => panic!("terminal {major}:{minor}"),
    }
}

/// STAT as described in ps(1).
fn stat_letters(process: &Process) -> String {
    let mut letters = process.state.to_string();
    letters.extend((process.nice < 0).then_some('<').or((process.nice > 0).then_some('N')));
    letters.extend(process.locked.then_some('L'));
    letters.extend((process.sid == process.pid).then_some('s'));
    letters.extend((process.threads > 1).then_some('l'));
    letters.extend((process.tpgid >= 0 && process.tpgid.unsigned_abs() == process.pgid).then_some('+'));
    letters
}

fn rustix_page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap().try_into().unwrap()
}

#[test]
fn no_process_of_ps_is_missing() {
    let Some(before) = tool("ps", &["-e", "-o", "pid="]) else { return };
    let seen = look();
    let Some(after) = tool("ps", &["-e", "-o", "pid="]) else { return };
    let pids = |output: Vec<u8>| -> Vec<u32> {
        String::from_utf8(output).unwrap().split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let after = pids(after);
    let lived: Vec<u32> = pids(before).into_iter().filter(|pid| after.contains(pid)).collect();
    let missing: Vec<&u32> = lived.iter().filter(|&&pid| seen.find(pid).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_name_that_a_tool_would_show_as_deleted_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let running = zoo(folder.path());
    let seen = look();
    let file = super::common::file(seen.process(running.pid()), 46);
    assert!(!file.deleted && file.path.0.ends_with(b"/name (deleted)") && file.nlink == 1);
}
