//! Reads below an open folder of `/proc`, into existing buffers.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, fstatfs, makedev, openat, readlinkat_raw, statx};
use rustix::io::{Errno, read, retry_on_intr};

use super::number::decimal;
use crate::common::calls;

/// Facts about a file from its magic link, without opening the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Inode {
    pub(super) dev: u64,
    pub(super) inode: u64,
    /// Type and permissions (`st_mode`).
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) rdev: u64,
    /// Nanoseconds since the epoch.
    pub(super) mtime_ns: i64,
    /// Nanoseconds since the epoch.
    pub(super) ctime_ns: i64,
}

/// Opens the folder `name` with `O_PATH`, which is enough for paths relative to the folder.
pub(super) fn open_place(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    calls::opened(openat(dir, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
}

/// Opens the folder `name` for listing.
pub(super) fn open_folder(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    calls::opened(openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
}

/// Reads the file `name` into `buf` and returns the content.
///
/// One read(2): the kernel returns a whole file of `/proc/PID` if the buffer has room, so a second call that returns 0
/// would only cost time. A filled buffer means that the file may be longer.
pub(super) fn read_file<'b>(dir: BorrowedFd<'_>, name: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let file = open_file(dir, name)?;
    let len = read_more(&file, &mut *buf)?;
    Ok(&buf[..len])
}

/// Opens the file `name` for reading.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    calls::opened(retry_on_intr(|| openat(dir, name, OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())))
}

/// Reads once with read(2).
pub(super) fn read_more(file: &OwnedFd, buf: &mut [u8]) -> Result<usize, Errno> {
    calls::read(retry_on_intr(|| read(file, &mut *buf)))
}

/// Reads the text of the link `name` into `buf`. The kernel refuses a path beyond one page with `ENAMETOOLONG`.
pub(super) fn read_link<'b>(dir: BorrowedFd<'_>, name: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let len = calls::read(readlinkat_raw(dir, name, &mut *buf))?;
    Ok(&buf[..len])
}

/// Facts of the file behind `name`, links followed, from the kernel's cache: a stat(2) of a file on a dead network or
/// FUSE file system does not return, `AT_STATX_DONT_SYNC` does.
pub(super) fn inode(dir: BorrowedFd<'_>, name: &CStr) -> Result<Inode, Errno> {
    calls::one();
    Ok(from_statx(&statx(dir, name, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?))
}

/// Facts of an open file.
pub(super) fn inode_of(file: BorrowedFd<'_>) -> Result<Inode, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    calls::one();
    Ok(from_statx(&statx(file, c"", flags, StatxFlags::BASIC_STATS)?))
}

/// Type of the file system (`f_type` of statfs(2)) with the file behind `name`, links followed. The file is not opened.
pub(super) fn file_system_type(dir: BorrowedFd<'_>, name: &CStr) -> Result<u64, Errno> {
    let file = calls::opened(openat(dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))?;
    calls::one();
    Ok(fstatfs(&file)?.f_type as u64)
}

fn from_statx(found: &Statx) -> Inode {
    let ns = |time: rustix::fs::StatxTimestamp| {
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
    };
    Inode {
        dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        mode: u32::from(found.stx_mode),
        nlink: found.stx_nlink,
        size: found.stx_size,
        rdev: makedev(found.stx_rdev_major, found.stx_rdev_minor),
        mtime_ns: ns(found.stx_mtime),
        ctime_ns: ns(found.stx_ctime),
    }
}

/// Calls `visit` for each entry of an open folder whose name is a number, from the position of `dir` on.
pub(super) fn each_number(
    dir: impl AsFd,
    buf: &mut [MaybeUninit<u8>],
    mut visit: impl FnMut(u32),
) -> Result<(), Errno> {
    calls::each_name(dir, buf, |name| {
        if let Some(number) = decimal(name.to_bytes()).and_then(|number| u32::try_from(number).ok()) {
            visit(number);
        }
    })
}

/// The devices of the kernel's internal file systems, determined once from a new file on each. A descriptor on such a
/// device has no path, regardless of its link, so the link need not be read; and no file elsewhere can imitate an
/// internal file by its name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PseudoDevices {
    pub(super) sockets: Option<u64>,
    pub(super) pipes: Option<u64>,
    pub(super) memfds: Option<u64>,
}

impl PseudoDevices {
    pub(super) fn find() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let device = |file: Result<OwnedFd, Errno>| {
            let found = rustix::fs::fstat(file.ok()?).ok()?;
            Some(found.st_dev)
        };
        Self {
            sockets: device(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)),
            pipes: device(
                std::io::pipe()
                    .map(|(read, _)| OwnedFd::from(read))
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            ),
            memfds: device(rustix::fs::memfd_create(c"", rustix::fs::MemfdFlags::CLOEXEC)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_file_systems_are_known_and_distinct() {
        let found = PseudoDevices::find();
        let devices = [found.sockets.unwrap(), found.pipes.unwrap(), found.memfds.unwrap()];
        assert!(devices[0] != devices[1] && devices[1] != devices[2] && devices[0] != devices[2]);
    }
}
