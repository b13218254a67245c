//! The spool's folder: names, and every system call on it. A file appears by one helper ([`Disk::publish`]), whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use edr_wire::Epoch;
use edr_wire::frame::FrameError;
use edr_wire::limits::RAW_BYTES_MAX;
use rustix::io::Errno;

use super::stored::Stored;
use super::{FrameId, SpoolError};

/// Tries to write one frame when the disk reports an I/O error. After a failed fsync the kernel calls the lost pages
/// clean, so each try is a new file.
const WRITE_TRIES: u32 = 3;
/// Damaged frames kept for inspection.
const ASIDE_MAX: usize = 16;
/// A frame file larger than this was not written by an agent: the largest snapshot, incompressible, with its headers.
const FILE_BYTES_MAX: u64 = 2 * RAW_BYTES_MAX as u64;
/// Folder of damaged frames, beside the epochs.
const ASIDE: &str = "set-aside";

/// Why a frame's file gives no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFault {
    #[error("its file vanished")]
    Vanished,
    #[error("read: {0}")]
    Unreadable(io::Error),
    #[error("{0}")]
    Corrupt(#[from] FrameError),
    #[error("it says it is {0}")]
    OtherFrame(FrameId),
}

impl ReadFault {
    /// The reason in `lost`.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Vanished => "vanished",
            Self::Unreadable(_) => "unreadable",
            Self::Corrupt(_) | Self::OtherFrame(_) => "corrupt",
        }
    }
}

/// What lies in the folder, by name and size.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) epochs: BTreeMap<Epoch, BTreeMap<u64, u64>>,
    /// Temporary files of an earlier run.
    pub(super) leftovers: Vec<PathBuf>,
    /// What no agent made.
    pub(super) foreign: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Makes each temporary name new.
    tries: AtomicU64,
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, tries: AtomicU64::new(0) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder if it is not there, and takes rights away from group and others if they have any: frames tell
    /// all about a host.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if fs::symlink_metadata(&self.root).is_err() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
            if let Some(parent) = self.root.parent() {
                sync_dir(parent)?;
            }
        }
        let metadata = fs::symlink_metadata(&self.root)?;
        if !metadata.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
            log::warn!("spool {} had mode {mode:03o}; it is 700 now", self.root.display());
        }
        Ok(())
    }

    /// Names and sizes of all frames.
    pub(super) fn names(&self) -> io::Result<Names> {
        let mut names = Names::default();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let epoch = name.to_str().and_then(|name| name.parse::<Epoch>().ok());
            match epoch {
                Some(epoch) if entry.file_type()?.is_dir() => self.frames_of(epoch, &mut names)?,
                _ if name == ASIDE => {}
                _ if is_temporary(&entry.path()) => names.leftovers.push(entry.path()),
                _ => names.foreign.push(entry.path()),
            }
        }
        Ok(names)
    }

    fn frames_of(&self, epoch: Epoch, names: &mut Names) -> io::Result<()> {
        let mut frames = BTreeMap::new();
        for entry in fs::read_dir(self.folder(epoch))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match entry.file_name().to_str().and_then(parse_name) {
                Some(seq) if metadata.is_file() => drop(frames.insert(seq, metadata.len())),
                _ if is_temporary(&entry.path()) => names.leftovers.push(entry.path()),
                _ => names.foreign.push(entry.path()),
            }
        }
        names.epochs.insert(epoch, frames);
        Ok(())
    }

    /// Writes a frame so that it survives: temporary file, fsync, rename, fsync of the folder.
    pub(super) fn publish(&self, id: FrameId, records: &[Vec<u8>]) -> Result<(), SpoolError> {
        let mut failed = 0;
        loop {
            match self.publish_once(id, records) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // Whatever of it is there must not be taken for an accepted frame.
                    self.unlink(&self.path(id));
                    failed += 1;
                    let SpoolError::Unusable { source, .. } = &error else { return Err(error) };
                    if Errno::from_io_error(source) != Some(Errno::IO) || failed >= WRITE_TRIES {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn publish_once(&self, id: FrameId, records: &[Vec<u8>]) -> Result<(), SpoolError> {
        let folder = self.folder(id.epoch);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_dir(&self.root).map_err(unusable("fsync spool folder", &self.root))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unusable("create spool folder", &folder)(error)),
        }
        let path = self.path(id);
        let temporary = self.temporary(&folder);
        let written = write_whole(&temporary, records);
        let published = written.and_then(|()| fs::rename(&temporary, &path)).and_then(|()| sync_dir(&folder));
        if published.is_err() {
            self.unlink(&temporary);
        }
        published.map_err(unusable("write spool frame", &path))
    }

    /// Whether the folder takes a file of `bytes`. Makes the folder again when somebody removed it.
    pub(super) fn probe(&self, bytes: usize) -> bool {
        let temporary = self.temporary(&self.root);
        let probed = self.prepare().and_then(|()| write_whole(&temporary, &[vec![0; bytes]]));
        self.unlink(&temporary);
        probed.is_ok()
    }

    pub(super) fn read(&self, id: FrameId) -> Result<Stored, ReadFault> {
        let stored = Stored::parse(read_bounded(&self.path(id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadFault::Vanished,
            _ => ReadFault::Unreadable(error),
        })?)?;
        let says = FrameId { epoch: stored.header.epoch, seq: stored.header.seq };
        if says == id { Ok(stored) } else { Err(ReadFault::OtherFrame(says)) }
    }

    /// When the frame's file got its name (`st_ctime`), ns since the epoch.
    pub(super) fn changed_ns(&self, id: FrameId) -> Option<i64> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::symlink_metadata(self.path(id)).ok()?;
        metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())
    }

    /// Removes a frame's file, and its folder when that was the last one in it. A file that stays by an error is sent
    /// once more after the next start.
    pub(super) fn remove(&self, id: FrameId) {
        self.unlink(&self.path(id));
        self.remove_empty_folder(id.epoch);
    }

    /// Removes the folder of an epoch without frames; one that still has some refuses.
    pub(super) fn remove_empty_folder(&self, epoch: Epoch) {
        // ENOTEMPTY is the normal answer.
        let _ = fs::remove_dir(self.folder(epoch));
    }

    /// Moves a damaged frame to where it is not sent, and keeps the newest few of them.
    pub(super) fn set_aside(&self, id: FrameId) {
        let aside = self.root.join(ASIDE);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&aside);
        let to = aside.join(format!("{}.{}", id.epoch, file_name(id.seq)));
        match made.and_then(|()| fs::rename(self.path(id), &to)) {
            Ok(()) => log::warn!("damaged spool frame {id} is kept as {}", to.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => edr_daemon::limited!(log::Level::Warn, "set damaged spool frame {id} aside: {error}"),
        }
        let Ok(entries) = fs::read_dir(&aside) else { return };
        let dated = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        };
        let mut kept: Vec<_> = entries.filter_map(dated).collect();
        kept.sort();
        kept.iter().rev().skip(ASIDE_MAX).for_each(|(_, path)| self.unlink(path));
    }

    /// Bytes that this process may still write to the file system.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    pub(super) fn unlink(&self, path: &Path) {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => edr_daemon::limited!(log::Level::Warn, "remove {}: {error}", path.display()),
        }
    }

    pub(super) fn path(&self, id: FrameId) -> PathBuf {
        self.folder(id.epoch).join(file_name(id.seq))
    }

    fn folder(&self, epoch: Epoch) -> PathBuf {
        self.root.join(epoch.to_string())
    }

    fn temporary(&self, folder: &Path) -> PathBuf {
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        folder.join(format!(".{}-{number}.tmp", std::process::id()))
    }
}

fn write_whole(path: &Path, records: &[Vec<u8>]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // write_all goes on after a short write, and fails when there is no room for the rest.
    records.iter().try_for_each(|record| file.write_all(record))?;
    file.sync_all()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nofollow).open(path)?;
    let size = file.metadata()?.len();
    if size > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes, {FILE_BYTES_MAX} are allowed")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn unusable(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Unusable { operation, path, source }
}

/// Errors of a disk that may become usable again by itself; others need a person before a start.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::MFILE | Errno::NFILE | Errno::STALE)
    )
}

/// `00000000000000000042.frame`.
fn file_name(seq: u64) -> String {
    format!("{seq:020}.frame")
}

/// The seq behind a name that [`file_name`] makes, and no other.
fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".frame")?;
    let seq = digits.parse().ok()?;
    (seq > 0 && file_name(seq) == name).then_some(seq)
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}
