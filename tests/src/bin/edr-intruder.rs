//! The attempts of an intruder inside a daemon: `edr-intruder PID FOLDER`. PID is a process of root, FOLDER the folder
//! writable for the daemon. The program runs in place of the daemon inside the daemon's unit. Run as root outside of a
//! unit, almost all attempts succeed.
//!
//! Prints the program's identity as lines `is KEY VALUE`, then a line for each attempt: `NAME ok` or `NAME ERRNO`.

#![expect(unsafe_code, reason = "most of these calls have no safe wrapper, since nobody should want them")]
#![expect(clippy::print_stdout, reason = "its lines are what the test reads")]

use std::ffi::{CString, c_long};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let target: libc::pid_t = args.next().context("usage: edr-intruder PID FOLDER")?.parse().context("PID")?;
    let folder = args.next().context("usage: edr-intruder PID FOLDER")?;
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        if key.starts_with("Cap") || ["Uid", "Gid", "NoNewPrivs", "Seccomp"].contains(&key) {
            println!("is {key} {}", value.split_whitespace().next().unwrap_or_default());
        }
    }
    for (name, attempt) in attempts(target, &folder) {
        match attempt {
            Ok(()) => println!("{name} ok"),
            Err(error) => println!("{name} {:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        }
    }
    Ok(())
}

fn attempts(target: libc::pid_t, folder: &str) -> Vec<(String, io::Result<()>)> {
    let mut done = Vec::new();
    let mut add = |name: &str, outcome: io::Result<()>| done.push((name.to_owned(), outcome));

    // The only permitted attempt: the success shows that the refusals are not caused by a broken test.
    add("write-own", write(&format!("{folder}/edr-intruder")));

    add("exec", Command::new("/bin/true").status().map(drop));
    for (name, place) in [("own", folder), ("tmp", "/tmp"), ("var-tmp", "/var/tmp"), ("shm", "/dev/shm")] {
        add(&format!("exec-from-{name}"), exec_from(place));
    }
    add("exec-memfd", exec_memfd());

    add("ptrace", call(libc::SYS_ptrace, [0x4206 /* PTRACE_SEIZE */, target.into(), 0, 0, 0]));
    add("process_vm_writev", vm(libc::SYS_process_vm_writev, target));
    add("process_vm_readv", vm(libc::SYS_process_vm_readv, target));
    add("pidfd_getfd", pidfd_getfd(target));
    add("write-mem", write_mem(target));
    add("write-oom_score_adj", write(&format!("/proc/{target}/oom_score_adj")));
    add("kill", call(libc::SYS_kill, [target.into(), libc::SIGCONT.into(), 0, 0, 0]));

    let raw = libc::SOCK_RAW.into();
    add("socket-packet", socket(libc::AF_PACKET.into(), raw, 0));
    add("socket-raw", socket(libc::AF_INET.into(), raw, libc::IPPROTO_ICMP.into()));

    add("setns", setns());
    add("mount", mount());
    add("bpf", call(libc::SYS_bpf, [0, 0, 0, 0, 0]));
    add("setuid", call(libc::SYS_setuid, [0, 0, 0, 0, 0]));

    let v1 = Path::new("/sys/fs/cgroup/systemd/cgroup.procs");
    for place in [
        "/etc/edr-intruder",
        "/usr/sbin/edr-intruder",
        "/var/lib/edr-intruder",
        "/var/log/psad/edr-intruder",
        "/var/log/edr-intruder",
        "/root/edr-intruder",
        "/home/edr-intruder",
        "/run/edr-intruder",
        "/opt/edr-intruder",
        "/proc/sys/kernel/hostname",
        if v1.exists() { "/sys/fs/cgroup/systemd/cgroup.procs" } else { "/sys/fs/cgroup/cgroup.procs" },
    ] {
        add(&format!("write-{place}"), write(place));
    }
    // The last attempts, because even root has no rights here from inside another user namespace.
    for (name, flag) in [
        ("mount", libc::CLONE_NEWNS),
        ("net", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
        ("user", libc::CLONE_NEWUSER),
    ] {
        add(&format!("unshare-{name}"), call(libc::SYS_unshare, [flag.into(), 0, 0, 0, 0]));
    }
    done
}

fn call(number: c_long, args: [c_long; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = args;
    // SAFETY: no argument is a pointer. Any effect of a call on this process is acceptable: the process ends a moment
    // later.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket(family: c_long, kind: c_long, protocol: c_long) -> io::Result<()> {
    call(libc::SYS_socket, [family, kind, protocol, 0, 0])
}

fn write(path: &str) -> io::Result<()> {
    let exists = Path::new(path).exists();
    OpenOptions::new().write(true).create(!exists).truncate(false).open(path).map(drop)?;
    if !exists { std::fs::remove_file(path) } else { Ok(()) }
}

/// Runs a program written to a writable folder.
fn exec_from(folder: &str) -> io::Result<()> {
    let path = format!("{folder}/edr-intruder-true");
    std::fs::copy("/bin/true", &path)?;
    let ran = Command::new(&path).status().map(drop);
    std::fs::remove_file(&path)?;
    ran
}

/// Runs a program that exists in no file system.
fn exec_memfd() -> io::Result<()> {
    let name = CString::new("edr-intruder")?;
    // SAFETY: the name is a C string that outlives the call; the returned descriptor has no other owner.
    let fd = unsafe {
        let fd = libc::memfd_create(name.as_ptr(), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut file = std::fs::File::from(fd);
    file.write_all(&std::fs::read("/bin/true")?)?;
    Command::new(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())).status().map(drop)
}

/// The start of the first writable mapping of a process.
fn address(target: libc::pid_t) -> io::Result<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{target}/maps"))?;
    let writable = maps.lines().find(|line| line.contains(" rw")).unwrap_or_default();
    let start = writable.split('-').next().unwrap_or_default();
    usize::from_str_radix(start, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads eight bytes at the start of a process's writable memory, or overwrites them with zeros.
fn vm(number: c_long, target: libc::pid_t) -> io::Result<()> {
    let mut bytes = [0_u8; 8];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address(target)?), iov_len: bytes.len() };
    // SAFETY: both vectors are of length one and outlive the call; the local vector points to memory of this process.
    let result =
        unsafe { libc::syscall(number, target, &raw const local, 1_usize, &raw const remote, 1_usize, 0_usize) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn write_mem(target: libc::pid_t) -> io::Result<()> {
    OpenOptions::new().write(true).open(format!("/proc/{target}/mem")).map(drop)
}

fn pidfd_getfd(target: libc::pid_t) -> io::Result<()> {
    // SAFETY: no pointers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, target, 0) };
    if pidfd < 0 {
        return Err(io::Error::last_os_error());
    }
    call(libc::SYS_pidfd_getfd, [pidfd, 0, 0, 0, 0])
}

fn setns() -> io::Result<()> {
    let namespace = std::fs::File::open("/proc/1/ns/mnt")?;
    call(libc::SYS_setns, [namespace.as_raw_fd().into(), 0, 0, 0, 0])
}

fn mount() -> io::Result<()> {
    let (kind, at) = (CString::new("tmpfs")?, CString::new("/mnt")?);
    // SAFETY: C strings that outlive the call; no data.
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
