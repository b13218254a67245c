//! Opens psad's files, and no other files.
//!
//! A folder is opened once, and all files inside are opened through the folder's descriptor, by names without a slash.
//! Only regular files are read: a hard link could refer to a file from elsewhere, so files must have one name and
//! belong to root or to the owner of psad's folder.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, statat};

use crate::common::files::{FILE_BYTES_MAX, FileRefusal, FileStamp, open_regular, read_all};

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    owner: u32,
}

const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens the folder at `path` from the configuration. A link there was made by the administrator and is followed.
    pub(crate) fn open(path: &Path) -> Result<Self, FileRefusal> {
        let fd = openat(rustix::fs::CWD, path, FOLDER_FLAGS, Mode::empty())?;
        let owner = fstat(&fd)?.st_uid;
        Ok(Self { fd, owner })
    }

    /// Opens a subfolder.
    pub(crate) fn sub(&self, name: &[u8]) -> Result<Self, FileRefusal> {
        let fd = openat(&self.fd, name, FOLDER_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self { fd, owner: self.owner })
    }

    /// The folder's stamp: distinguishes folders at the same path, and changes when a name is added or removed.
    pub(crate) fn stamp(&self) -> Result<FileStamp, FileRefusal> {
        Ok(FileStamp::of(&fstat(&self.fd)?))
    }

    /// The stamp of a regular file, without opening the file.
    pub(crate) fn stamp_of(&self, name: &[u8]) -> Result<FileStamp, FileRefusal> {
        let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(FileStamp::of(&stat)),
            FileType::Symlink => Err(FileRefusal::Foreign("a symbolic link")),
            _ => Err(FileRefusal::Foreign("not a regular file")),
        }
    }

    /// Calls `see` with each name and file type, where the file system reports the type.
    pub(crate) fn names(&self, mut see: impl FnMut(&[u8], FileType)) -> Result<(), FileRefusal> {
        // A separate descriptor, because reading moves the offset, and a duplicate would share the offset.
        let fd = openat(&self.fd, ".", FOLDER_FLAGS, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut entries = RawDir::new(fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                see(name, entry.file_type());
            }
        }
        Ok(())
    }

    /// Opens a regular file of this folder.
    pub(crate) fn file(&self, name: &[u8]) -> Result<(OwnedFd, FileStamp), FileRefusal> {
        open_regular(&self.fd, name, Some(self.owner))
    }

    /// Reads a whole regular file; returns also the stamp before the read.
    pub(crate) fn read(&self, name: &[u8]) -> Result<(Vec<u8>, FileStamp), FileRefusal> {
        let (fd, stamp) = self.file(name)?;
        Ok((read_all(&fd, stamp.size, FILE_BYTES_MAX)?, stamp))
    }
}
