//! Finding the snapshot that a question is about.
//!
//! The newest snapshot of a host is in memory, or where memory says it lies. An older one is searched for in the
//! archive by its columns alone; then one key and one delta are read.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edr_wire::frame::{Frame, FrameKind};
use edr_wire::snapshot::SnapshotView;
use edr_wire::{Epoch, HostId};

use tokio::sync::Semaphore;

use super::cache::{Cache, Identity};
use super::table::time_text;
use super::{Answers, HostRow, HostSnapshot, Joined, QueryError};
use crate::archive::{ArchiveError, ArchivedHeader, Cut, Found, HostsTable, Reader};
use crate::newest::{Current, Known, Newest, catch_up, facts};

/// How long one question may go back from frame to frame that cannot be read, unless somebody says otherwise.
const SEARCH_MAX: Duration = Duration::from_secs(10);
/// Snapshots opened at a time, each at a cost of 96 MiB at most, whoever asks for them.
const OPENS_MAX: usize = 2;
/// Candidates whose frames are looked for together.
const TOGETHER: usize = 32;
/// How far from a frame, by the clock of its host, other contents of it are looked for: what is further away by its own
/// word is not compared.
const CONFLICT_NS: i64 = 3_600_000_000_000;

/// All whole cuts of some frames, by epoch and sequence number, each frame's in the order in which they became whole.
type Cuts = HashMap<(Epoch, u64), Vec<Found>>;

/// Answers from memory and archive.
#[derive(Debug)]
pub struct HostAnswers {
    newest: Arc<Newest>,
    reader: Arc<Reader>,
    cache: Cache,
    search_max: Duration,
    opens: Arc<Semaphore>,
    trouble: Mutex<Option<String>>,
}

impl HostAnswers {
    /// Answers for a daemon, which fills `newest` itself.
    pub fn new(newest: Arc<Newest>, reader: Arc<Reader>) -> Self {
        Self {
            newest,
            reader,
            cache: Cache::default(),
            search_max: SEARCH_MAX,
            opens: Arc::new(Semaphore::new(OPENS_MAX)),
            trouble: Mutex::default(),
        }
    }

    /// One question may go back from frame to frame that cannot be read for so long.
    #[must_use]
    pub fn searching_for(mut self, search_max: Duration) -> Self {
        self.search_max = search_max;
        self
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
        catch_up(&answers.newest, &answers.reader, hosts.as_mut(), &|| {}).await?;
        Ok(answers)
    }

    /// Computes facts for hosts whose newest frame has none yet, until there is no such host.
    pub async fn refresh_facts(&self) {
        while let Some(current) = self.newest.next_stale() {
            let saved = current.newest.saved.clone();
            let host_id = current.host_id;
            let opened = self.open_current(current).await;
            let facts = match &opened {
                Ok(snapshot) => match other_host(host_id, &snapshot.view) {
                    Some(alarm) => Err(alarm),
                    None => facts(&snapshot.view).map_err(|error| error.to_string()),
                },
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
        let saved = &current.newest.saved;
        let identity = (current.host_id, saved.epoch, saved.seq, saved.raw_hash, current.conflict);
        if let Some(snapshot) = self.cache.get(&identity) {
            return Ok(snapshot);
        }
        let newest = self.body(current.host_id, &current.newest).await?;
        match (newest.header.kind, &current.key) {
            (FrameKind::Key, _) => self.open(&newest, None, saved.received_ns, identity).await,
            (FrameKind::Delta, Some(key)) => {
                let key = self.body(current.host_id, key).await?;
                self.open(&newest, Some(key), saved.received_ns, identity).await
            }
            (FrameKind::Delta, None) => {
                self.open_with_keys(&newest, &mut Cuts::new(), saved.received_ns, identity).await
            }
        }
    }

    /// The frame itself: from memory, or from where it lies.
    async fn body(&self, host_id: HostId, known: &Known) -> Result<Arc<Frame>, QueryError> {
        if let Some(frame) = &known.frame {
            return Ok(Arc::clone(frame));
        }
        let saved = &known.saved;
        let is_it = |raw_hash: &[u8; 32]| raw_hash.starts_with(&saved.raw_hash);
        // None are kept of a frame of many parts.
        let there = if saved.places.is_empty() { None } else { self.reader.frame(&saved.places).await.ok() };
        match there {
            Some(frame)
                if frame.header.host_id == host_id && frame.header.seq == saved.seq && is_it(&frame.raw_hash) =>
            {
                return Ok(Arc::new(frame));
            }
            _ => {}
        }
        // Another collector archived it, so it was received at another time.
        let found = self.reader.frame_of(host_id, saved.epoch, saved.seq, saved.captured_ns).await.map_err(archive)?;
        let found = found.iter().find(|found| is_it(&found.header.raw_hash));
        let found = found.ok_or_else(|| absent(host_id, saved.epoch, saved.seq))?;
        Ok(Arc::new(self.read(found).await?))
    }

    async fn read(&self, found: &Found) -> Result<Frame, QueryError> {
        self.reader.found(found).await.map_err(archive)
    }

    /// Opens a delta with whichever content of its key fits: its own hash tells.
    async fn open_with_keys(
        &self,
        delta: &Arc<Frame>,
        cuts: &mut Cuts,
        received_ns: i64,
        identity: Identity,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let header = &delta.header;
        let frame = (header.epoch, header.base_seq);
        if cuts.get(&frame).is_none_or(Vec::is_empty) {
            let found = self.reader.frame_of(header.host_id, frame.0, frame.1, header.captured_ns).await;
            cuts.insert(frame, found.map_err(archive)?);
        }
        let mut first_error = None;
        for key in cuts.get(&frame).into_iter().flatten().filter(|key| key.header.kind == FrameKind::Key) {
            let opened = match self.read(key).await {
                Ok(key) => self.open(delta, Some(Arc::new(key)), received_ns, identity).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        Err(first_error.unwrap_or_else(|| absent(header.host_id, frame.0, frame.1)))
    }

    /// Decompresses and checks, on a thread that may block.
    async fn open(
        &self,
        frame: &Arc<Frame>,
        key: Option<Arc<Frame>>,
        received_ns: i64,
        identity: Identity,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let place = Arc::clone(&self.opens).acquire_owned().await;
        let place = place.map_err(|error| QueryError::Archive(format!("open a snapshot: {error}")))?;
        let (frame, conflict) = (Arc::clone(frame), identity.4);
        let opening = tokio::task::spawn_blocking(move || {
            // Held until it is done, even when nobody waits for it any more.
            let _place = place;
            let key_raw = key.map(|key| key.open(None)).transpose().map_err(|error| error.to_string())?;
            let raw = frame.open(key_raw.as_deref()).map_err(|error| error.to_string())?;
            drop(key_raw);
            let view = SnapshotView::parse(raw).map_err(|error| error.to_string())?;
            let header = &frame.header;
            let contents = conflict.then(|| {
                format!(
                    "frame {} of epoch {} came with other contents too; this is the one that was complete first, of those that can be read",
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
                view,
                joined: Joined::default(),
            })
        });
        let opened = opening.await.map_err(|error| QueryError::Archive(format!("open a snapshot: {error}")))?;
        let snapshot = Arc::new(opened.map_err(QueryError::Archive)?);
        self.cache.put(identity, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The last snapshot of a host taken at or before a moment. Of a frame that came with several contents, the one that
    /// was complete first counts: no later one replaces it, whatever moment it claims.
    async fn at(&self, host_id: HostId, at_ns: i64) -> Result<Arc<HostSnapshot>, QueryError> {
        let deadline = Instant::now() + self.search_max;
        let (mut below, mut tried, mut first_error) = (None, 0_u64, None);
        let mut settled: HashMap<(Epoch, u64), Option<Cut>> = HashMap::new();
        loop {
            let candidates = self.reader.last_before(host_id, at_ns, below.as_ref()).await.map_err(archive)?;
            for some in candidates.found.chunks(TOGETHER) {
                let mut cuts = self.cuts_near(host_id, some).await?;
                for candidate in some {
                    if Instant::now() >= deadline {
                        return Err(self.used_up(host_id, tried, candidate.header.captured_ns));
                    }
                    let (frame, wanted) = (number(&candidate.header), candidate.header.cut());
                    if settled.get(&frame).is_some_and(|first| *first != Some(wanted)) {
                        continue;
                    }
                    let contents = cuts.get(&frame).cloned().unwrap_or_default();
                    let conflict = contents.iter().any(|found| found.header.raw_hash != candidate.header.raw_hash);
                    let mut first = None;
                    for found in &contents {
                        match self.open_found(found, &mut cuts, conflict).await {
                            Ok(snapshot) if found.header.cut() == wanted => return Ok(snapshot),
                            Ok(_) => {
                                first = Some(found.header.cut());
                                break;
                            }
                            Err(error) => {
                                tried += 1;
                                first_error.get_or_insert(error);
                            }
                        }
                        if Instant::now() >= deadline {
                            break;
                        }
                    }
                    settled.insert(frame, first);
                }
            }
            match candidates.rest {
                Some(rest) if Instant::now() >= deadline => {
                    return Err(self.used_up(host_id, tried, rest.captured_ns));
                }
                Some(rest) => below = Some(rest),
                None => break,
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

    fn used_up(&self, host_id: HostId, tried: u64, captured_ns: i64) -> QueryError {
        QueryError::Budget(format!(
            "{tried} frames of host {host_id} cannot be read, and the {:?} for one question are used up; what lies before \
             {} UTC was not looked at: ask for that moment",
            self.search_max,
            time_text(captured_ns)
        ))
    }

    /// All contents of these frames and of the keys they need, as far as they are near by the host's clock.
    async fn cuts_near(&self, host_id: HostId, frames: &[Found]) -> Result<Cuts, QueryError> {
        let mut wanted = BTreeSet::new();
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for header in frames.iter().map(|found| &found.header) {
            wanted.extend([number(header), (header.epoch, header.base_seq)]);
            least = least.min(header.captured_ns);
            most = most.max(header.captured_ns);
        }
        let range = least.saturating_sub(CONFLICT_NS)..=most.saturating_add(CONFLICT_NS);
        self.reader.frames_of(host_id, &wanted, Some(range)).await.map_err(archive)
    }

    async fn open_found(
        &self,
        found: &Found,
        cuts: &mut Cuts,
        conflict: bool,
    ) -> Result<Arc<HostSnapshot>, QueryError> {
        let header = &found.header;
        let mut hash = [0; 16];
        hash.copy_from_slice(&header.raw_hash[..16]);
        let identity = (header.host_id, header.epoch, header.seq, hash, conflict);
        if let Some(snapshot) = self.cache.get(&identity) {
            return Ok(snapshot);
        }
        let frame = Arc::new(self.read(found).await?);
        match frame.header.kind {
            FrameKind::Key => self.open(&frame, None, found.received_ns(), identity).await,
            FrameKind::Delta => self.open_with_keys(&frame, cuts, found.received_ns(), identity).await,
        }
    }
}

impl Answers for HostAnswers {
    async fn hosts(&self) -> Result<Vec<HostRow>, QueryError> {
        Ok(self.newest.rows())
    }

    async fn host(&self, host_id: HostId) -> Result<Option<HostRow>, QueryError> {
        Ok(self.newest.row(host_id))
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

/// Epoch and sequence number.
fn number(header: &ArchivedHeader) -> (Epoch, u64) {
    (header.epoch, header.seq)
}

fn absent(host_id: HostId, epoch: Epoch, seq: u64) -> QueryError {
    QueryError::Archive(format!("frame {seq} of epoch {epoch} of host {host_id} is not in the archive"))
}

/// What is wrong when a snapshot says that it is of another host than the frame around it.
fn other_host(host_id: HostId, view: &SnapshotView) -> Option<String> {
    let claimed = view.host().ok()?.host_id;
    (claimed != host_id).then(|| format!("its content says that it is of another host, {claimed}"))
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

    /// Answers that a loaded machine does not run out of time for.
    async fn open(archive: &Path) -> HostAnswers {
        HostAnswers::from_archive(archive).await.unwrap().searching_for(Duration::from_secs(300))
    }

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

        let answers = open(dir.path()).await;
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
        let first = open(dir.path()).await;
        first.refresh_facts().await;
        let mut hosts = HostsTable::open(dir.path()).await.unwrap();
        let until = 32 * SECOND_NS;
        let coverage: Coverage = BTreeMap::from([(partition(0), (next, until))]);
        hosts.save(&first.newest.save(|_| true), &coverage).await.unwrap();

        // Afterwards one more delta of the saved host, whose key was received before the save.
        let bytes = records(&delta(1, 4, 1), &raw(1, 2), Some(&raw(1, 1)), 1 << 20).remove(0);
        let late = row(0, next, until, &bytes);
        frames.append(&[late], &BTreeMap::from([(partition(0), next + 1)])).await.unwrap();

        let second = open(dir.path()).await;
        assert_eq!(second.hosts().await.unwrap()[0].hostname, "host-1", "before anything was opened");
        assert_eq!(processes(&second, "host-1", None).await, 2);
        // Without the rows that were saved all is read again, to the same end.
        std::fs::remove_dir_all(dir.path().join("hosts")).unwrap();
        let third = open(dir.path()).await;
        assert_eq!(third.newest.save(|_| true).len(), 1);
        assert_eq!(third.newest.save(|_| true)[0].newest, second.newest.save(|_| true)[0].newest);
    }

    /// Archives records of partition 0 from `offset` on, received one a nanosecond from `received_ns` on.
    async fn archive_records(frames: &mut Frames, offset: i64, received_ns: i64, bytes: &[Vec<u8>]) -> i64 {
        let rows: Vec<_> = bytes.iter().zip(0..).map(|(bytes, n)| row(0, offset + n, received_ns + n, bytes)).collect();
        let next = offset + rows.len() as i64;
        frames.append(&rows, &BTreeMap::from([(partition(0), next)])).await.unwrap();
        next
    }

    #[tokio::test]
    async fn no_later_content_replaces_the_first_one_and_every_moment_says_that_there_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let mut next = archive_three(&mut frames, 1, 0).await;
        // Afterwards, other contents of frame 2: at the same moment, a little later, and in many more tries.
        let forgeries: Vec<Vec<u8>> = (0..24)
            .flat_map(|n| {
                let forged = FrameHeader { captured_ns: (20 + n / 8) * SECOND_NS, ..header(1, 2) };
                let mut snapshot = sample();
                snapshot.host.host_id = HostId([1; 16]);
                snapshot.host.hostname = format!("forged-{n}");
                records(&forged, &rmp_serde::to_vec_named(&snapshot).unwrap(), None, 1 << 20)
            })
            .collect();
        next = archive_records(&mut frames, next, 60 * SECOND_NS, &forgeries).await;
        // And one that is of another host by its own word, under a number that is free.
        let stranger = FrameHeader { captured_ns: 25 * SECOND_NS, epoch: Epoch([7; 8]), ..header(1, 1) };
        archive_records(&mut frames, next, 70 * SECOND_NS, &records(&stranger, &raw(2, 1), None, 1 << 20)).await;

        let answers = open(dir.path()).await;
        let id = HostId([1; 16]).to_string();
        for at in 20..25 {
            let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
            assert_eq!((snapshot.seq, snapshot.view.host().unwrap().hostname.as_str()), (2, "host-1"), "at {at} s");
            assert!(snapshot.alarms[0].starts_with("frame 2 of epoch 0101010101010101 came with other contents too"));
        }
        assert_eq!(answers.snapshot(&id, Some(15 * SECOND_NS)).await.unwrap().alarms, [""; 0]);
        let other = answers.snapshot(&id, Some(26 * SECOND_NS)).await.unwrap();
        assert_eq!(other.alarms, [format!("its content says that it is of another host, {}", HostId([2; 16]))]);
    }

    #[tokio::test]
    async fn records_that_came_later_hide_no_frame_however_many_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let mut next = archive_three(&mut frames, 1, 0).await;
        // Incomplete contents of key and delta, and of frames that nobody sent, at the moments before the question.
        let first_part = |header: &FrameHeader, n: usize| {
            let mut raw = raw(1, 1);
            raw.extend_from_slice(&n.to_le_bytes());
            records(header, &raw, None, 64).swap_remove(0)
        };
        let junk: Vec<Vec<u8>> = (0..300)
            .flat_map(|n| {
                let free = FrameHeader { epoch: Epoch([8; 8]), captured_ns: 29 * SECOND_NS, ..header(1, 1 + n as u64) };
                [first_part(&header(1, 1), n), first_part(&header(1, 2), n), first_part(&free, n)]
            })
            .collect();
        next = archive_records(&mut frames, next, 60 * SECOND_NS, &junk).await;
        // Whole ones that cannot be read: deltas of a key that is not there.
        let orphans: Vec<Vec<u8>> = (0..9)
            .flat_map(|n| {
                let orphan = FrameHeader { captured_ns: 28 * SECOND_NS, epoch: Epoch([9; 8]), ..delta(1, 5 + n, 4) };
                records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20)
            })
            .collect();
        archive_records(&mut frames, next, 70 * SECOND_NS, &orphans).await;

        let answers = open(dir.path()).await;
        let id = HostId([1; 16]).to_string();
        for (at, expected) in [(15, 1), (20, 2), (29, 2)] {
            let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
            assert_eq!((snapshot.epoch, snapshot.view.process_count()), (Epoch([1; 8]), expected), "at {at} s");
        }
    }

    #[tokio::test]
    async fn a_frame_sent_again_in_other_parts_is_read_whichever_of_them_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let key = raw(1, 1);
        let cut = |part_bytes| records(&header(1, 1), &key, None, part_bytes);
        let (large, small) = (cut(256), cut(64));
        assert!(large.len() > 1 && small.len() > large.len());
        let next = archive_records(&mut frames, 0, SECOND_NS, &large[1..2]).await;
        let next = archive_records(&mut frames, next, 2 * SECOND_NS, &small).await;
        let deltas = records(&delta(1, 2, 1), &raw(1, 2), Some(&key), 1 << 20);
        archive_records(&mut frames, next, 3 * SECOND_NS, &deltas).await;
        let answers = open(dir.path()).await;
        let id = HostId([1; 16]).to_string();
        for (at, expected) in [(15, 1), (20, 2)] {
            let snapshot = answers.snapshot(&id, Some(at * SECOND_NS)).await.unwrap();
            assert_eq!((snapshot.view.process_count(), snapshot.alarms.len()), (expected, 0), "at {at} s");
        }
    }

    #[tokio::test]
    async fn a_newest_frame_that_cannot_be_read_is_named_and_the_one_before_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let next = archive_three(&mut frames, 1, 0).await;
        // A delta of a key that never came.
        let orphan = FrameHeader { epoch: Epoch([9; 8]), ..delta(1, 5, 4) };
        let bytes = records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20).remove(0);
        frames
            .append(&[row(0, next, 60 * SECOND_NS, &bytes)], &BTreeMap::from([(partition(0), next + 1)]))
            .await
            .unwrap();
        let answers = open(dir.path()).await;
        answers.refresh_facts().await;
        let row = answers.hosts().await.unwrap().remove(0);
        assert!(row.alarms[0].contains("(seq 5) cannot be read: frame 4 of epoch 0909"), "{:?}", row.alarms);
        assert_eq!(answers.snapshot(&row.host_id.to_string(), None).await.unwrap().seq, 3);
    }
    #[tokio::test]
    async fn a_search_that_runs_out_of_time_says_where_to_go_on_and_goes_on_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::open(dir.path()).await.unwrap();
        frames.position(&partition(0)).await.unwrap();
        let next = archive_three(&mut frames, 1, 0).await;
        // Deltas of a key that never came, all after the question's answer.
        let orphans: Vec<Vec<u8>> = (0..5)
            .flat_map(|n| {
                let captured_ns = (40 + n as i64) * SECOND_NS;
                let orphan = FrameHeader { captured_ns, epoch: Epoch([9; 8]), ..delta(1, 5 + n, 4) };
                records(&orphan, &raw(1, 1), Some(&raw(1, 2)), 1 << 20)
            })
            .collect();
        archive_records(&mut frames, next, 70 * SECOND_NS, &orphans).await;

        let answers = open(dir.path()).await.searching_for(Duration::ZERO);
        let id = HostId([1; 16]).to_string();
        let used_up = answers.snapshot(&id, Some(43 * SECOND_NS)).await.unwrap_err();
        assert!(matches!(used_up, QueryError::Budget(_)), "{used_up}");
        assert_eq!(
            used_up.to_string(),
            format!(
                "0 frames of host {id} cannot be read, and the 0ns for one question are used up; what lies before \
                 1970-01-01 00:00:43 UTC was not looked at: ask for that moment"
            )
        );
        let answers = answers.searching_for(Duration::from_secs(300));
        assert_eq!(answers.snapshot(&id, Some(43 * SECOND_NS)).await.unwrap().seq, 3);
    }
}
