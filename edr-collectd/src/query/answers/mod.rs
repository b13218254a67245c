//! Finds the snapshot for a question.
//!
//! The newest snapshot of a host, or its location, is in memory. An older snapshot is searched for in the archive by
//! columns alone; then one key and one delta are read.

mod back;
mod current;
mod failures;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edr_archive::{ArchiveError, DamagedFile, FoundFrame, HostsTable, Reader};
use edr_wire::frame::{Frame, FrameKey, FrameKind};
use edr_wire::snapshot::SnapshotView;
use edr_wire::{Epoch, HostId};
use tokio::sync::Semaphore;

use self::back::SearchBack;
use self::current::check;
use self::failures::Failures;
use super::cache::Cache;
use super::{HostRow, HostSnapshot, Joined, OmittedFrames, QueryError};
use crate::newest::{Newest, catch_up};

/// Default time limit for skipping unreadable frames in a question.
const SEARCH_MAX: Duration = Duration::from_secs(10);
/// Snapshots opened at the same time by all questions, each with at most 96 MiB of memory.
const OPENS_MAX: usize = 2;
/// Snapshots opened at the same time for the list of hosts, each with at most 96 MiB of memory.
const LIST_OPENS_MAX: usize = 1;
/// Distance, in ns of the host's clock, for the search for other contents of a frame. Contents further away are not
/// compared.
const CONFLICT_NS: i64 = 3_600_000_000_000;

/// Damaged files named as alarms of a snapshot.
const DAMAGED_ALARMS_MAX: usize = 8;
/// How long a frame counts as unreadable. A key frame may arrive after the deltas.
const UNREADABLE_FOR: Duration = Duration::from_secs(600);

/// All complete contents of some places, by epoch and sequence number; the contents of a place are in order of
/// completion.
type Contents = HashMap<(Epoch, u64), Vec<FoundFrame>>;

/// Answers from memory and archive.
#[derive(Debug)]
pub struct HostAnswers {
    newest: Arc<Newest>,
    reader: Arc<Reader>,
    cache: Cache,
    search_max: Duration,
    /// Places of [`Purpose::Question`].
    opens: Arc<Semaphore>,
    /// Places of [`Purpose::List`].
    list_opens: Arc<Semaphore>,
    /// Frames that could not be opened.
    failed_frames: Failures<FrameKey>,
    /// Hosts for which no readable snapshot was found.
    failed_searches: Failures<HostId>,
    trouble: Mutex<Option<String>>,
}

/// Why a snapshot is opened. Each purpose has its own limit, so that readers do not wait for the list of hosts, nor the
/// list for readers.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// A question of a reader.
    Question,
    /// The values of a host in the list of hosts.
    List,
}

/// A snapshot to open.
#[derive(Debug, Clone, Copy)]
struct Opening {
    frame: FrameKey,
    /// True when the frame was received with other contents too.
    conflict: bool,
    /// When the frame was received, ns since the epoch.
    received_ns: i64,
    purpose: Purpose,
}

impl HostAnswers {
    /// Makes the answers of a daemon, which fills `newest` itself.
    pub fn new(newest: Arc<Newest>, reader: Arc<Reader>) -> Self {
        Self {
            newest,
            reader,
            cache: Cache::default(),
            search_max: SEARCH_MAX,
            opens: Arc::new(Semaphore::new(OPENS_MAX)),
            list_opens: Arc::new(Semaphore::new(LIST_OPENS_MAX)),
            failed_frames: Failures::default(),
            failed_searches: Failures::default(),
            trouble: Mutex::default(),
        }
    }

    /// Sets the time limit for skipping unreadable frames in a question.
    #[must_use]
    pub fn searching_for(mut self, search_max: Duration) -> Self {
        self.search_max = search_max;
        self
    }

    /// Sets the failure that stops the daemon from receiving or archiving; `None` when there is no failure.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Makes the answers of a command, from the current state of the archive in this folder.
    ///
    /// # Errors
    /// When there is no archive, or the archive cannot be read.
    pub async fn from_archive(archive: &Path) -> Result<Self, ArchiveError> {
        let answers = Self::new(Arc::default(), Arc::new(Reader::new(archive)));
        let mut hosts = HostsTable::existing(archive).await?;
        catch_up(&answers.newest, &answers.reader, hosts.as_mut(), &|| {}).await?;
        Ok(answers)
    }

    /// Computes facts for hosts with stale facts, until the queue is empty.
    pub async fn refresh_facts(&self) {
        while self.refresh_next().await {}
    }

    /// Waits until a host may have stale facts.
    pub async fn facts_are_stale(&self) {
        self.newest.stale().await;
    }

    async fn read(&self, found: &FoundFrame) -> Result<Frame, QueryError> {
        self.reader.found(found).await.map_err(archive)
    }

    /// Opens a delta with the matching content of its key frame; the hash in the delta decides.
    async fn open_with_keys(
        &self,
        delta: &Arc<Frame>,
        contents: &mut Contents,
        opening: Opening,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let header = &delta.header;
        let place = (header.epoch, header.base_seq);
        if contents.get(&place).is_none_or(Vec::is_empty) {
            let found = self.reader.frame_of(header.host_id, place.0, place.1, header.captured_ns).await;
            contents.insert(place, found.map_err(archive)?);
        }
        let mut first_error = None;
        for key in contents.get(&place).into_iter().flatten().filter(|key| key.frame.kind == FrameKind::Key) {
            let opened = match self.read(key).await {
                Ok(key) => self.open(delta, Some(Arc::new(key)), opening).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        Err(first_error.unwrap_or_else(|| absent(header.host_id, place.0, place.1)))
    }

    /// Decompresses and checks a snapshot, on a thread that may block.
    async fn open(
        &self,
        frame: &Arc<Frame>,
        key: Option<Arc<Frame>>,
        opening: Opening,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let Opening { frame: wanted, conflict, received_ns, purpose } = opening;
        let places = match purpose {
            Purpose::Question => &self.opens,
            Purpose::List => &self.list_opens,
        };
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.map_err(|error| QueryError::Archive(format!("open a snapshot: {error}")))?;
        let frame = Arc::clone(frame);
        let opening = tokio::task::spawn_blocking(move || {
            // Held until the end, even when the question was abandoned.
            let _place = place;
            let key_raw = key.map(|key| key.open(None)).transpose().map_err(|error| error.to_string())?;
            let raw = frame.open(key_raw.as_deref()).map_err(|error| error.to_string())?;
            drop(key_raw);
            let view = SnapshotView::parse(raw).map_err(|error| error.to_string())?;
            // A snapshot that no page can show counts as unreadable.
            check(&view)?;
            let header = &frame.header;
            let contents = conflict.then(|| {
                format!(
                    "frame {} of epoch {} came with other contents too; this is the one that was complete first, of \
                    those that can be read",
                    header.seq, header.epoch
                )
            });
            Ok::<_, String>(HostSnapshot {
                host_id: header.host_id,
                epoch: header.epoch,
                seq: header.seq,
                captured_ns: header.captured_ns,
                received_ns,
                alarms: contents.into_iter().chain(other_host(header.host_id, &view)).collect(),
                view: Arc::new(view),
                joined: Arc::new(Joined::default()),
                account: Arc::default(),
            })
        });
        let opened = opening.await.map_err(|error| QueryError::Archive(format!("open a snapshot: {error}")))?;
        let snapshot = Arc::new(opened.map_err(QueryError::Unreadable)?);
        self.cache.put((wanted, conflict), Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Returns all contents of these frames and their key frames, within [`CONFLICT_NS`] by the host's clock.
    async fn contents_near(&self, host_id: HostId, frames: &VecDeque<FoundFrame>) -> Result<Contents, QueryError> {
        let mut wanted = BTreeSet::new();
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for frame in frames.iter().map(|found| &found.frame) {
            wanted.extend([frame.key.place(), (frame.key.epoch, frame.base_seq)]);
            least = least.min(frame.captured_ns);
            most = most.max(frame.captured_ns);
        }
        let range = least.saturating_sub(CONFLICT_NS)..=most.saturating_add(CONFLICT_NS);
        self.reader.frames_of(host_id, &wanted, Some(range)).await.map_err(archive)
    }

    async fn open_found(
        &self,
        found: &FoundFrame,
        contents: &mut Contents,
        conflict: bool,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let wanted = found.frame.key;
        if let Some(snapshot) = self.cache.get(&(wanted, conflict)) {
            return Ok(snapshot);
        }
        if let Some(reason) = self.failed_frames.get(&wanted) {
            return Err(QueryError::Unreadable(reason));
        }
        let received_ns = found.received_ns();
        let opening = Opening { frame: wanted, conflict, received_ns, purpose: Purpose::Question };
        let frame = Arc::new(self.read(found).await?);
        let opened = match frame.header.kind {
            FrameKind::Key => self.open(&frame, None, opening).await,
            FrameKind::Delta => self.open_with_keys(&frame, contents, opening).await,
        };
        if let Err(QueryError::Unreadable(reason)) = &opened {
            self.failed_frames.put(wanted, reason.clone(), UNREADABLE_FOR);
        }
        opened
    }
}

/// The questions, of the page and of the commands.
impl HostAnswers {
    /// Returns all hosts, sorted by name.
    pub fn hosts(&self) -> Vec<HostRow> {
        self.newest.rows()
    }

    /// Returns the id of a host. `host` is a host id or a host name.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn host_id(&self, host: &str) -> Result<HostId, QueryError> {
        self.newest.resolve(host)
    }

    /// Returns the entry of a host in the list of hosts.
    pub fn host(&self, host_id: HostId) -> Option<HostRow> {
        self.newest.row(host_id)
    }

    /// Returns the last snapshot of a host at or before `at_ns` (ns since the epoch); the newest for `None`. `host` is
    /// a host id or a host name.
    ///
    /// # Errors
    /// When there is no such host or snapshot, or the archive cannot be read in time.
    pub async fn snapshot(&self, host: &str, at_ns: Option<i64>) -> Result<Arc<HostSnapshot>, QueryError> {
        let host_id = self.newest.resolve(host)?;
        let Some(current) = self.newest.current(host_id) else {
            return self.snapshot_of_unlisted(host_id, at_ns).await;
        };
        let newest = current.newest.saved.frame;
        let past = at_ns.filter(|at_ns| *at_ns < newest.captured_ns || self.newest.has_early(host_id, *at_ns));
        let snapshot = match past {
            Some(at_ns) => SearchBack::new(self, host_id, at_ns).run().await?.0,
            None => self.newest_readable(current).await?,
        };
        self.newest.note_boot(&snapshot);
        // Account and damage change, a cached snapshot does not.
        let mut snapshot = HostSnapshot { account: self.newest.account(host_id), ..HostSnapshot::clone(&snapshot) };
        if past.is_none() && (snapshot.epoch, snapshot.seq) != newest.key.place() {
            let seq = snapshot.seq;
            snapshot.alarms.push(format!("this is the newest snapshot that can be read, seq {seq}; newer frames came"));
        }
        snapshot.alarms.extend(self.newest.doubt_of(host_id, (snapshot.epoch, snapshot.seq)));
        let id = host_id.to_string();
        let damaged = self.damaged_files().into_iter().filter(|file| file.may_have(&id));
        snapshot.alarms.extend(damaged.take(DAMAGED_ALARMS_MAX).map(|file| file.to_string()));
        Ok(Arc::new(snapshot))
    }

    /// Returns the last snapshot of a host that is not listed, at or before a moment.
    async fn snapshot_of_unlisted(&self, host_id: HostId, at_ns: Option<i64>) -> Result<Arc<HostSnapshot>, QueryError> {
        match SearchBack::new(self, host_id, at_ns.unwrap_or(i64::MAX)).run().await {
            Ok((snapshot, _)) => {
                let mut snapshot = HostSnapshot::clone(&snapshot);
                snapshot.alarms.push("the host is not in the list of hosts".to_owned());
                Ok(Arc::new(snapshot))
            }
            Err(QueryError::NothingThen { .. }) if at_ns.is_none() => Err(QueryError::UnknownHost(host_id.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Returns why the daemon receives or archives nothing; always `None` for a command.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what the list of hosts leaves out, with the damaged files of the archive.
    pub fn omitted(&self) -> OmittedFrames {
        let damaged_files = self.damaged_files().iter().map(ToString::to_string).collect();
        OmittedFrames { damaged_files, ..self.newest.omitted() }
    }

    /// Returns the damaged files of the archive that were found so far. Their rows are missing from the answers.
    pub fn damaged_files(&self) -> Vec<DamagedFile> {
        self.reader.damage().files()
    }

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    pub fn changes(&self) -> tokio::sync::broadcast::Receiver<HostId> {
        self.newest.changes()
    }
}

fn absent(host_id: HostId, epoch: Epoch, seq: u64) -> QueryError {
    QueryError::Unreadable(format!("frame {seq} of epoch {epoch} of host {host_id} is not in the archive"))
}

/// Returns an alarm when the snapshot names another host than its frame.
fn other_host(host_id: HostId, view: &SnapshotView) -> Option<String> {
    let claimed = view.host().ok()?.host_id;
    (claimed != host_id).then(|| format!("its content says that it is of another host, {claimed}"))
}

fn archive(error: ArchiveError) -> QueryError {
    QueryError::Archive(error.to_string())
}

#[cfg(test)]
mod damaged;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
