//! Read-only check of a spool, for `spool list`, `spool verify` and tests. The check takes no lock and works beside a
//! running agent; a frame sent meanwhile is no fault.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, FrameKind};

use super::disk::{Disk, ReadFault, Strays};
use super::{FrameFile, FrameId};

/// A line of a listing: a frame.
#[derive(Debug)]
pub struct Listing {
    /// The frame.
    pub id: FrameId,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Header of the frame, or the fault of the file.
    pub header: Result<FrameHeader, String>,
}

/// A fault of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct SpoolFault {
    /// Path of the file.
    pub path: PathBuf,
    /// Description of the fault.
    pub fault: String,
}

/// Every frame in `<state_dir>/spool`, and every fault: damaged frames, a delta that does not fit its key, foreign
/// files, leftovers, access rights for other users.
///
/// # Errors
/// When the folder cannot be read.
pub fn verify(state_dir: &Path) -> io::Result<(Vec<Listing>, Vec<SpoolFault>)> {
    let disk = Disk::new(state_dir.join("spool"));
    let mut findings: Vec<SpoolFault> = Vec::new();
    let finding = |path: PathBuf, fault: &str| SpoolFault { path, fault: fault.to_owned() };
    let mut strays = Strays::default();
    let mut epochs: BTreeMap<Epoch, BTreeMap<u64, FrameFile>> = BTreeMap::new();
    for epoch in disk.epochs(&mut strays)? {
        match disk.frames(epoch, &mut strays) {
            Ok(frames) => drop(epochs.insert(epoch, frames)),
            // The last frame of the epoch was sent meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => findings.push(finding(disk.folder(epoch), &format!("cannot be listed: {error}"))),
        }
    }
    findings.extend(strays.foreign.into_iter().map(|path| finding(path, "not of the spool")));
    findings.extend(strays.leftovers.into_iter().map(|path| finding(path, "left by an interrupted write")));
    if let Some(mode) = open_to_others(disk.root())? {
        findings.push(finding(disk.root().to_owned(), &format!("mode {mode:03o}, 700 is right")));
    }
    let mut listing = Vec::new();
    for (&epoch, frames) in &epochs {
        let mut key: Option<(u64, Vec<u8>)> = None;
        for (&seq, file) in frames {
            let id = FrameId { epoch, seq };
            let header = match look(&disk, id, &mut key) {
                Ok(header) => Ok(header),
                Err(ReadFault::Vanished | ReadFault::Away) => continue,
                Err(fault) => {
                    findings.push(finding(disk.path(id), &fault.to_string()));
                    Err(fault.to_string())
                }
            };
            listing.push(Listing { id, bytes: file.bytes, header });
        }
    }
    Ok((listing, findings))
}

/// Reads a frame, and opens the snapshot if the key is at hand. `key` is the latest key snapshot of the epoch.
fn look(disk: &Disk, id: FrameId, key: &mut Option<(u64, Vec<u8>)>) -> Result<FrameHeader, ReadFault> {
    let stored = disk.read(id)?;
    match stored.header.kind {
        FrameKind::Key => *key = Some((id.seq, stored.open(None)?)),
        FrameKind::Delta => {
            // The key of older deltas may be sent and gone.
            if let Some((_, raw)) = key.as_ref().filter(|(seq, _)| *seq == stored.header.base_seq) {
                stored.open(Some(raw))?;
            }
        }
    }
    Ok(stored.header)
}

fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}
