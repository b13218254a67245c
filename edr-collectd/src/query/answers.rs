//! Finding the snapshot that a question is about.
//!
//! The newest snapshot of a host is in memory, or where memory says it lies. An older one is searched for in the
//! archive by its columns alone; then one key and one delta are read.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use edr_wire::HostId;
use edr_wire::frame::{Frame, FrameKind};
use edr_wire::snapshot::SnapshotView;

use super::cache::{Cache, Identity};
use super::table::time_text;
use super::{Answers, HostRow, HostSnapshot, Joined, QueryError};
use crate::archive::{ArchiveError, Found, HostsTable, Place, Reader, SavedFrame};
use crate::newest::{Current, Known, Newest, catch_up, facts};

/// Frames tried, newest first, when the last one before a moment cannot be read.
const TRIES_MAX: usize = 8;

/// Answers from memory and archive.
#[derive(Debug)]
pub struct HostAnswers {
    newest: Arc<Newest>,
    reader: Arc<Reader>,
    cache: Cache,
    trouble: Mutex<Option<String>>,
}

impl HostAnswers {
    /// Answers for a daemon, which fills `newest` itself.
    pub fn new(newest: Arc<Newest>, reader: Arc<Reader>) -> Self {
        Self { newest, reader, cache: Cache::default(), trouble: Mutex::default() }
    }

    /// What keeps the daemon from getting further; `None` when nothing does.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Answers for a command: from the archive in this folder, as it is now.
    ///
    /// # Errors
    /// When there is no archive, or it cannot be read.
    pub async fn from_archive(archive: &Path) -> Result<Self, ArchiveError> {
        let answers = Self::new(Arc::default(), Arc::new(Reader::new(archive)));
        let mut hosts = HostsTable::existing(archive).await?;
        catch_up(&answers.newest, &answers.reader, hosts.as_mut()).await?;
        Ok(answers)
    }

    /// Computes facts for hosts whose newest frame has none yet, until there is no such host.
    pub async fn refresh_facts(&self) {
        while let Some(current) = self.newest.next_stale() {
            let saved = current.newest.saved.clone();
            let host_id = current.host_id;
            let opened = self.open_current(current).await;
            let facts = match &opened {
                Ok(snapshot) => {
                    let claimed = snapshot.view.host().map(|host| host.host_id);
                    match facts(&snapshot.view) {
                        Ok(_) if claimed.is_ok_and(|claimed| claimed != host_id) => {
                            Err("its content says that it is of another host".to_owned())
                        }
                        other => other.map_err(|error| error.to_string()),
                    }
                }
                Err(error) => Err(error.to_string()),
            };
            self.newest.set_facts(host_id, &saved, facts);
        }
    }

    /// Waits until a host has a newer snapshot than its facts.
    pub async fn facts_are_stale(&self) {
        self.newest.stale().await;
    }

    /// Opens a host's newest snapshot.
    async fn open_current(&self, current: Current) -> Result<Arc<HostSnapshot>, QueryError> {
        let identity = identity(current.host_id, &current.newest.saved);
        if let Some(snapshot) = self.cache.get(&identity) {
            return Ok(snapshot);
        }
        let received_ns = current.newest.saved.received_ns;
        let newest = self.body(current.host_id, &current.newest).await?;
        let key = match (newest.header.kind, &current.key) {
            (FrameKind::Key, _) => None,
            (FrameKind::Delta, Some(key)) => Some(self.body(current.host_id, key).await?),
            (FrameKind::Delta, None) => Some(self.key_of(&newest).await?),
        };
        self.open(newest, key, received_ns, identity).await
    }

    /// The frame itself: from memory, or from where it lies.
    async fn body(&self, host_id: HostId, known: &Known) -> Result<Arc<Frame>, QueryError> {
        if let Some(frame) = &known.frame {
            return Ok(Arc::clone(frame));
        }
        let saved = &known.saved;
        match self.reader.frame(&saved.places).await {
            Ok(frame) if frame.header.host_id == host_id && frame.header.seq == saved.seq => Ok(Arc::new(frame)),
            // Another collector archived it, so it was received at another time.
            _ => self.search(host_id, saved.epoch, saved.seq, saved.captured_ns).await,
        }
    }

    async fn key_of(&self, delta: &Frame) -> Result<Arc<Frame>, QueryError> {
        let header = &delta.header;
        self.search(header.host_id, header.epoch, header.base_seq, header.captured_ns).await
    }

    async fn search(
        &self,
        host_id: HostId,
        epoch: edr_wire::Epoch,
        seq: u64,
        captured_ns: i64,
    ) -> Result<Arc<Frame>, QueryError> {
        let found = self.reader.frame_of(host_id, epoch, seq, captured_ns).await.map_err(archive)?;
        let found = found.ok_or_else(|| {
            QueryError::Archive(format!("frame {seq} of epoch {epoch} of host {host_id} is not in the archive"))
        })?;
        Ok(Arc::new(self.read(&found).await?))
    }

    async fn read(&self, found: &Found) -> Result<Frame, QueryError> {
        let places: Vec<Place> = found.places.values().copied().collect();
        self.reader.frame(&places).await.map_err(archive)
    }

    /// Decompresses and checks, on a thread that may block.
    async fn open(
        &self,
        frame: Arc<Frame>,
        key: Option<Arc<Frame>>,
        received_ns: i64,
        identity: Identity,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let opening = tokio::task::spawn_blocking(move || {
            let key_raw = key.map(|key| key.open(None)).transpose().map_err(|error| error.to_string())?;
            let raw = frame.open(key_raw.as_deref()).map_err(|error| error.to_string())?;
            drop(key_raw);
            let view = SnapshotView::parse(raw).map_err(|error| error.to_string())?;
            let header = &frame.header;
            Ok::<_, String>(HostSnapshot {
                host_id: header.host_id,
                epoch: header.epoch,
                seq: header.seq,
                captured_ns: header.captured_ns,
                received_ns,
                view,
                joined: Joined::default(),
            })
        });
        let opened = opening.await.map_err(|error| QueryError::Archive(format!("open a snapshot: {error}")))?;
        let snapshot = Arc::new(opened.map_err(QueryError::Archive)?);
        self.cache.put(identity, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The last snapshot of a host taken at or before a moment.
    async fn at(&self, host_id: HostId, at_ns: i64) -> Result<Arc<HostSnapshot>, QueryError> {
        let found = self.reader.last_before(host_id, at_ns).await.map_err(archive)?;
        let mut first_error = None;
        for found in found.iter().take(TRIES_MAX) {
            match self.open_found(found).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let first = self.reader.first_captured_ns(host_id).await.map_err(archive)?;
        Err(QueryError::NothingThen {
            host: host_id.to_string(),
            at: format!("{} UTC", time_text(at_ns)),
            first: first.map_or_else(|| "not archived yet".to_owned(), |first| format!("{} UTC", time_text(first))),
        })
    }

    async fn open_found(&self, found: &Found) -> Result<Arc<HostSnapshot>, QueryError> {
        let header = &found.header;
        let mut hash = [0; 16];
        hash.copy_from_slice(&header.raw_hash[..16]);
        let identity = (header.host_id, header.epoch, header.seq, hash);
        if let Some(snapshot) = self.cache.get(&identity) {
            return Ok(snapshot);
        }
        let frame = Arc::new(self.read(found).await?);
        let key = match frame.header.kind {
            FrameKind::Key => None,
            FrameKind::Delta => Some(self.key_of(&frame).await?),
        };
        self.open(frame, key, found.received_ns(), identity).await
    }
}

impl Answers for HostAnswers {
    async fn hosts(&self) -> Result<Vec<HostRow>, QueryError> {
        Ok(self.newest.rows())
    }

    async fn snapshot(&self, host: &str, at_ns: Option<i64>) -> Result<Arc<HostSnapshot>, QueryError> {
        let host_id = self.newest.resolve(host)?;
        let current = self.newest.current(host_id).ok_or_else(|| QueryError::UnknownHost(host.to_owned()))?;
        match at_ns {
            Some(at_ns) if at_ns < current.newest.saved.captured_ns => self.at(host_id, at_ns).await,
            _ => match self.open_current(current).await {
                Ok(snapshot) => Ok(snapshot),
                // Better the last one that can be read, with its own time, than none.
                Err(error) => self.at(host_id, at_ns.unwrap_or(i64::MAX)).await.map_err(|_| error),
            },
        }
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn changes(&self) -> tokio::sync::broadcast::Receiver<HostId> {
        self.newest.changes()
    }
}

fn identity(host_id: HostId, saved: &SavedFrame) -> Identity {
    (host_id, saved.epoch, saved.seq, saved.raw_hash)
}

fn archive(error: ArchiveError) -> QueryError {
    QueryError::Archive(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::archive::testing::{delta, header, partition, records, row};
    use crate::archive::{Coverage, Frames};
    use crate::query::table::tests::sample;
    use edr_wire::frame::FrameHeader;

    const SECOND_NS: i64 = 1_000_000_000;

    /// The raw snapshot of a host that has this many processes.
    fn raw(n: u8, processes: usize) -> Vec<u8> {
        let mut snapshot = sample();
        snapshot.host.host_id = HostId([n; 16]);
        snapshot.host.hostname = format!("host-{n}");
        snapshot.processes.truncate(processes);
        rmp_serde::to_vec_named(&snapshot).unwrap()
    }

    /// Archives three frames of a host: a key with 1 process, a delta with 2, a delta with 3; one every 10 s.
    async fn archive_three(frames: &mut Frames, n: u8, offset: i64) -> i64 {
        let key_raw = raw(n, 1);
        let mut rows = Vec::new();
        for seq in 1..=3_u64 {
            let header = if seq == 1 { header(n, 1) } else { delta(n, seq, 1) };
            let raw = raw(n, usize::try_from(seq).unwrap());
            let key_raw = (seq > 1).then_some(key_raw.as_slice());
            for bytes in records(&header, &raw, key_raw, 256) {
                let offset = offset + rows.len() as i64;
                rows.push(row(0, offset, header.captured_ns + SECOND_NS, &bytes));
            }
        }
        let next = offset + rows.len() as i64;
        frames.append(&rows, &BTreeMap::from([(partition(0), next)])).await.unwrap();
        next
    }

    async fn processes(answers: &HostAnswers, host: &str, at_ns: Option<i64>) -> usize {
        answers.snapshot(host, at_ns).await.unwrap().view.process_count()
    }

    #[tokio::test]
    async fn a_command_answers_from_the_archive_alone_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(HostAnswers::from_archive(dir.path()).await, Err(ArchiveError::Missing(_))));
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let next = archive_three(&mut frames, 1, 0).await;
        archive_three(&mut frames, 2, next).await;

        let answers = HostAnswers::from_archive(dir.path()).await.unwrap();
        let id = HostId([1; 16]).to_string();
        assert_eq!(processes(&answers, &id, None).await, 3);
        for (at, expected) in [(10, 1), (15, 1), (20, 2), (29, 2), (30, 3), (10_000, 3)] {
            assert_eq!(processes(&answers, &id, Some(at * SECOND_NS)).await, expected, "at {at} s");
        }
        let nothing = answers.snapshot(&id, Some(9 * SECOND_NS)).await.unwrap_err().to_string();
        assert_eq!(
            nothing,
            format!(
                "no snapshot of {id} at or before 1970-01-01 00:00:09 UTC; its first one is of 1970-01-01 00:00:10 UTC"
            )
        );
        answers.refresh_facts().await;
        let rows = answers.hosts().await.unwrap();
        assert_eq!(rows.iter().map(|row| row.hostname.as_str()).collect::<Vec<_>>(), ["host-1", "host-2"]);
        assert_eq!((rows[0].processes, rows[0].seq), (3, 3));
        assert_eq!(processes(&answers, "host-2", None).await, 3);
    }

    #[tokio::test]
    async fn a_start_reads_what_was_saved_and_what_came_since() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let next = archive_three(&mut frames, 1, 0).await;
        let first = HostAnswers::from_archive(dir.path()).await.unwrap();
        first.refresh_facts().await;
        let mut hosts = HostsTable::open(dir.path()).await.unwrap();
        let until = 32 * SECOND_NS;
        let coverage: Coverage = BTreeMap::from([(partition(0), (next, until))]);
        hosts.save(&first.newest.save(|_| true), &coverage).await.unwrap();

        // Afterwards one more delta of the saved host, whose key was received before the save.
        let bytes = records(&delta(1, 4, 1), &raw(1, 2), Some(&raw(1, 1)), 1 << 20).remove(0);
        let late = row(0, next, until, &bytes);
        frames.append(&[late], &BTreeMap::from([(partition(0), next + 1)])).await.unwrap();

        let second = HostAnswers::from_archive(dir.path()).await.unwrap();
        assert_eq!(second.hosts().await.unwrap()[0].hostname, "host-1", "before anything was opened");
        assert_eq!(processes(&second, "host-1", None).await, 2);
        // Without the rows that were saved all is read again, to the same end.
        std::fs::remove_dir_all(dir.path().join("hosts")).unwrap();
        let third = HostAnswers::from_archive(dir.path()).await.unwrap();
        assert_eq!(third.newest.save(|_| true).len(), 1);
        assert_eq!(third.newest.save(|_| true)[0].newest, second.newest.save(|_| true)[0].newest);
    }

    #[tokio::test]
    async fn a_newest_frame_that_cannot_be_read_is_named_and_the_one_before_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let next = archive_three(&mut frames, 1, 0).await;
        // A delta of a key that never came.
        let orphan = FrameHeader { epoch: edr_wire::Epoch([9; 8]), ..delta(1, 5, 4) };
        let bytes = records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20).remove(0);
        frames
            .append(&[row(0, next, 60 * SECOND_NS, &bytes)], &BTreeMap::from([(partition(0), next + 1)]))
            .await
            .unwrap();
        let answers = HostAnswers::from_archive(dir.path()).await.unwrap();
        answers.refresh_facts().await;
        let row = answers.hosts().await.unwrap().remove(0);
        assert!(row.alarms[0].contains("(seq 5) cannot be read: frame 4 of epoch 0909"), "{:?}", row.alarms);
        assert_eq!(answers.snapshot(&row.host_id.to_string(), None).await.unwrap().seq, 3);
    }
}
