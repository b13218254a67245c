//! `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)).

use std::borrow::Cow;

use edr_wire::snapshot::Access;
use rustix::fs::OFlags;

use super::number::{decimal, octal};
use super::{MalformedFile, malformed};

/// Maximum number of bytes kept of the lines specific to a kind of descriptor; an epoll instance has a line for each of
/// its descriptors.
pub(super) const DETAIL_BYTES_MAX: usize = 2_048;

/// Fields of every descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FdInfo {
    pub(super) offset: u64,
    pub(super) flags: u32,
    /// Since Linux 5.14. Shows if the other reads of this descriptor saw the same file.
    pub(super) inode: Option<u64>,
}

/// Parses the lines common to all descriptors, and puts lines specific to the kind into `detail`.
pub(super) fn parse_fdinfo(fdinfo: &[u8], detail: &mut Vec<u8>) -> Result<FdInfo, MalformedFile> {
    const FILE: &str = "fdinfo";
    let (mut offset, mut flags, mut inode) = (None, None, None);
    detail.clear();
    for line in fdinfo.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        match &line[..colon] {
            b"pos" if offset.is_none() => offset = decimal(value.strip_prefix(b"-").unwrap_or(value)),
            b"flags" if flags.is_none() => flags = octal(value).and_then(|flags| u32::try_from(flags).ok()),
            b"mnt_id" => {}
            b"ino" if inode.is_none() => inode = decimal(value),
            key if moves_by_itself(key) => {}
            _ if detail.len() + line.len() < DETAIL_BYTES_MAX => {
                if !detail.is_empty() {
                    detail.push(b'\n');
                }
                detail.extend_from_slice(line);
            }
            _ => {
                detail.extend_from_slice("\n…".as_bytes());
                break;
            }
        }
    }
    match (offset, flags) {
        (Some(offset), Some(flags)) => Ok(FdInfo { offset, flags, inode }),
        _ => Err(malformed(FILE, "pos and flags")),
    }
}

/// True for lines whose value changes by itself (the time left of a timer), and for lines that repeat the content of a
/// ring: with these lines a row would differ at each tick without new information.
fn moves_by_itself(key: &[u8]) -> bool {
    matches!(
        key,
        b"it_value" | b"run_time_ns" | b"run_cnt" | b"recursion_misses" // timerfd, bpf-prog
            | b"SqHead" | b"SqTail" | b"CqHead" | b"CqTail" | b"CachedSqHead" | b"CachedCqTail" // io_uring
            | b"SQEs" | b"CQEs" | b"SqTotalTime" | b"SqWorkTime"
    ) || key.first().is_some_and(|first| *first == b' ' && key.iter().any(u8::is_ascii_digit))
}

/// The access mode in `flags`.
pub(super) fn access(flags: u32) -> Access {
    let flags = OFlags::from_bits_retain(flags);
    if flags.contains(OFlags::PATH) {
        return Access::Path;
    }
    match flags & OFlags::RWMODE {
        mode if mode == OFlags::RDONLY => Access::Read,
        mode if mode == OFlags::WRONLY => Access::Write,
        mode if mode == OFlags::RDWR => Access::ReadWrite,
        _ => Access::Unknown, // 3: neither, for ioctl(2) only
    }
}

/// Adds the names of the flags beyond the access mode, sorted. `O_LARGEFILE`, set by a 64-bit kernel on every file, is
/// left out; a bit without a name is written in octal.
pub(super) fn flag_names(flags: u32, names: &mut Vec<Cow<'static, str>>) {
    // O_SYNC contains O_DSYNC and O_TMPFILE contains O_DIRECTORY: the longer flag first, and each bit once.
    const NAMES: [(OFlags, &str); 11] = [
        (OFlags::APPEND, "append"),
        (OFlags::ASYNC, "async"),
        (OFlags::CLOEXEC, "cloexec"),
        (OFlags::DIRECT, "direct"),
        (OFlags::TMPFILE, "tmpfile"),
        (OFlags::DIRECTORY, "directory"),
        (OFlags::SYNC, "sync"),
        (DSYNC, "dsync"),
        (OFlags::NOATIME, "noatime"),
        (OFlags::NOFOLLOW, "nofollow"),
        (OFlags::NONBLOCK, "nonblock"),
    ];
    names.clear();
    let mut rest = OFlags::from_bits_retain(flags) & !(OFlags::RWMODE | OFlags::PATH | LARGEFILE);
    if rest.is_empty() {
        return;
    }
    for (flag, name) in NAMES {
        if rest.contains(flag) {
            rest &= !flag;
            names.push(Cow::Borrowed(name));
        }
    }
    for bit in 0..u32::BITS {
        if rest.bits() & (1 << bit) != 0 {
            names.push(Cow::Owned(format!("0{:o}", 1_u32 << bit)));
        }
    }
    names.sort_unstable();
}

/// `include/uapi/asm-generic/fcntl.h`; rustix gives this name the value of `O_SYNC`.
const DSYNC: OFlags = OFlags::from_bits_retain(0o10_000);

/// The kernel's value; the C library of a 64-bit system defines 0 (`include/uapi/asm-generic/fcntl.h`,
/// `arch/arm64/include/uapi/asm/fcntl.h`).
#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
const LARGEFILE: OFlags = OFlags::from_bits_retain(0o100_000);
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const LARGEFILE: OFlags = OFlags::from_bits_retain(0o400_000);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(fdinfo: &[u8]) -> (FdInfo, String) {
        let mut detail = b"old".to_vec();
        let info = parse_fdinfo(fdinfo, &mut detail).unwrap();
        (info, String::from_utf8(detail).unwrap())
    }

    fn names(flags: u32) -> String {
        let mut names = vec!["old".into()];
        flag_names(flags, &mut names);
        names.join(" ")
    }

    #[test]
    fn a_regular_file_has_an_offset_flags_and_its_locks() {
        let (info, detail) = parse(
            b"pos:\t4096\nflags:\t0102001\nmnt_id:\t24\nino:\t7\nlock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 \
            EOF\n",
        );
        assert_eq!(info, FdInfo { offset: 4096, flags: 0o102_001, inode: Some(7) });
        assert_eq!(detail, "lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF");
    }

    #[test]
    fn lines_of_the_kind_are_kept_unless_they_change_by_themselves() {
        let head = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t9\n";
        let of = |lines: &str| parse(format!("{head}{lines}").as_bytes()).1;
        assert_eq!(
            of("eventfd-count:                5\neventfd-id: 1\n"),
            "eventfd-count:                5\neventfd-id: 1"
        );
        assert_eq!(
            of("clockid: 0\nticks: 0\nsettime flags: 01\nit_value: (0, 49406829)\nit_interval: (1, 0)\n"),
            "clockid: 0\nticks: 0\nsettime flags: 01\nit_interval: (1, 0)"
        );
        assert_eq!(
            of("tfd:        5 events:       1d data: ffffffffffffffff pos:0 ino:61af sdev:7\n"),
            "tfd:        5 events:       1d data: ffffffffffffffff pos:0 ino:61af sdev:7"
        );
        assert_eq!(
            of("inotify wd:3 ino:9e7e sdev:800013 mask:800afce\n"),
            "inotify wd:3 ino:9e7e sdev:800013 mask:800afce"
        );
        assert_eq!(of("Pid:\t42\nNSpid:\t42\n"), "Pid:\t42\nNSpid:\t42");
        assert_eq!(of("prog_type:\t2\nprog_id:\t7\nrun_time_ns:\t99\nrun_cnt:\t3\n"), "prog_type:\t2\nprog_id:\t7");
        assert_eq!(
            of("SqMask:\t0x3\nSqHead:\t8\nSQEs:\t1\n    0: opcode:READ\nUserFiles:\t0\n"),
            "SqMask:\t0x3\nUserFiles:\t0"
        );
    }

    #[test]
    fn an_overlong_detail_is_cut_at_a_line_and_marked() {
        let lines = "tfd: 5 events: 19\n".repeat(10_000);
        let (_, detail) = parse(format!("pos:\t0\nflags:\t02\n{lines}").as_bytes());
        assert!(detail.ends_with("tfd: 5 events: 19\n…") && detail.len() <= DETAIL_BYTES_MAX + 4, "{}", detail.len());
    }

    #[test]
    fn flags_have_the_names_of_the_manual_page() {
        assert_eq!(
            (access(0), access(1), access(2), access(3)),
            (Access::Read, Access::Write, Access::ReadWrite, Access::Unknown)
        );
        assert_eq!(access(OFlags::PATH.bits()), Access::Path);
        assert_eq!(names(0), "");
        assert_eq!(names(LARGEFILE.bits()), "");
        assert_eq!(
            names((OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::WRONLY).bits()),
            "append cloexec nonblock"
        );
        assert_eq!(names(OFlags::SYNC.bits()), "sync");
        assert_eq!(names(DSYNC.bits()), "dsync");
        assert_eq!(names(OFlags::TMPFILE.bits()), "tmpfile");
        assert_eq!(names(0o100_000_000), "0100000000");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), flags: u32) {
            let mut detail = Vec::new();
            let _ = parse_fdinfo(&bytes, &mut detail);
            let _ = (access(flags), names(flags));
        }
    }
}
