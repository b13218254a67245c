//! Reading below a proc tree, whole and bounded, without waiting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::calls;

/// Maximum number of bytes read per file; 16 MiB are some 100,000 sockets of one protocol.
const FILE_BYTES_MAX: usize = 16 << 20;

/// Opens a directory for relative reads.
pub(crate) fn open_dir(parent: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    calls::opened(rustix::fs::openat(parent, path, flags, Mode::empty()))
}

/// Reads a file over `text`; true when the file is longer than the limit: then `text` is cut after a whole line.
pub(crate) fn read(dir: impl AsFd, path: &str, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    // In a tree that is not the kernel's, a file may be a pipe, which must not block the reader.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = calls::opened(rustix::fs::openat(dir, path, flags, Mode::empty()))?;
    loop {
        if text.len() >= FILE_BYTES_MAX {
            let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            text.truncate(end);
            return Ok(true);
        }
        text.reserve(64 << 10);
        match calls::read(rustix::io::read(&file, rustix::buffer::spare_capacity(text))) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Calls `visit` with each name in an open directory.
pub(crate) fn each_name(dir: impl AsFd, visit: impl FnMut(&std::ffi::CStr)) -> rustix::io::Result<()> {
    calls::each_name(dir, &mut vec![std::mem::MaybeUninit::uninit(); 32 << 10], visit)
}

/// The inode of a namespace from a link like `net:[4026531840]` in `/proc/PID/ns`.
pub(crate) fn namespace(dir: impl AsFd, path: &str) -> rustix::io::Result<u64> {
    let mut target = [0; 64];
    let length = calls::read(rustix::fs::readlinkat_raw(dir, path, &mut target))?;
    target.get(..length).and_then(namespace_inode).ok_or(Errno::INVAL)
}

fn namespace_inode(target: &[u8]) -> Option<u64> {
    let (_, digits) = std::str::from_utf8(target).ok()?.strip_suffix(']')?.split_once(":[")?;
    if digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// True for the proc tree of the running system: other trees have no netlink.
pub(crate) fn is_own_proc(proc_root: &Path) -> bool {
    proc_root.canonicalize().is_ok_and(|path| path == Path::new("/proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_link() {
        assert_eq!(namespace_inode(b"net:[4026531840]"), Some(4_026_531_840));
        for text in ["", "net:[]", "net:[-1]", "net:[+1]", "net:[1", "net:[99999999999999999999]"] {
            assert_eq!(namespace_inode(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_whole_and_a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let long = "a line\n".repeat(100_000);
        std::fs::write(dir.path().join("long"), &long).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let root = open_dir(rustix::fs::CWD, dir.path()).unwrap();
        let mut text = b"left over".to_vec();
        assert!(!read(&root, "long", &mut text).unwrap());
        assert!(text == long.as_bytes());
        assert!(!read(&root, "pipe", &mut text).unwrap());
        assert!(text.is_empty());
        assert!(read(&root, "absent", &mut text).is_err());
    }

    #[test]
    fn an_overlong_file_ends_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("huge"), "0123456789\n".repeat(FILE_BYTES_MAX / 11 + 10)).unwrap();
        let root = open_dir(rustix::fs::CWD, dir.path()).unwrap();
        let mut text = Vec::new();
        assert!(read(&root, "huge", &mut text).unwrap());
        assert_eq!((text.last(), text.len() % 11), (Some(&b'\n'), 0));
    }
}
