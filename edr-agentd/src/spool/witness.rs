//! The witness: names the last frame made, for a start in the same boot after a crash.
//!
//! The spool alone is no proof: frames made in memory leave no trace on the disk. So the last frame is also named in
//! `<runtime-dir>/last-frame`, in one line that is overwritten in place: `boot_id epoch seq` once a frame is on the
//! disk, and `boot_id memory` before the first frame in memory can be sent. A start continues an epoch only when the
//! newest frame of the spool is named here, or is the next frame of the named epoch: the agent was then killed between
//! the two writes, and no other frame can have been made.
//!
//! The witness is not required: without the file a start begins a new epoch, and nothing is lost. The file has to
//! outlive the process and not the boot, so its place is a file system in memory (`/run`), which does not fail with the
//! disk of the spool. Nothing is fsynced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{FrameId, SpoolError};

/// Size of the file in bytes. An overwrite needs no new room: a boot id has 36 bytes, an epoch 16, a number 20 at most.
const BYTES: usize = 128;

/// The last frame named by an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFrame {
    /// Boot of the earlier run.
    pub boot_id: String,
    /// The last frame on the disk; `None` when later frames were made in memory. `seq` is 0 for an epoch without a
    /// frame.
    pub on_disk: Option<FrameId>,
}

#[derive(Debug)]
pub(super) struct Witness {
    path: PathBuf,
    file: Option<File>,
}

impl Witness {
    /// Opens and locks `<runtime-dir>/last-frame`, and returns its content. The lock stops a second agent even after
    /// the state folder was removed and made again with a new lock file.
    ///
    /// # Errors
    /// [`SpoolError::Locked`].
    pub(super) fn open(runtime_dir: &Path) -> Result<(Self, Option<LastFrame>), SpoolError> {
        let path = runtime_dir.join("last-frame");
        match open(&path) {
            Ok((file, said)) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => Err(SpoolError::Locked { pid: None, path }),
                _ => Ok((Self { path, file: Some(file) }, parse(&said))),
            },
            Err(error) => {
                log::warn!("open {}: {error}; the next start begins a new epoch", path.display());
                Ok((Self { path, file: None }, None))
            }
        }
    }

    /// Names the last frame on the disk.
    pub(super) fn on_disk(&self, boot_id: &str, id: FrameId) {
        self.say(&format!("{boot_id} {} {}", id.epoch, id.seq));
    }

    /// Notes that frames are made in memory.
    pub(super) fn in_memory(&self, boot_id: &str) {
        self.say(&format!("{boot_id} memory"));
    }

    fn say(&self, words: &str) {
        let Some(file) = &self.file else { return };
        let line = format!("{words:<width$}\n", width = BYTES - 1);
        if let Err(error) = file.write_all_at(line.as_bytes(), 0) {
            edr_daemon::limited!(log::Level::Warn, "write {}: {error}", self.path.display());
            // The content is outdated now; without the file nothing is claimed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<(File, String)> {
    let flags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let mut file = options.open(path)?;
    let mut said = Vec::new();
    (&mut file).take(BYTES as u64).read_to_end(&mut said)?;
    if said.len() < BYTES {
        // Reserves the room for all later writes.
        file.write_all_at(&[b' '; BYTES], 0)?;
    }
    Ok((file, String::from_utf8_lossy(&said).into_owned()))
}

fn parse(said: &str) -> Option<LastFrame> {
    let mut words = said.split_ascii_whitespace();
    let (boot_id, place) = (words.next()?.to_owned(), words.next()?);
    let on_disk = match words.next() {
        None if place == "memory" => None,
        seq => Some(FrameId { epoch: place.parse().ok()?, seq: seq?.parse().ok()? }),
    };
    Some(LastFrame { boot_id, on_disk })
}
