//! The spool's folder: file names, and every system call on the folder. [`Disk::publish`] makes each file appear whole.
//! The disk knows only files; the ledger decides about frames.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use edr_wire::Epoch;
use edr_wire::frame::FrameError;
use edr_wire::limits::RAW_BYTES_MAX;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use super::stored::StoredFrame;
use super::{FrameFile, FrameId, SpoolError};

/// Attempts to write one frame when the disk reports an I/O error. After a failed fsync the kernel marks the lost pages
/// clean, so each attempt writes a new file.
const WRITE_TRIES: u32 = 3;
/// Number of damaged frames kept for inspection. Unreadable frames are all kept.
const ASIDE_MAX: usize = 16;
/// A frame file larger than this was not written by an agent: the largest snapshot, incompressible, with its headers.
const FILE_BYTES_MAX: u64 = 2 * RAW_BYTES_MAX as u64;
/// Folder of damaged frames, beside the epochs.
const ASIDE: &str = "set-aside";

/// Reason why a frame's file gives no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFault {
    #[error("its file vanished")]
    Vanished,
    /// The frame's file may come back together with the folder.
    #[error("its folder is not there")]
    Away,
    #[error("read: {0}")]
    Unreadable(io::Error),
    #[error("{0}")]
    Corrupt(#[from] FrameError),
    #[error("the file has {0} bytes, {FILE_BYTES_MAX} are allowed")]
    TooLarge(u64),
    #[error("the header names another frame: {0}")]
    OtherFrame(FrameId),
}

/// Files in the spool's folders other than frames.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Temporary files of an earlier run.
    pub(super) leftovers: Vec<PathBuf>,
    /// Files not made by an agent.
    pub(super) foreign: Vec<PathBuf>,
}

impl Strays {
    fn add(&mut self, path: PathBuf) {
        let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
        if is_temporary { self.leftovers.push(path) } else { self.foreign.push(path) }
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Number in the name of the next temporary file, so that each name is new.
    tries: AtomicU64,
    /// Folders with a new subfolder whose name may not be on the disk yet. No frame is accepted before their fsync.
    unsynced: Mutex<Vec<PathBuf>>,
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Self {
        // An earlier run may have been killed between `mkdir` and the fsync of the parent.
        let unsynced = root.ancestors().take(2).map(Path::to_owned).collect();
        Self { root, tries: AtomicU64::new(0), unsynced: Mutex::new(unsynced) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the spool folder if necessary, and sets the mode to 700: frames contain details of the whole host.
    pub(super) fn prepare(&self) -> io::Result<()> {
        self.make_folders(&self.root)?;
        self.sync_folders().map_err(|(_, error)| error)?;
        let metadata = fs::symlink_metadata(&self.root)?;
        if !metadata.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
            log::warn!("spool {} had mode {mode:03o}; changed to 700", self.root.display());
        }
        Ok(())
    }

    /// Makes a folder, and all missing folders above.
    fn make_folders(&self, folder: &Path) -> io::Result<()> {
        for level in missing_levels(folder).iter().rev() {
            self.make_folder(level)?;
        }
        Ok(())
    }

    /// Makes a folder in an existing folder. The name is on the disk only after [`Disk::sync_folders`].
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => {
                self.is_new(folder);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes a new folder, whose parent is to be synced.
    pub(super) fn is_new(&self, folder: &Path) {
        if let Some(parent) = folder.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            self.unsynced().push(parent.to_owned());
        }
    }

    /// Fsyncs the parents of all new folders. The next call retries failed fsyncs.
    fn sync_folders(&self) -> Result<(), (PathBuf, io::Error)> {
        let mut unsynced = self.unsynced();
        while let Some(folder) = unsynced.last() {
            match sync_dir(folder) {
                Ok(()) => {}
                // A power cut cannot lose anything in a removed folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((folder.clone(), error)),
            }
            unsynced.pop();
        }
        Ok(())
    }

    fn unsynced(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.unsynced.lock()
    }

    /// The epochs with a folder.
    pub(super) fn epochs(&self, strays: &mut Strays) -> io::Result<BTreeSet<Epoch>> {
        let mut epochs = BTreeSet::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let epoch = name.to_str().and_then(|name| name.parse::<Epoch>().ok());
            match epoch {
                Some(epoch) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => drop(epochs.insert(epoch)),
                _ if name == ASIDE => {}
                _ => strays.add(entry.path()),
            }
        }
        Ok(epochs)
    }

    /// The files of an epoch's frames, by seq.
    pub(super) fn frames(&self, epoch: Epoch, strays: &mut Strays) -> io::Result<BTreeMap<u64, FrameFile>> {
        let mut frames = BTreeMap::new();
        for entry in fs::read_dir(self.folder(epoch))? {
            let entry = entry?;
            let (name, metadata) = (entry.file_name(), entry.metadata());
            match (name.to_str().and_then(parse_name), metadata) {
                // Removed since the folder was read.
                (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                // A later read reports the fault.
                (Some(seq), Err(_)) => drop(frames.insert(seq, FrameFile::default())),
                (Some(seq), Ok(metadata)) if metadata.is_file() => {
                    frames.insert(seq, listed(&metadata));
                }
                _ => strays.add(entry.path()),
            }
        }
        Ok(frames)
    }

    /// Writes a frame durably: temporary file, fsync, rename, fsync of the folder. With `opens_epoch` the folder of the
    /// epoch is made first. A folder that is missing later was removed or covered by another mount: then the epoch
    /// ends.
    pub(super) fn publish(&self, id: FrameId, records: &[Vec<u8>], opens_epoch: bool) -> Result<(), SpoolError> {
        let mut failed = 0;
        loop {
            match self.publish_once(id, records, opens_epoch) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // A partial file must not be taken for an accepted frame.
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

    fn publish_once(&self, id: FrameId, records: &[Vec<u8>], opens_epoch: bool) -> Result<(), SpoolError> {
        let folder = self.folder(id.epoch);
        if opens_epoch {
            self.make_folder(&folder).map_err(unusable("create spool folder", &folder))?;
        }
        self.sync_folders().map_err(|(folder, error)| unusable("fsync spool folder", &folder)(error))?;
        let path = self.path(id);
        let temporary = self.temporary(&folder);
        let written = write_whole(&temporary, records);
        let published = written.and_then(|()| fs::rename(&temporary, &path)).and_then(|()| sync_dir(&folder));
        if published.is_err() {
            self.unlink(&temporary);
        }
        published.map_err(unusable("write spool frame", &path))
    }

    /// Writes and removes a file of `bytes`, to probe the folder. Makes the folder again after a removal.
    pub(super) fn probe(&self, bytes: usize) -> io::Result<()> {
        let temporary = self.temporary(&self.root);
        let probed = self.prepare().and_then(|()| write_whole(&temporary, &[vec![0; bytes]]));
        self.unlink(&temporary);
        probed
    }

    pub(super) fn read(&self, id: FrameId) -> Result<StoredFrame, ReadFault> {
        self.read_as(&self.path(id), id)
    }

    fn read_as(&self, path: &Path, id: FrameId) -> Result<StoredFrame, ReadFault> {
        let bytes = read_bounded(path).map_err(|fault| match fault {
            // The file is known to be missing only when its folder can be read.
            ReadFault::Vanished if path.parent().is_none_or(|folder| fs::read_dir(folder).is_err()) => ReadFault::Away,
            fault => fault,
        })?;
        let stored = StoredFrame::parse(bytes)?;
        let says = FrameId::of(&stored.header);
        if says == id { Ok(stored) } else { Err(ReadFault::OtherFrame(says)) }
    }

    /// Time of the last change of the file's inode (`st_ctime`), when the file got its name, in ns since 1970.
    pub(super) fn changed_ns(&self, id: FrameId) -> Option<i64> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::symlink_metadata(self.path(id)).ok()?;
        metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())
    }

    /// Removes a frame's file, if present.
    pub(super) fn remove(&self, id: FrameId) -> io::Result<()> {
        remove_if_there(&self.path(id))
    }

    /// Removes the folder of an epoch without frames.
    pub(super) fn remove_empty_folder(&self, epoch: Epoch) {
        // ENOTEMPTY is the normal answer.
        let _ = fs::remove_dir(self.folder(epoch));
    }

    /// Moves a frame's file to the folder of damaged frames, and removes the oldest damaged frames there.
    pub(super) fn set_aside(&self, id: FrameId) -> io::Result<PathBuf> {
        let aside = self.root.join(ASIDE);
        let to = aside.join(format!("{}.{}", id.epoch, file_name(id.seq)));
        self.make_folder(&aside)?;
        fs::rename(self.path(id), &to)?;
        self.thin_out(&aside);
        Ok(to)
    }

    /// Removes the oldest set-aside frames beyond [`ASIDE_MAX`], but only certainly damaged frames.
    fn thin_out(&self, aside: &Path) {
        let Ok(entries) = fs::read_dir(aside) else { return };
        let dated = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        };
        let mut kept: Vec<_> = entries.filter_map(dated).collect();
        kept.sort();
        let is_damaged = |path: &Path| {
            let (epoch, name) = path.file_name()?.to_str()?.split_once('.')?;
            let id = FrameId { epoch: epoch.parse().ok()?, seq: parse_name(name)? };
            Some(matches!(
                self.read_as(path, id),
                Err(ReadFault::Corrupt(_) | ReadFault::TooLarge(_) | ReadFault::OtherFrame(_))
            ))
        };
        let beyond = kept.iter().rev().skip(ASIDE_MAX);
        beyond.filter(|(_, path)| is_damaged(path) == Some(true)).for_each(|(_, path)| self.unlink(path));
    }

    /// Bytes that this process may still write to the file system.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Removes a file. A failed removal does no harm and is logged.
    pub(super) fn unlink(&self, path: &Path) {
        if let Err(error) = remove_if_there(path) {
            edr_daemon::limited!(log::Level::Warn, "remove {}: {error}", path.display());
        }
    }

    pub(super) fn path(&self, id: FrameId) -> PathBuf {
        self.folder(id.epoch).join(file_name(id.seq))
    }

    pub(super) fn folder(&self, epoch: Epoch) -> PathBuf {
        self.root.join(epoch.to_string())
    }

    fn temporary(&self, folder: &Path) -> PathBuf {
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        folder.join(format!(".{}-{number}.tmp", std::process::id()))
    }
}

fn listed(metadata: &fs::Metadata) -> FrameFile {
    use std::os::unix::fs::MetadataExt as _;
    let written_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    FrameFile { bytes: metadata.len(), written_ns }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn write_whole(path: &Path, records: &[Vec<u8>]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // write_all continues after a short write, and fails without room for the rest.
    records.iter().try_for_each(|record| file.write_all(record))?;
    file.sync_all()
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ReadFault> {
    // A FIFO must not block the reader, and a link must not lead elsewhere.
    let flags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadFault::Vanished,
        _ => ReadFault::Unreadable(error),
    })?;
    let metadata = file.metadata().map_err(ReadFault::Unreadable)?;
    if !metadata.is_file() {
        return Err(ReadFault::Unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(ReadFault::TooLarge(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(ReadFault::Unreadable)?;
    Ok(bytes)
}

/// The missing folders of this path, deepest first.
pub(super) fn missing_levels(folder: &Path) -> Vec<&Path> {
    let missing = |level: &&Path| !level.as_os_str().is_empty() && fs::symlink_metadata(level).is_err();
    folder.ancestors().take_while(missing).collect()
}

fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn unusable(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Unusable { operation, path, source }
}

/// True for errors of a disk that may become usable again without an administrator.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::IO
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::STALE
                // A broken file system (EUCLEAN); a disk or a server that disappeared.
                | Errno::UCLEAN
                | Errno::NXIO
                | Errno::NODEV
                | Errno::NOTCONN
                | Errno::TIMEDOUT
        )
    )
}

/// `00000000000000000042.frame`.
fn file_name(seq: u64) -> String {
    format!("{seq:020}.frame")
}

/// The seq of a file name in exactly the form of [`file_name`].
fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".frame")?;
    let seq = digits.parse().ok()?;
    (seq > 0 && file_name(seq) == name).then_some(seq)
}
