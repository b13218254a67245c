//! Descriptors of one process (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use edr_wire::Bytes;
use edr_wire::snapshot::{Access, Fd, FileKind, OpenFile};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::fdinfo::{DETAIL_BYTES_MAX, FdInfo, access, flag_names, parse_fdinfo};
use super::file::{
    Inode, PseudoDevices, each_number, file_system_type, inode, open_folder, open_place, read_file, read_link,
};
use super::link::{anon_inode_name, memfd_name, path_of};
use super::missed::MissedFacts;
use super::number::Name;
use super::step::Step;
use crate::common::hung::JobProgress;

/// Reads descriptors into rows with reused memory.
///
/// Four system calls for a socket or pipe (statx of the link; open, read, close of fdinfo) and one more for a file with
/// a path (readlink): the access mode is in fdinfo, so the link's own permissions are not needed. For 32,900
/// descriptors of 490 processes that is 380 ms with the rest of their rows; the crate `procfs` takes 460 ms for less
/// (no fdinfo, no facts of the file behind the link), with several allocations for each.
#[derive(Debug)]
pub(super) struct FileReader {
    devices: PseudoDevices,
    folder: Vec<MaybeUninit<u8>>,
    link: Vec<u8>,
    fdinfo: Vec<u8>,
    detail: Vec<u8>,
    numbers: Vec<u32>,
    spare: Vec<OpenFile>,
}

/// Limits on the lists of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ListLimits {
    /// Descriptors.
    pub(super) files: usize,
    /// Bytes of their rows, about: 4,096 paths of 4 KiB would be two thirds of a snapshot.
    pub(super) bytes: usize,
}

/// Result of listing the descriptors of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ListedFiles {
    /// All descriptors.
    pub(super) total: u64,
    /// Descriptors that a limit on bytes left out.
    pub(super) unread: u64,
    /// Descriptors that were read, and the bytes of their rows, about.
    pub(super) read: u64,
    pub(super) bytes: u64,
    /// The limit on the number of descriptors left some out.
    pub(super) is_limited: bool,
}

impl ListedFiles {
    /// Estimated bytes of the rows of the descriptors that were not read.
    pub(super) fn unread_bytes(&self) -> usize {
        let each = self.bytes.checked_div(self.read).unwrap_or(0).max(FILE_ROW_BYTES as u64);
        usize::try_from(self.unread.saturating_mul(each)).unwrap_or(usize::MAX)
    }
}

/// Maximum number of rows with kept memory.
const SPARE_MAX: usize = 4_096;
/// Estimated bytes of a row beside its path and detail: field names, numbers.
pub(super) const FILE_ROW_BYTES: usize = 110;

/// A file held without a descriptor number, already read by the caller.
#[derive(Debug)]
pub(super) struct ProcessLink<'a> {
    pub(super) fd: Fd,
    pub(super) link: &'a [u8],
    pub(super) inode: Inode,
}

impl FileReader {
    pub(super) fn new(devices: PseudoDevices) -> Self {
        Self {
            devices,
            folder: vec![MaybeUninit::uninit(); 32 << 10],
            link: vec![0; 4 << 10],
            fdinfo: vec![0; 2 * DETAIL_BYTES_MAX],
            detail: Vec::new(),
            numbers: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Keeps the memory of encoded rows.
    pub(super) fn recycle(&mut self, files: &mut Vec<OpenFile>) {
        self.spare.append(files);
        self.spare.truncate(SPARE_MAX);
    }

    /// Adds a file without a number.
    pub(super) fn push_held(&mut self, held: &ProcessLink<'_>, files: &mut Vec<OpenFile>) {
        let mut file = self.spare.pop().unwrap_or_default();
        file.fd = held.fd;
        file.access = if held.fd == Fd::Exe { Access::Read } else { Access::Path };
        file.flags.clear();
        file.offset = 0;
        file.detail.0.clear();
        describe(&mut file, &held.inode, Some(held.link), self.devices);
        files.push(file);
    }

    /// Adds the descriptors in `place/fd`, by number, up to the limits. `None` when the folder cannot be read.
    pub(super) fn read(
        &mut self,
        place: BorrowedFd<'_>,
        limits: ListLimits,
        files: &mut Vec<OpenFile>,
        missed: &mut MissedFacts,
        progress: &JobProgress,
    ) -> Option<ListedFiles> {
        progress.at(Step::Files);
        let total = match self.list(place, limits.files, progress) {
            Ok(total) => total,
            Err(errno) => {
                missed.add("files", errno);
                return None;
            }
        };
        let is_limited = total > self.numbers.len() as u64;
        let mut listed = ListedFiles { total, is_limited, ..ListedFiles::default() };
        if self.numbers.is_empty() {
            return Some(listed);
        }
        if limits.bytes < FILE_ROW_BYTES {
            listed.unread = self.numbers.len() as u64;
            return Some(listed);
        }
        let folders = open_place(place, c"fd").and_then(|fd| Ok((fd, open_place(place, c"fdinfo")?)));
        let (links, infos) = match folders {
            Ok(folders) => folders,
            Err(errno) => {
                missed.add("files", errno);
                return Some(listed);
            }
        };
        for index in 0..self.numbers.len() {
            let number = self.numbers[index];
            progress.beat();
            let mut file = self.spare.pop().unwrap_or_default();
            file.fd = Fd::Number(number);
            match self.read_one(links.as_fd(), infos.as_fd(), Name::of(number).as_c_str(), &mut file, missed) {
                Ok(()) => {
                    listed.bytes += (FILE_ROW_BYTES + file.path.0.len() + file.detail.0.len()) as u64;
                    listed.read += 1;
                    if listed.bytes > limits.bytes as u64 {
                        self.spare.push(file);
                        listed.unread = (self.numbers.len() - index) as u64;
                        return Some(listed);
                    }
                    files.push(file);
                }
                Err(errno) => {
                    self.spare.push(file);
                    // Closed since the listing: normal. Refused: then all are refused.
                    if errno != Errno::NOENT {
                        missed.add("files", errno);
                        if matches!(errno, Errno::ACCESS | Errno::PERM | Errno::SRCH) {
                            break;
                        }
                    }
                }
            }
        }
        Some(listed)
    }

    /// Fills `numbers` with the lowest descriptors and returns how many there are.
    fn list(&mut self, place: BorrowedFd<'_>, max: usize, progress: &JobProgress) -> Result<u64, Errno> {
        let folder = open_folder(place, c"fd")?;
        let numbers = &mut self.numbers;
        let (mut total, mut highest) = (0_u64, 0);
        numbers.clear();
        each_number(&folder, &mut self.folder, |number| {
            total += 1;
            if numbers.len() < max {
                numbers.push(number);
                highest = highest.max(number);
            } else if number < highest {
                // Never with the kernel, which lists numbers in order.
                highest = replace_highest(numbers, number);
            }
            if total % 1024 == 0 {
                progress.beat();
            }
        })?;
        if !numbers.is_sorted() {
            numbers.sort_unstable();
        }
        Ok(total)
    }

    fn read_one(
        &mut self,
        links: BorrowedFd<'_>,
        infos: BorrowedFd<'_>,
        name: &CStr,
        file: &mut OpenFile,
        missed: &mut MissedFacts,
    ) -> Result<(), Errno> {
        // A descriptor may be closed and opened again between the reads; fdinfo contains the inode since Linux 5.14. On
        // overlayfs the two inodes always differ, so a second read with the same result decides.
        let mut found = inode(links, name)?;
        for _ in 0..3 {
            let info = self.read_info(infos, name, missed);
            let path = if Some(found.dev) == self.devices.sockets || Some(found.dev) == self.devices.pipes {
                None
            } else {
                match read_link(links, name, &mut self.link) {
                    Ok(link) => Some(link),
                    Err(Errno::NAMETOOLONG) => {
                        missed.add("path", Errno::NAMETOOLONG);
                        Some(&b""[..])
                    }
                    Err(errno) => return Err(errno),
                }
            };
            let is_secret = path.is_some_and(|link| is_secret_memory(links, name, &found, link));
            describe(file, &found, path, self.devices);
            if is_secret {
                file.kind = FileKind::Memfd;
                file.path = reuse(std::mem::take(&mut file.path), SECRET_MEMORY);
            }
            let (offset, flags) = info.map_or((0, None), |info| (info.offset, Some(info.flags)));
            file.offset = offset;
            file.access = flags.map_or(Access::Unknown, access);
            flag_names(flags.unwrap_or(0), &mut file.flags);
            file.detail.0.clear();
            if matches!(file.kind, FileKind::AnonInode | FileKind::Regular) {
                file.detail.0.extend_from_slice(&self.detail);
            }
            if info.is_none_or(|info| info.inode.is_none_or(|inode| inode == found.inode)) {
                return Ok(());
            }
            let again = inode(links, name)?;
            if (again.dev, again.inode) == (found.dev, found.inode) {
                return Ok(());
            }
            found = again;
        }
        Ok(())
    }

    fn read_info(&mut self, infos: BorrowedFd<'_>, name: &CStr, missed: &mut MissedFacts) -> Option<FdInfo> {
        self.detail.clear();
        let text = match read_file(infos, name, &mut self.fdinfo) {
            Ok(text) => text,
            Err(errno) => {
                missed.add("fdinfo", errno);
                return None;
            }
        };
        match parse_fdinfo(text, &mut self.detail) {
            Ok(info) => Some(info),
            Err(malformed) => {
                missed.malformed("fdinfo", malformed);
                None
            }
        }
    }
}

/// Replaces the highest number by `number` and returns the new highest.
fn replace_highest(numbers: &mut [u32], number: u32) -> u32 {
    if let Some(highest) = numbers.iter_mut().max() {
        *highest = number;
    }
    numbers.iter().max().copied().unwrap_or(0)
}

/// Fills in the facts from statx and the link. `link` is `None` for a descriptor without a path.
fn describe(file: &mut OpenFile, found: &Inode, link: Option<&[u8]>, devices: PseudoDevices) {
    let link = link.unwrap_or_default();
    let mut path = path_of(link, found.nlink);
    file.kind = match FileType::from_raw_mode(found.mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::CharacterDevice => FileKind::Char,
        FileType::BlockDevice => FileKind::Block,
        FileType::Fifo => FileKind::Pipe,
        FileType::Socket => FileKind::Socket,
        FileType::Symlink => FileKind::Symlink,
        FileType::Unknown => FileKind::Unknown,
    };
    if let Some(name) = anon_inode_name(link) {
        file.kind = FileKind::AnonInode;
        path = name;
    } else if let Some(name) = memfd_name(link).filter(|_| is_memfd(found, devices)) {
        file.kind = FileKind::Memfd;
        path = name;
    } else if matches!(file.kind, FileKind::Socket | FileKind::Pipe) && !link.starts_with(b"/") {
        path = b""; // `socket:[12345]`: its inode
    }
    file.path = reuse(std::mem::take(&mut file.path), path);
    file.deleted = found.nlink == 0;
    file.nlink = found.nlink;
    file.dev = found.dev;
    file.rdev = if matches!(file.kind, FileKind::Char | FileKind::Block) { found.rdev } else { 0 };
    file.inode = found.inode;
    file.size = found.size;
}

/// A file without a name on the file system where memfds lie.
pub(super) fn is_memfd(found: &Inode, devices: PseudoDevices) -> bool {
    found.nlink == 0 && devices.memfds.is_none_or(|device| device == found.dev)
}

/// The name of the memory of memfd_secret(2), which has no name of its own.
const SECRET_MEMORY: &[u8] = b"secretmem";

/// True for the memory of memfd_secret(2). The link's text can be imitated, the type of the file system cannot.
fn is_secret_memory(links: BorrowedFd<'_>, name: &CStr, found: &Inode, link: &[u8]) -> bool {
    /// `SECRETMEM_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
    const MAGIC: u64 = 0x5345_434d;
    // A file without a name has the link count 0 on every other file system.
    found.nlink > 0
        && link == b"/secretmem (deleted)"
        && file_system_type(links, name).is_ok_and(|magic| magic == MAGIC)
}

fn reuse(mut old: Bytes, with: &[u8]) -> Bytes {
    old.0.clear();
    old.0.extend_from_slice(with);
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_lowest_numbers_are_kept(
            numbers in proptest::collection::hash_set(0_u32..1_000, 0..50),
            max in 1_usize..20,
        ) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("fd")).unwrap();
            for number in &numbers {
                std::fs::write(folder.path().join("fd").join(number.to_string()), "").unwrap();
            }
            let place = std::fs::File::open(folder.path()).unwrap();
            let mut reader = FileReader::new(PseudoDevices::default());
            prop_assert_eq!(reader.list(place.as_fd(), max, &JobProgress::default()), Ok(numbers.len() as u64));
            let mut expected: Vec<u32> = numbers.into_iter().collect();
            expected.sort_unstable();
            expected.truncate(max);
            prop_assert_eq!(&reader.numbers, &expected);
        }
    }
}
