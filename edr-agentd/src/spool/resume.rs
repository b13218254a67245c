//! State of the spool at a start: the frames of earlier runs, and the newest readable frame.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edr_daemon::journal::Few;
use edr_wire::Epoch;
use edr_wire::frame::{FrameHeader, FrameKind, PreviousEpoch};
use edr_wire::snapshot::SnapshotView;

use super::disk::{Disk, Strays};
use super::ledger::{FrameFault, Ledger, Origin};
use super::stored::StoredFrame;
use super::{FrameFile, FrameId, LastFrame};
use crate::event::Event;

/// Maximum number of frames read by a start in the search for a readable frame.
const TRIES_MAX: usize = 500;

/// Number of unreadable frames that ends the search early: each read of a failing disk may take seconds.
const UNREADABLE_MAX: usize = 8;

/// Number of frames at the start, and at the end, of an epoch that are tried for a header.
const ORIGIN_TRIES: usize = 3;

/// Longest time from the capture of a snapshot to the rename of its file: one tick reads, compresses and writes in
/// between.
const AGE_DIFFERENCE_NS_MAX: u64 = 120_000_000_000;

/// The newest readable frame, with its snapshot.
#[derive(Debug)]
pub struct NewestFrame {
    /// Header of the frame.
    pub header: FrameHeader,
    /// Snapshot of the frame: log positions, times.
    pub snapshot: SnapshotView,
    /// True when the file is as old as the snapshot. After a copy or a restore from a backup the file is younger, and
    /// newer frames of the epoch may have been sent.
    pub written_when_captured: bool,
}

/// State of the spool at a start.
#[derive(Debug, Default)]
pub struct Resume {
    /// The newest epoch and the highest sequence number in it, from the names; `None` for an empty spool.
    pub last: Option<PreviousEpoch>,
    /// Header of the newest whole frame, even without its key. The declarations in the header are to be repeated.
    pub declared: Option<Box<FrameHeader>>,
    /// The newest frame with a readable snapshot. Continuity is provable only when `last` names this frame.
    pub newest: Option<Box<NewestFrame>>,
    /// The last frame made in a boot, from the witness.
    pub last_made: Option<LastFrame>,
}

/// Fills the ledger from names and sizes, and reads the newest frame and its key. `messages` limits the messages about
/// single files.
pub(super) fn read(disk: &Disk, ledger: &mut Ledger, messages: &Few) -> Resume {
    let is_logged = || messages.admit(Instant::now());
    let mut strays = Strays::default();
    let epochs = disk.epochs(&mut strays).unwrap_or_else(|error| {
        log::error!("list spool {}: {error}; retrying", disk.root().display());
        BTreeSet::new()
    });
    let mut found = Vec::new();
    for epoch in epochs {
        match disk.frames(epoch, &mut strays) {
            Ok(files) => found.push((origin(disk, epoch, &files), files)),
            Err(error) if is_logged() => log::error!("list spool folder {epoch}: {error}; retrying"),
            Err(_) => {}
        }
    }
    found.sort_by_key(|(origin, _)| (origin.captured_ns, origin.epoch));
    for (origin, files) in found {
        ledger.found(origin, &files, ledger.removals());
        disk.remove_empty_folder(origin.epoch);
    }
    for path in &strays.leftovers {
        disk.unlink(path);
    }
    if let Some(first) = strays.foreign.first() {
        let others = strays.foreign.len() - 1;
        log::warn!("{} does not belong to the spool and stays unchanged (and {others} more)", first.display());
    }
    let mut resume = Resume::default();
    let mut unreadable = 0;
    let names: Vec<FrameId> = ledger.books().newest_first().take(TRIES_MAX).collect();
    for id in names {
        resume.last.get_or_insert(PreviousEpoch { id: id.epoch, last_seq: id.seq });
        let stored = match disk.read(id) {
            Ok(stored) => stored,
            Err(fault) => {
                let is_proof = FrameFault::from(&fault).is_proof();
                if is_logged() {
                    let (event, remedy) = if is_proof {
                        (Event::SpoolDamaged, "declared lost")
                    } else {
                        (Event::SpoolUnreadable, "retrying")
                    };
                    edr_daemon::event!(
                        log::Level::Error,
                        event,
                        EDR_SOURCE = "spool",
                        EDR_EPOCH = id.epoch.to_string(),
                        EDR_SEQ = id.seq,
                        "spool frame {id}: {fault}; {remedy}"
                    );
                }
                if is_proof {
                    ledger.give_up(id, FrameFault::from(&fault), Instant::now());
                    continue;
                }
                // The shipper retries. Until then nothing proves that this frame was the last.
                unreadable += 1;
                if unreadable == UNREADABLE_MAX {
                    break;
                }
                continue;
            }
        };
        resume.declared.get_or_insert_with(|| Box::new(stored.header.clone()));
        match open(disk, id, stored) {
            Ok(newest) => {
                ledger.found_newest(id, newest.header.base_seq);
                resume.newest = Some(Box::new(newest));
                break;
            }
            // The collector may have the key, so the frame is sent all the same.
            Err(text) if is_logged() => log::warn!("spool frame {id} cannot be opened: {text}"),
            Err(_) => {}
        }
    }
    resume
}

/// Place of an epoch in the order of all epochs, read from the header of one frame.
pub(super) fn origin(disk: &Disk, epoch: Epoch, files: &BTreeMap<u64, FrameFile>) -> Origin {
    let some = files.keys().take(ORIGIN_TRIES).chain(files.keys().rev().take(ORIGIN_TRIES));
    let header = some.copied().find_map(|seq| Some(disk.read(FrameId { epoch, seq }).ok()?.header));
    let previous = header.as_ref().and_then(|header| header.previous_epoch).map(|previous| previous.id);
    // Without a readable header the time of the first write serves.
    let written_ns = || files.keys().find_map(|&seq| disk.changed_ns(FrameId { epoch, seq }));
    let captured_ns = header.map(|header| header.captured_ns).or_else(written_ns).unwrap_or(i64::MIN);
    Origin { epoch, previous, captured_ns }
}

/// Opens the snapshot of a whole frame.
fn open(disk: &Disk, id: FrameId, stored: StoredFrame) -> Result<NewestFrame, String> {
    let key_raw = match stored.header.kind {
        FrameKind::Key => None,
        FrameKind::Delta => {
            let key_id = FrameId { seq: stored.header.base_seq, ..id };
            let key = disk.read(key_id).map_err(|fault| format!("key frame {key_id}: {fault}"))?;
            Some(key.open(None).map_err(|error| format!("key frame {key_id}: {error}"))?)
        }
    };
    let raw = stored.open(key_raw.as_deref()).map_err(|error| error.to_string())?;
    let snapshot = SnapshotView::parse(raw).map_err(|error| error.to_string())?;
    let written_ns = disk.changed_ns(id).unwrap_or(i64::MAX);
    let written_when_captured = written_ns.abs_diff(stored.header.captured_ns) <= AGE_DIFFERENCE_NS_MAX;
    Ok(NewestFrame { header: stored.header, snapshot, written_when_captured })
}
