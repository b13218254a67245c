//! Work on the spool's folder after each frame: epochs that came back, due files, and room.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::disk::{ReadFault, Strays};
use super::ledger::{FrameFault, Operation, Room};
use super::{FrameId, Inner, MEMORY_BYTES_MAX, Spool, resume};
use crate::config;
use crate::event::Event;

/// Time limit of one tick for each of: removing files, setting files aside, reading headers. The next tick continues.
const TIDY_MAX: Duration = Duration::from_secs(2);

impl Spool {
    /// Finds epochs that came back, removes and sets aside due files, and gives up frames when room runs out. To be
    /// called after each frame; work beyond the time limit is left to the next call.
    pub fn tidy(&self) {
        if let Some(left_out) = self.messages.left_out(Instant::now()) {
            log::warn!("{left_out} more messages about single files of the spool were left out");
        }
        self.find_epochs();
        self.work_off();
        self.make_room();
        self.changed.notify_all();
    }

    /// Lists the folders of new epochs, and of epochs whose folder was away.
    fn find_epochs(&self) {
        let mut strays = Strays::default();
        let mut trouble = None;
        match self.disk.epochs(&mut strays) {
            Ok(epochs) => {
                let unlisted = self.lock().ledger.unlisted(&epochs);
                let mut found = Vec::new();
                let removals = self.lock().ledger.removals();
                for epoch in unlisted {
                    match self.disk.frames(epoch, &mut strays) {
                        Ok(files) => {
                            log::debug!("spool folder {epoch} found, with {} frames", files.len());
                            found.push((resume::origin(&self.disk, epoch, &files), files));
                        }
                        Err(error) => trouble = Some(format!("list spool folder {epoch}: {error}")),
                    }
                }
                found.sort_by_key(|(origin, _)| (origin.captured_ns, origin.epoch));
                for (origin, files) in found {
                    self.lock().ledger.found(origin, &files, removals);
                }
            }
            Err(error) => trouble = Some(format!("list spool {}: {error}", self.disk.root().display())),
        }
        if let Some(trouble) = &trouble {
            edr_daemon::limited!(
                log::Level::Error,
                Event::SpoolUnreadable,
                EDR_SOURCE = "spool",
                "{trouble}; retrying"
            );
        }
        self.lock().unlisted = trouble;
    }

    /// Removes due files, and sets due files aside.
    fn work_off(&self) {
        let deadline = Instant::now() + TIDY_MAX;
        let due = self.lock().ledger.due();
        for (id, operation) in due {
            // On a failing disk each file takes seconds.
            if Instant::now() > deadline {
                break;
            }
            match operation {
                Operation::Delete => self.remove(id),
                Operation::SetAside => self.set_aside(id),
            }
        }
    }

    /// Removes a frame's file. After an error the file stays due, and is sent once more if the agent restarts first.
    pub(super) fn remove(&self, id: FrameId) {
        match self.disk.remove(id) {
            Ok(()) => self.done(id),
            Err(error) => {
                edr_daemon::limited!(log::Level::Warn, "remove {}: {error}; retrying", self.disk.path(id).display());
            }
        }
    }

    /// Notes the end of a frame's file. After the last file of an epoch the folder is removed.
    fn done(&self, id: FrameId) {
        let is_last = self.lock().ledger.done(id);
        if is_last {
            self.disk.remove_empty_folder(id.epoch);
        }
    }

    /// Reads a frame once more before its file is set aside. If the read succeeds now, the frame is sent.
    fn set_aside(&self, id: FrameId) {
        match self.disk.read(id) {
            Ok(stored) => {
                if self.messages.admit(Instant::now()) {
                    log::info!("spool frame {id} can be read again and is sent");
                }
                self.lock().ledger.revived(&stored.header, stored.byte_len() as u64);
            }
            // No file to move. A folder is listed again after its return.
            Err(ReadFault::Vanished | ReadFault::Away) => self.done(id),
            Err(fault) => match self.disk.set_aside(id) {
                Ok(path) => {
                    if self.messages.admit(Instant::now()) {
                        log::warn!("spool frame {id}: {fault}; kept as {}", path.display());
                    }
                    self.done(id);
                }
                Err(error) => edr_daemon::limited!(log::Level::Warn, "set spool frame {id} aside: {error}"),
            },
        }
    }

    /// Gives up frames when room runs out, and logs their number.
    fn make_room(&self) {
        let before = self.lock().ledger.dropped_frames;
        self.relieve();
        let state = self.state();
        if state.dropped_frames > before {
            edr_daemon::limited!(
                log::Level::Warn,
                Event::SpoolFull,
                EDR_SOURCE = "spool",
                "no room in the spool: {} unsent frames stay, {} were given up since the start, oldest time first",
                state.unsent_frames,
                state.dropped_frames
            );
        }
    }

    /// Gives up frames when room runs out.
    fn relieve(&self) {
        let deadline = Instant::now() + TIDY_MAX;
        let free = self.disk.free_bytes();
        let mut unreadable = BTreeSet::new();
        loop {
            let unread = {
                let Inner { ledger, fallback, settings, .. } = &mut *self.lock();
                // While frames go to memory, giving up a frame on the disk gains no room: the file stays until frames
                // on the disk declare the loss. An acknowledgement gains room.
                let disk_bytes =
                    if fallback.is_used { u64::MAX } else { room(settings, ledger.books().disk_bytes(), free) };
                let unread = ledger.relieve(Room { disk_bytes, memory_bytes: MEMORY_BYTES_MAX }, &unreadable);
                fallback.retain(|id| ledger.books().is_in_memory(id));
                unread
            };
            if unread.is_empty() {
                return;
            }
            for id in unread {
                if Instant::now() > deadline {
                    return;
                }
                match self.disk.read(id) {
                    Ok(stored) => self.lock().ledger.examined(&stored.header),
                    Err(fault) => {
                        unreadable.insert(id);
                        if FrameFault::from(&fault).is_proof() {
                            self.give_up(id, &fault, Instant::now());
                        }
                    }
                }
            }
        }
    }
}

/// Bytes allowed for the spool now: the quota, or less when the file system is near its floor of free bytes.
fn room(settings: &config::Spool, used: u64, free: Option<u64>) -> u64 {
    let left = free.map_or(u64::MAX, |free| used.saturating_add(free).saturating_sub(settings.free_bytes_min));
    settings.bytes_max.min(left)
}
