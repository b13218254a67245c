//! The spool: holds every frame from its making until Kafka has acknowledged the frame.
//!
//! Promises:
//! - A frame accepted by [`Spool::put`] survives `kill -9` and power loss: written whole, fsynced, renamed, folder
//!   fsynced.
//! - For each epoch {1..highest seq} = delivered ∪ still to be sent ∪ declared lost. A declaration is in the `lost`
//!   list of every new frame until Kafka has acknowledged a frame with the declaration, across restarts and crashes.
//! - A frame's file is removed when [`Spool::acknowledge`] is called. The only exception is a frame given up for lack
//!   of room or after damage: its file is removed after two later frames on the disk declare the loss of the frame, and
//!   repeat every declaration of the lost frame. In doubt a frame is sent twice, never missing without a declaration.
//! - An unreadable frame (an I/O error, no descriptor left, a folder that is away with its disk) is not lost. The read
//!   is retried; later frames of the epoch wait, and all remaining epochs continue. The frame is given up only after
//!   [`Patience`], while other frames can be read, as `unreadable` or `vanished`; even then the file is not deleted.
//! - An epoch whose folder was away, or could not be listed, is found by the first tick after the folder's return, in
//!   the same run. Its frames are sent then, also frames declared lost meanwhile.
//! - The newest frame and its key stay, acknowledged or not. These two files are the only state: a start reads sequence
//!   number, log positions and pending declarations there. The witness in `runtime-dir` proves that no later frame was
//!   made; without the witness a start begins a new epoch.
//! - `<state-dir>/spool/<epoch>/<seq>.frame`, `seq` in 20 digits, contains a frame's records in order: the same bytes
//!   as the Kafka values. One bad file costs one frame; `ls` shows the backlog.
//! - When the disk cannot be used ([`SpoolError::Unusable`]) frames are kept in memory ([`Spool::put_in_memory`], at
//!   most [`MEMORY_BYTES_MAX`]) in a separate epoch, until [`Spool::recover`] finds the disk usable again and has
//!   written the unsent frames there.
//!
//! Not promised: a folder removed while no agent runs is declared nowhere. The next epoch names the highest seq
//! (`previous_epoch`) if the witness has the number.
//!
//! Three parts: the disk (files only), the ledger (frames by state, without I/O, clock and lock) and the fallback
//! (frames in memory). This file wires the three: decisions under the lock, all I/O without the lock. Two threads use a
//! spool: the sampler puts frames in and calls [`Spool::tidy`]; the shipper takes frames out.
//!
//! The spool knows neither the content of a snapshot nor the destination of a frame.

mod disk;
mod fallback;
mod ledger;
mod lock;
mod resume;
mod stored;
mod tidy;
mod verify;
mod witness;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_daemon::journal::Few;
use edr_wire::Epoch;
use edr_wire::frame::{EncodedFrame, FrameHeader, LostRange, MissedTicks};
use edr_wire::snapshot::SpoolState;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::disk::{Disk, ReadFault};
use self::fallback::Fallback;
use self::ledger::{FrameFault, Ledger, Store};
pub use self::ledger::{Patience, Thinning};
use self::lock::Lock;
pub use self::resume::{NewestFrame, Resume};
pub use self::stored::StoredFrame;
pub use self::verify::{Listing, SpoolFault, verify};
pub use self::witness::LastFrame;
use self::witness::Witness;
use crate::config;
use crate::event::Event;

/// Bytes of frames kept in memory while the disk cannot be used; then the oldest are declared lost.
pub const MEMORY_BYTES_MAX: u64 = 16 << 20;

/// Time limit of one tick for writing frames from memory to a usable disk. The next tick continues.
const RECOVER_MAX: Duration = Duration::from_secs(2);

/// Identity of a frame of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// Epoch of the frame.
    pub epoch: Epoch,
    /// Sequence number in the epoch, from 1.
    pub seq: u64,
}

impl FrameId {
    /// The frame of this header.
    pub fn of(header: &FrameHeader) -> Self {
        Self { epoch: header.epoch, seq: header.seq }
    }
}

impl std::fmt::Display for FrameId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

/// A frame's file, as listed.
#[derive(Debug, Clone, Copy, Default)]
struct FrameFile {
    bytes: u64,
    /// Time of the last change of the content (`st_mtime`), in ns since 1970.
    written_ns: i64,
}

/// Reason why the spool cannot be opened, or cannot take a frame.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent holds the lock.
    #[error("another edr-agentd ({}) holds {}", holder(.pid), .path.display())]
    Locked {
        /// Process id of the other agent, if readable.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The state folder cannot be used at all: wrong rights, wrong kind. A start ends here.
    #[error("{operation} {}: {source}", .path.display())]
    Folder {
        /// Operation that failed.
        operation: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// Error of the operation.
        source: io::Error,
    },
    /// The disk does not take the frame now: full, read-only, failing or missing.
    #[error("{operation} {}: {source}", .path.display())]
    Unusable {
        /// Operation that failed.
        operation: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// Error of the operation.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

impl From<&ReadFault> for FrameFault {
    fn from(fault: &ReadFault) -> Self {
        match fault {
            ReadFault::Vanished => Self::Vanished,
            ReadFault::Away => Self::Away,
            ReadFault::Unreadable(_) => Self::Unreadable,
            ReadFault::Corrupt(_) | ReadFault::TooLarge(_) | ReadFault::OtherFrame(_) => Self::Corrupt,
        }
    }
}

/// The spool of one host. Shared by two threads: the sampler puts frames in, the shipper takes frames out.
#[derive(Debug)]
pub struct Spool {
    disk: Disk,
    witness: Witness,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Limits the messages about single files.
    messages: Few,
    _lock: Lock,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    fallback: Fallback,
    settings: config::Spool,
    /// Reason why a folder of the spool cannot be listed.
    unlisted: Option<String>,
}

impl Spool {
    /// Takes the lock and reads the state left by an earlier run: names and sizes of all frames, and the content of
    /// only the newest. The witness of the last frame is in `runtime_dir`.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] and [`SpoolError::Folder`]. A full or read-only disk is no error: the spool then starts
    /// in memory.
    pub fn open(state_dir: &Path, runtime_dir: &Path, settings: config::Spool) -> Result<(Self, Resume), SpoolError> {
        let disk = Disk::new(state_dir.join("spool"));
        let lock = Lock::take(state_dir, |folder| disk.is_new(folder))?;
        let mut fallback = Fallback::default();
        match disk.prepare() {
            Ok(()) => {}
            Err(error) if disk::is_transient(&error) => {
                edr_daemon::event!(
                    log::Level::Error,
                    Event::SpoolUnusable,
                    EDR_SOURCE = "spool",
                    "spool {}: {error}; frames are kept in memory until the disk is usable",
                    disk.root().display()
                );
                fallback.is_used = true;
            }
            Err(source) => {
                return Err(SpoolError::Folder { operation: "open spool", path: disk.root().to_owned(), source });
            }
        }
        let mut ledger = Ledger::default();
        let (witness, last_made) = Witness::open(runtime_dir)?;
        let messages = Few::default();
        let resume = Resume { last_made, ..resume::read(&disk, &mut ledger, &messages) };
        let inner = Mutex::new(Inner { ledger, fallback, settings, unlisted: None });
        let spool = Self { disk, witness, inner, changed: Condvar::new(), messages, _lock: lock };
        Ok((spool, resume))
    }

    /// Accepts a frame. After the return the frame survives a crash and a power loss.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`]: the frame is not accepted, and its (epoch, seq) must not be used again.
    pub fn put(&self, header: &FrameHeader, frame: &EncodedFrame) -> Result<(), SpoolError> {
        let id = FrameId::of(header);
        if id.seq == 1 {
            self.witness.on_disk(&header.boot_id, FrameId { seq: 0, ..id });
        }
        self.disk.publish(id, &frame.records, id.seq == 1)?;
        self.witness.on_disk(&header.boot_id, id);
        let mut inner = self.lock();
        inner.fallback.is_used = false;
        inner.ledger.accepted(header, frame.byte_len() as u64, Store::Disk);
        self.changed.notify_all();
        Ok(())
    }

    /// Accepts a frame into memory, for a disk that cannot be used. The frame survives as long as the process.
    pub fn put_in_memory(&self, header: &FrameHeader, frame: EncodedFrame) {
        let bytes = frame.byte_len() as u64;
        self.witness.in_memory(&header.boot_id);
        let mut inner = self.lock();
        inner.fallback.is_used = true;
        inner.fallback.insert(FrameId::of(header), StoredFrame::from_parts(header.clone(), frame.records));
        inner.ledger.accepted(header, bytes, Store::Memory);
        self.changed.notify_all();
    }

    /// Probes the disk with a file of `bytes`, and writes the frames in memory to the disk. True when the disk has all
    /// frames; false after the time limit: the next call continues.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`]: the disk still takes nothing.
    pub fn recover(&self, bytes: usize) -> Result<bool, SpoolError> {
        let deadline = Instant::now() + RECOVER_MAX;
        self.disk.probe(bytes).map_err(disk::unusable("write to spool", self.disk.root()))?;
        loop {
            let oldest = {
                let inner = self.lock();
                inner.ledger.books().oldest_in_memory().and_then(|id| Some((id, inner.fallback.get(id)?)))
            };
            let Some((id, stored)) = oldest else { return Ok(true) };
            if Instant::now() > deadline {
                return Ok(false);
            }
            let records: Vec<Vec<u8>> = stored.records().map(<[u8]>::to_vec).collect();
            self.disk.publish(id, &records, true)?;
            // Kafka may have acknowledged the frame meanwhile.
            if !self.lock().moved_to_disk(id) {
                self.remove(id);
            }
        }
    }

    /// Kafka has all of the frame with this header.
    pub fn acknowledge(&self, header: &FrameHeader) {
        let gone = {
            let mut inner = self.lock();
            let gone = inner.ledger.acknowledged(header);
            let Inner { ledger, fallback, .. } = &mut *inner;
            fallback.retain(|id| ledger.books().is_in_memory(id));
            gone
        };
        if let Some(id) = gone {
            self.remove(id);
        }
        self.changed.notify_all();
    }

    /// The oldest unsent frame. Epochs with an unreadable frame are passed over while they wait.
    pub fn oldest_unsent(&self, now: Instant) -> Option<FrameId> {
        self.lock().ledger.books().oldest_unsent(now)
    }

    /// Reads and verifies a frame. `None` after a fault; then the next call of [`Spool::oldest_unsent`] names another
    /// frame. A damaged or vanished frame is declared lost. An unreadable frame is tried again after a wait, within the
    /// limits of [`Patience`].
    pub fn load(&self, id: FrameId, now: Instant) -> Option<Arc<StoredFrame>> {
        if let Some(stored) = self.lock().fallback.get(id) {
            return Some(stored);
        }
        match self.disk.read(id) {
            Ok(stored) => {
                if self.lock().ledger.was_read(id) && self.messages.admit(now) {
                    log::info!("spool frame {id} can be read again");
                }
                Some(Arc::new(stored))
            }
            Err(fault) => {
                if FrameFault::from(&fault).is_proof() {
                    self.give_up(id, &fault, now);
                } else {
                    self.hold(id, &fault, now);
                }
                None
            }
        }
    }

    /// Declares a frame lost, unless already given up.
    fn give_up(&self, id: FrameId, fault: &ReadFault, now: Instant) {
        if self.lock().ledger.give_up(id, FrameFault::from(fault), now) {
            edr_daemon::limited!(
                log::Level::Error,
                Event::SpoolDamaged,
                EDR_SOURCE = "spool",
                EDR_EPOCH = id.epoch.to_string(),
                EDR_SEQ = id.seq,
                "spool frame {id}: {fault}; declared lost"
            );
        }
    }

    /// Notes that a frame cannot be read now. The frame is given up when its epoch waited long enough and other frames
    /// can be read: then the disk is not the cause.
    fn hold(&self, id: FrameId, fault: &ReadFault, now: Instant) {
        let (is_over, neighbours) = {
            let ledger = &mut self.lock().ledger;
            if !ledger.is_unsent(id) {
                return;
            }
            let words = format!("spool frame {id}: {fault}");
            (ledger.failed(id, FrameFault::from(fault), words, now), ledger.books().neighbours(id))
        };
        let is_readable = |id| self.disk.read(id).map_or_else(|fault| FrameFault::from(&fault).is_proof(), |_| true);
        if is_over && neighbours.into_iter().any(is_readable) {
            self.give_up(id, fault, now);
            return;
        }
        edr_daemon::limited!(
            log::Level::Error,
            Event::SpoolUnreadable,
            EDR_SOURCE = "spool",
            EDR_EPOCH = id.epoch.to_string(),
            EDR_SEQ = id.seq,
            "spool frame {id}: {fault}; retrying, and later frames of the epoch wait"
        );
    }

    /// The present read fault, for the status line.
    pub fn trouble(&self, now: Instant) -> Option<String> {
        let inner = self.lock();
        inner.ledger.books().trouble(now).or_else(|| inner.unlisted.clone())
    }

    /// Sets the limits on tries to read an unreadable frame.
    pub fn set_patience(&self, patience: Patience) {
        self.lock().ledger.patience = patience;
    }

    /// Sets the spans of time of which one frame stays in a full spool.
    pub fn set_thinning(&self, thinning: Thinning) {
        self.lock().ledger.thinning = thinning;
    }

    /// Waits until there is an unsent frame, something changes, or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        let mut inner = self.lock();
        let now = Instant::now();
        if inner.ledger.books().oldest_unsent(now).is_none() {
            let next = inner.ledger.books().next_try(now).map(|next| next.saturating_duration_since(now));
            let timeout = next.map_or(timeout, |next| next.min(timeout));
            // The caller looks again after a timeout as after a notification.
            self.changed.wait_for(&mut inner, timeout);
        }
    }

    /// Waits until every readable frame is acknowledged, at most `timeout`. False after a timeout.
    pub fn wait_until_sent(&self, timeout: Duration) -> bool {
        let unsent = |inner: &mut Inner| inner.ledger.books().oldest_unsent(Instant::now()).is_some();
        !self.changed.wait_while_for(&mut self.lock(), unsent, timeout).timed_out()
    }

    /// Ends all calls of [`Spool::wait`] at once.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Adds ticks without a frame, to be declared by the next frame.
    pub fn declare_missed(&self, missed: MissedTicks) {
        self.lock().ledger.missed(missed);
    }

    /// Adds declarations of an earlier run without a known acknowledgement.
    pub fn take_over(&self, lost: &[LostRange], missed: &[MissedTicks]) {
        self.lock().ledger.take_over(lost, missed);
    }

    /// Declarations for the next frame: all that Kafka has not confirmed.
    pub fn declarations(&self) -> (Vec<LostRange>, Vec<MissedTicks>) {
        self.lock().ledger.collect()
    }

    /// True when the next frame should be a key, so that older frames can be given up as a group.
    pub fn wants_key(&self) -> bool {
        self.lock().ledger.wants_key
    }

    /// Size of the backlog.
    pub fn state(&self) -> SpoolState {
        let inner = self.lock();
        let (unsent_frames, unsent_bytes) = inner.ledger.books().unsent();
        let (dropped_frames, memory_only) = (inner.ledger.dropped_frames, inner.fallback.is_used);
        SpoolState { unsent_frames, unsent_bytes, dropped_frames, memory_only }
    }

    /// Number of frames in memory, and their bytes.
    pub fn in_memory(&self) -> (u64, u64) {
        self.lock().fallback.size()
    }

    /// New limits, from the next frame on.
    pub fn set_limits(&self, settings: config::Spool) {
        self.lock().settings = settings;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// Notes that a frame in memory was written to the disk. False when the frame is not to be sent any more.
    fn moved_to_disk(&mut self, id: FrameId) -> bool {
        let is_needed = self.ledger.moved_to_disk(id);
        self.fallback.retain(|other| other != id);
        is_needed
    }
}
