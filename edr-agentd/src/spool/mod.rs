//! The spool: every frame lies here from the moment it is made until Kafka has acknowledged it.
//!
//! Promises:
//! - A frame that [`Spool::put`] accepted survives `kill -9` and power loss: written whole, fsynced, renamed, folder
//!   fsynced.
//! - A frame's file goes when [`Spool::acknowledge`] is called for it, and never before, with one exception: when
//!   room runs out, or a file is damaged, its sequence numbers are first **declared** in the `lost` list of later
//!   frames, and only when two of those are in the spool, or Kafka has one, does the file go. On doubt a frame is there
//!   twice, never missing without a word.
//! - What cannot be read now (an I/O error, no descriptor left, a folder that is away with its disk) is not lost: it is
//!   tried again, and its epoch waits for it, while others go on. It is given up only after [`Patience`], while other
//!   frames can be read, as `unreadable` or `vanished`; even then its file is not deleted.
//! - The newest frame and the key it needs stay, acknowledged or not. They are the only state: a start reads sequence
//!   number, log positions and pending declarations from them. There is no other state file. That no frame was made
//!   after the newest one is witnessed in `runtime-dir`; without the witness a start begins a new epoch.
//! - `<state-dir>/spool/<epoch>/<seq>.frame`, `seq` in 20 digits, is a frame's records one after the other: the same
//!   bytes that travel. One bad file costs one frame; `ls` shows what waits.
//! - When the disk cannot be used ([`SpoolError::Unusable`]) frames are kept in memory ([`Spool::put_in_memory`], at
//!   most [`MEMORY_BYTES_MAX`]) in an epoch of their own, until [`Spool::recover`] finds the disk usable again and has
//!   brought there what is still unsent.
//!
//! The spool does not know what a snapshot holds, and not where frames go.

mod declare;
mod disk;
mod held;
mod index;
mod lock;
mod resume;
mod stored;
mod verify;
mod witness;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edr_wire::Epoch;
use edr_wire::frame::{EncodedFrame, FrameHeader, LostRange, MissedTicks};
use edr_wire::snapshot::SpoolState;

use self::disk::{Disk, ReadFault};
use self::held::Held;
pub use self::held::Patience;
use self::index::{Doom, Index};
use self::lock::Lock;
pub use self::resume::{Newest, Resume};
pub use self::stored::Stored;
pub use self::verify::{Finding, Listing, verify};
pub use self::witness::LastMade;
use self::witness::Witness;
use crate::config;
use crate::event::Event;

/// Bytes of frames kept in memory while the disk cannot be used; then the oldest are declared lost.
pub const MEMORY_BYTES_MAX: u64 = 16 << 20;

/// How long one tick writes frames from memory to a disk that is back. The next tick goes on.
const RECOVER_MAX: Duration = Duration::from_secs(2);

/// One frame of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameId {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its place in the epoch.
    pub seq: u64,
}

impl std::fmt::Display for FrameId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

/// Why the spool cannot be opened, or cannot take a frame.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent has it.
    #[error("another edr-agentd ({}) holds {}", holder(.pid), .path.display())]
    Locked {
        /// Its process id, when it could be read.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The state folder cannot be used at all: wrong rights, wrong kind. A start ends here.
    #[error("{operation} {}: {source}", .path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// The disk does not take the frame now: full, read-only, failing, gone.
    #[error("{operation} {}: {source}", .path.display())]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

/// Time that one frame may spend on setting others aside.
const SET_ASIDE_MAX: Duration = Duration::from_secs(2);

/// The spool of one host. Shared by the sampler, which puts frames in, and the shipper, which takes them out.
#[derive(Debug)]
pub struct Spool {
    disk: Disk,
    witness: Witness,
    inner: Mutex<Inner>,
    changed: Condvar,
    _lock: Lock,
}

#[derive(Debug)]
struct Inner {
    index: Index,
    held: Held,
    settings: config::Spool,
    memory_only: bool,
}

impl Spool {
    /// Takes the lock and reads what an earlier run left. Reads names and sizes of all frames, and the content of the
    /// newest only. Which frame was the last one made is witnessed in `runtime_dir`.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] and [`SpoolError::Folder`]. A disk that is full or read-only is no error here: the spool
    /// then starts in memory.
    pub fn open(state_dir: &Path, runtime_dir: &Path, settings: config::Spool) -> Result<(Self, Resume), SpoolError> {
        let disk = Disk::new(state_dir.join("spool"));
        let lock = Lock::take(state_dir, |folder| disk.is_new(folder))?;
        let memory_only = match disk.prepare() {
            Ok(()) => false,
            Err(error) if disk::is_transient(&error) => {
                edr_daemon::event!(
                    log::Level::Error, Event::SpoolUnusable, EDR_SOURCE = "spool";
                    "spool {}: {error}; frames are kept in memory until it is usable", disk.root().display()
                );
                true
            }
            Err(source) => {
                return Err(SpoolError::Folder { operation: "open spool", path: disk.root().to_owned(), source });
            }
        };
        let mut index = Index::default();
        let (witness, last_made) = Witness::open(runtime_dir);
        let resume = Resume { last_made, ..resume::read(&disk, &mut index) };
        let inner = Inner { index, held: Held::default(), settings, memory_only };
        let spool = Self { disk, witness, inner: Mutex::new(inner), changed: Condvar::new(), _lock: lock };
        Ok((spool, resume))
    }

    /// Accepts a frame: when this returns, the frame survives.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`]: the frame is not accepted, and its (epoch, seq) must not be used for another one.
    pub fn put(&self, header: &FrameHeader, frame: &EncodedFrame) -> Result<(), SpoolError> {
        let id = FrameId { epoch: header.epoch, seq: header.seq };
        if id.seq == 1 {
            self.witness.on_disk(&header.boot_id, FrameId { seq: 0, ..id });
        }
        self.disk.publish(id, &frame.records, id.seq == 1)?;
        self.witness.on_disk(&header.boot_id, id);
        let mut inner = self.lock();
        inner.memory_only = false;
        inner.index.insert(header, frame.byte_len() as u64, None);
        self.settle(inner, header);
        Ok(())
    }

    /// Accepts a frame that the disk does not take. It survives as long as the process.
    pub fn put_in_memory(&self, header: &FrameHeader, frame: EncodedFrame) {
        let bytes = frame.byte_len() as u64;
        self.witness.in_memory(&header.boot_id);
        let mut inner = self.lock();
        inner.memory_only = true;
        inner.index.insert(header, bytes, Some(Arc::new(Stored::from_parts(header.clone(), frame.records))));
        self.settle(inner, header);
    }

    /// Whether the disk has everything again: takes a file of `bytes`, and has taken the frames in memory, so that no
    /// crash finds them there when it is over. To be asked again when that takes longer than one call may.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`]: the disk still takes nothing.
    pub fn recover(&self, bytes: usize) -> Result<bool, SpoolError> {
        let deadline = Instant::now() + RECOVER_MAX;
        self.disk.probe(bytes).map_err(disk::unusable("write to spool", self.disk.root()))?;
        loop {
            let Some((id, stored)) = self.lock().index.oldest_in_memory() else { return Ok(true) };
            if Instant::now() > deadline {
                return Ok(false);
            }
            let records: Vec<Vec<u8>> = stored.records().map(<[u8]>::to_vec).collect();
            self.disk.publish(id, &records, true)?;
            // Kafka may have taken it meanwhile.
            if !self.lock().index.is_on_disk_now(id) {
                self.disk.remove(id);
            }
        }
    }

    /// What a new frame changes: declarations it carries are made, so what they stand for may go; what an older frame
    /// was kept for is over; and what does not fit any more is chosen for the next declaration.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>, header: &FrameHeader) {
        let (mut gone, mut aside) = (inner.index.outlived(), Vec::new());
        for (id, doom) in inner.index.carried(header) {
            match doom {
                Doom::Delete => gone.push(id),
                Doom::SetAside => aside.push(id),
            }
        }
        let used = inner.index.disk_bytes();
        // While frames go to memory a frame that is given up on the disk makes no room: it stays until a frame there
        // says that it is lost. It is whole, so it is sent when Kafka is back, and that makes room.
        let limit = if inner.memory_only { u64::MAX } else { room(&inner.settings, used, self.disk.free_bytes()) };
        let kind_of = |id| self.disk.read(id).ok().map(|stored| stored.header.kind);
        inner.index.relieve(limit, MEMORY_BYTES_MAX, kind_of);
        let Inner { index, held, .. } = &mut *inner;
        held.retain(|epoch| index.has_unsent(epoch));
        drop(inner);
        self.changed.notify_all();
        gone.into_iter().for_each(|id| self.disk.remove(id));
        let deadline = Instant::now() + SET_ASIDE_MAX;
        for id in aside {
            // A sick disk takes seconds for each. What is left is declared, and stays where it is until the next start.
            if Instant::now() > deadline {
                break;
            }
            if let Some(stored) = self.disk.set_aside(id) {
                log::info!("spool frame {id} can be read again; it is sent after all");
                self.lock().index.revive(id, stored.byte_len() as u64, stored.header.kind);
            }
        }
    }

    /// Kafka has all of this frame.
    pub fn acknowledge(&self, id: FrameId) {
        let gone = self.lock().index.acknowledge(id);
        if let Some(id) = gone {
            self.disk.remove(id);
        }
        self.changed.notify_all();
    }

    /// The oldest frame that Kafka has not acknowledged, of the epochs that are not held back by a frame that cannot
    /// be read now.
    pub fn oldest_unsent(&self) -> Option<FrameId> {
        self.lock().oldest_unsent()
    }

    /// The frame's records, verified. `None` when it gives none; then the next call of [`Spool::oldest_unsent`] says
    /// what is to be taken instead. A frame that is proven to be damaged or gone is on its way to `lost`. One that
    /// cannot be read now is tried again after a wait, for as long as [`Patience`] says.
    pub fn load(&self, id: FrameId) -> Option<Arc<Stored>> {
        if let Some(stored) = self.lock().index.in_memory(id) {
            return Some(stored);
        }
        match self.disk.read(id) {
            Ok(stored) => {
                if self.lock().held.read(id.epoch) {
                    log::info!("spool frame {id} can be read again");
                }
                Some(Arc::new(stored))
            }
            Err(fault) if fault.is_proof() => {
                self.condemn(id, &fault);
                None
            }
            Err(fault) => {
                self.hold(id, &fault);
                None
            }
        }
    }

    fn condemn(&self, id: FrameId, fault: &ReadFault) {
        let mut inner = self.lock();
        // The sampler may have dropped it since, for want of room.
        if inner.index.is_unsent(id) {
            inner.index.condemn(id, fault.reason(), Doom::SetAside);
            drop(inner);
            edr_daemon::limited!(
                log::Level::Error, Event::SpoolDamaged, EDR_SOURCE = "spool", EDR_EPOCH = id.epoch.to_string(), EDR_SEQ = id.seq;
                "spool frame {id}: {fault}; it is declared lost"
            );
        }
    }

    /// A frame that cannot be read now. It is given up when its epoch waited long enough and other frames can be read:
    /// then it is not the disk that is away.
    fn hold(&self, id: FrameId, fault: &ReadFault) {
        let (over, neighbours) = {
            let mut inner = self.lock();
            if !inner.index.is_unsent(id) {
                return;
            }
            let over = inner.held.failed(id.epoch, Instant::now(), format!("spool frame {id}: {fault}"));
            (over, inner.index.neighbours(id))
        };
        let is_readable = |id| self.disk.read(id).map_or_else(|fault| fault.is_proof(), |_| true);
        if over && neighbours.into_iter().any(is_readable) {
            self.condemn(id, fault);
            self.lock().held.given_up(id.epoch, Instant::now());
            return;
        }
        edr_daemon::limited!(
            log::Level::Error, Event::SpoolUnreadable, EDR_SOURCE = "spool", EDR_EPOCH = id.epoch.to_string(), EDR_SEQ = id.seq;
            "spool frame {id}: {fault}; it is tried again, and its epoch waits for it"
        );
    }

    /// What cannot be read now, in words.
    pub fn trouble(&self) -> Option<String> {
        self.lock().held.in_words(Instant::now())
    }

    /// How long a frame that cannot be read is tried again.
    pub fn set_patience(&self, patience: Patience) {
        self.lock().held.patience = patience;
    }

    /// Waits until there is an unsent frame, something changes, or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        let inner = self.lock();
        if inner.oldest_unsent().is_none() {
            let now = Instant::now();
            let next = inner.held.next(now).map(|next| next.saturating_duration_since(now));
            let timeout = next.map_or(timeout, |next| next.min(timeout));
            // The answer does not matter: the caller looks again.
            drop(self.changed.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits until every frame that can be read is acknowledged, at most `timeout`; true when it is so.
    pub fn wait_until_sent(&self, timeout: Duration) -> bool {
        let unsent = |inner: &mut Inner| inner.oldest_unsent().is_some();
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, unsent);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Ends every [`Spool::wait`] that is under way.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Ticks that became no frame, to be declared by the next one.
    pub fn declare_missed(&self, missed: MissedTicks) {
        self.lock().index.declarations.missed(missed);
    }

    /// Declarations of an earlier run that Kafka is not known to have heard.
    pub fn take_over(&self, lost: &[LostRange], missed: &[MissedTicks]) {
        self.lock().index.declarations.take_over(lost, missed);
    }

    /// What the next frame has to declare: everything that Kafka has not confirmed to have heard.
    pub fn declarations(&self) -> (Vec<LostRange>, Vec<MissedTicks>) {
        self.lock().index.declarations.for_next_frame()
    }

    /// Whether the next frame should be a key, so that what waits can be dropped in groups.
    pub fn wants_key(&self) -> bool {
        self.lock().index.wants_key
    }

    /// How much waits.
    pub fn state(&self) -> SpoolState {
        let inner = self.lock();
        let (unsent_frames, unsent_bytes) = inner.index.unsent();
        SpoolState {
            unsent_frames,
            unsent_bytes,
            dropped_frames: inner.index.dropped_frames,
            memory_only: inner.memory_only,
        }
    }

    /// Frames that wait in memory, and their bytes.
    pub fn in_memory(&self) -> (u64, u64) {
        self.lock().index.unsent_in_memory()
    }

    /// New limits, from the next frame on.
    pub fn set_limits(&self, settings: config::Spool) {
        self.lock().settings = settings;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock panics; if it did, every field is still a valid value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn oldest_unsent(&self) -> Option<FrameId> {
        let now = Instant::now();
        self.index.oldest_unsent(|epoch| self.held.holds(epoch, now))
    }
}

/// What the spool may take now: its quota, and less when the file system has less than the floor left.
fn room(settings: &config::Spool, used: u64, free: Option<u64>) -> u64 {
    let left = free.map_or(u64::MAX, |free| used.saturating_add(free).saturating_sub(settings.free_bytes_min));
    settings.bytes_max.min(left)
}
