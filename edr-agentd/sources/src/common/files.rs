//! Regular files of other programs: opened without waiting, recognized by a stamp.
//!
//! Links are not followed, and only regular files are read: a FIFO would block, and a device may act when opened.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use edr_wire::snapshot::GapReason;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};

use super::errno;

/// Largest state file: with every limit of psad lifted, 50,000 attackers need 2 MB.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;

/// Time in which a changed file may be incomplete, and may change again without a new size or timestamp. From
/// truncation to the last write psad needed up to 40 ms for 35 KB.
pub(crate) const SETTLE_NS: i64 = 200_000_000;

const FILE_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The stamp of a file, which changes when the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    pub(crate) dev: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
}

impl FileStamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let ns = |seconds: i64, ns: u64| seconds.saturating_mul(1_000_000_000).saturating_add(ns as i64);
        Self {
            dev: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// True when the last change of the file or folder was long enough ago that a further change would change the
    /// stamp.
    pub(crate) fn is_settled(&self, now_ns: i64) -> bool {
        !(0..SETTLE_NS).contains(&now_ns.saturating_sub(self.mtime_ns))
    }
}

/// The reason why a file was not read.
#[derive(Debug)]
pub(crate) enum FileRefusal {
    Io(io::Error),
    /// The object exists, but was not made by psad.
    Foreign(&'static str),
    /// The file is too large; holds the size in bytes.
    TooLong(u64),
}

impl FileRefusal {
    pub(crate) fn reason(&self) -> GapReason {
        match self {
            Self::Io(error) => errno::reason(error),
            Self::Foreign(_) => GapReason::Malformed,
            Self::TooLong(_) => GapReason::TooLong,
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Io(error) => error.to_string(),
            Self::Foreign(what) => (*what).to_owned(),
            Self::TooLong(bytes) => format!("{bytes} bytes, {FILE_BYTES_MAX} are read at most"),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Io(error) if errno::reason(error) == GapReason::Gone)
    }
}

impl From<rustix::io::Errno> for FileRefusal {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::LOOP => Self::Foreign("a symbolic link"),
            rustix::io::Errno::NOTDIR => Self::Foreign("not a folder"),
            rustix::io::Errno::NXIO => Self::Foreign("a socket or a FIFO"),
            errno => Self::Io(errno.into()),
        }
    }
}

/// Opens `name` below `folder`, which must be a regular file. With `owner`, the file must also have a single name and
/// belong to root or to `owner`.
pub(crate) fn open_regular(
    folder: impl AsFd,
    name: impl rustix::path::Arg,
    owner: Option<u32>,
) -> Result<(OwnedFd, FileStamp), FileRefusal> {
    let fd = openat(folder, name, FILE_FLAGS, Mode::empty())?;
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileRefusal::Foreign("not a regular file"));
    }
    if let Some(owner) = owner {
        if stat.st_nlink > 1 {
            return Err(FileRefusal::Foreign("a file with several names (hard links)"));
        }
        if stat.st_uid != 0 && stat.st_uid != owner {
            return Err(FileRefusal::Foreign("a file of another user"));
        }
    }
    Ok((fd, FileStamp::of(&stat)))
}

/// Opens the regular file at `path` from the configuration; a link as the last part of the path is refused.
pub(crate) fn open_log(path: &Path) -> Result<(OwnedFd, FileStamp), FileRefusal> {
    open_regular(rustix::fs::CWD, path, None)
}

/// The stamp of an open file.
pub(crate) fn stamp_of_file(fd: &OwnedFd) -> Result<FileStamp, FileRefusal> {
    Ok(FileStamp::of(&fstat(fd)?))
}

/// The stamp of the file at `path`; links are followed.
pub(crate) fn stamp_of_path(path: &Path) -> Option<FileStamp> {
    rustix::fs::stat(path).ok().map(|stat| FileStamp::of(&stat))
}

/// Reads a configuration file at `path`; links are followed, because they were made by the administrator.
pub(crate) fn read_config(path: &Path) -> Result<Vec<u8>, FileRefusal> {
    let fd = openat(rustix::fs::CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileRefusal::Foreign("not a regular file"));
    }
    read_all(&fd, u64::try_from(stat.st_size).unwrap_or(0), 1 << 20)
}

/// Reads to the end of the file, also when the file grows during the read.
pub(crate) fn read_all(fd: &OwnedFd, size: u64, bytes_max: u64) -> Result<Vec<u8>, FileRefusal> {
    if size > bytes_max {
        return Err(FileRefusal::TooLong(size));
    }
    // A byte more than the size, so that a short read indicates the end of the file.
    let mut text = Vec::with_capacity(size as usize + 1);
    loop {
        if text.len() == text.capacity() {
            text.reserve(8 << 10);
        }
        match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => return Ok(text),
            Ok(_) if text.len() < text.capacity() => return Ok(text),
            Ok(_) if text.len() as u64 > bytes_max => return Err(FileRefusal::TooLong(text.len() as u64)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
