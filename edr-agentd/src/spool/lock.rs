//! The lock of a state folder: at most one agent per folder. A state folder that was removed and made again has a new
//! lock file; against a second agent in that case, the witness in `runtime-dir` is locked, too.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::SpoolError;
use super::disk::{is_transient, missing_levels};

/// The lock on a state folder, held until dropped. The kernel releases the lock when the process ends, also after
/// SIGKILL.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `<state-dir>/lock` and writes the process id there. Calls `made` for each new folder.
    pub(super) fn take(state_dir: &Path, made: impl Fn(&Path)) -> Result<Self, SpoolError> {
        let folder = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Folder { operation, path, source }
        };
        if !state_dir.is_dir() {
            let missing = missing_levels(state_dir);
            let created = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
            created.map_err(folder("create state-dir", state_dir))?;
            missing.into_iter().for_each(made);
        }
        let path = state_dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            // On a full or read-only disk the folder itself is locked, and the process id is not stored.
            Err(error) if is_transient(&error) => File::open(state_dir).map_err(folder("open state-dir", state_dir))?,
            Err(error) => return Err(folder("open lock", &path)(error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SpoolError::Locked { pid: read_pid(&mut file), path }),
            Err(errno) => return Err(folder("lock", &path)(errno.into())),
        }
        // The process id is only information; the lock holds without the number.
        if let Err(error) = write_pid(&mut file) {
            log::warn!("write process id to {}: {error}", path.display());
        }
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
