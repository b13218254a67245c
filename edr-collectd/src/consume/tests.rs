//! Tests of the stages `commit`, `publish` and `derive` with a real archive, in the place of `poll`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edr_archive::ReceivedRecord;
use edr_archive::testing::{header, partition, records, row};
use edr_wire::HostId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::batch::{Batch, Filling};
use super::client::{PartitionEnds, TopicEnds};
use super::logs::Log;
use super::message::{CommitOrder, Reply, StartOrder};
use super::*;

const TOPIC: &str = "edr.snapshots";

/// The stages after `poll`.
struct Stages {
    orders: mpsc::Sender<CommitOrder>,
    replies: mpsc::Receiver<Reply>,
    newest: Arc<Newest>,
    progress: watch::Receiver<Progress>,
    tasks: Vec<JoinHandle<()>>,
}

impl Stages {
    /// Makes the stages with an archive in this folder.
    async fn new(archive: &Path) -> Self {
        let (orders, inbox) = mpsc::channel(BATCHES_WAITING);
        let (committed, archived) = mpsc::channel(BATCHES_WAITING);
        let (sender, replies) = mpsc::channel(REPLIES_WAITING);
        let (coverage, published) = watch::channel(PublishedPositions::default());
        let (reports, progress) = watch::channel(Progress::default());
        let (newest, reader) = (Arc::new(Newest::default()), Arc::new(Reader::new(archive)));
        let vitals = Arc::new(Vitals::default());
        let commit = Commit {
            inbox,
            frames: Frames::open(archive).await.unwrap(),
            reader: Arc::clone(&reader),
            publish: committed,
            replies: sender.clone(),
            is_discarding: false,
            progress: reports.clone(),
            vitals: Arc::clone(&vitals),
        };
        let publish = Publish {
            inbox: archived,
            newest: Arc::clone(&newest),
            reader,
            saved: HostsTable::open(archive).await.unwrap(),
            coverage,
            replies: sender,
            progress: reports,
            vitals: Arc::clone(&vitals),
        };
        let derived = DerivedTables::open(archive).await.unwrap();
        let derive = Derive::new(published, Arc::clone(&newest), derived, Schedule::default(), vitals);
        let (ending, ended) = watch::channel(false);
        let derive = async move {
            derive.run(ended).await;
            drop(ending);
        };
        let tasks = vec![tokio::spawn(commit.run()), tokio::spawn(publish.run()), tokio::spawn(derive)];
        Self { orders, replies, newest, progress, tasks }
    }

    /// Starts partition 0 at the end of the archive, and returns the log.
    async fn start(&mut self, round: u64) -> Log {
        let partitions = vec![PartitionEnds { partition: 0, low: 0, high: 1_000 }];
        let ends = TopicEnds { cluster: partition(0).cluster, partitions };
        let order = StartOrder { round, topic: TOPIC.to_owned(), ends, replaced: BTreeSet::new() };
        self.orders.send(CommitOrder::Start(order)).await.unwrap();
        match self.replies.recv().await.unwrap() {
            Reply::Started { round: answered, result } if answered == round => result.unwrap().remove(0),
            reply => panic!("{reply:?}"),
        }
    }

    async fn archive(&self, rows: impl IntoIterator<Item = ReceivedRecord>) {
        self.orders.send(CommitOrder::Archive(batch(rows))).await.unwrap();
    }

    /// Returns the sequence number of the newest frame that readers see.
    fn seen(&self) -> Option<u64> {
        self.newest.current(HostId([1; 16])).map(|current| current.newest.saved.frame.key.seq)
    }

    /// Waits until readers see this many archived records.
    async fn published(&mut self, count: u64) {
        self.progress.wait_for(|progress| progress.published == count).await.unwrap();
    }

    /// Ends the stages, as `poll` does at a stop.
    async fn end(self) -> Arc<Newest> {
        drop(self.orders);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.newest
    }
}

fn batch(rows: impl IntoIterator<Item = ReceivedRecord>) -> Batch {
    let mut filling = Filling::new(Duration::ZERO, usize::MAX);
    rows.into_iter().for_each(|row| {
        let next = row.offset + 1;
        filling.add(row, next);
    });
    filling.take()
}

/// Returns the record at `offset`: the key frame number `offset + 1` of host 1, with this content.
fn frame(offset: i64, raw: &[u8]) -> ReceivedRecord {
    let bytes = records(&header(1, offset as u64 + 1), raw, None, 1 << 20).remove(0);
    row(0, offset, now_ns(), &bytes)
}

#[tokio::test]
async fn a_refused_commit_is_never_visible_and_takes_all_later_records_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut stages = Stages::new(dir.path()).await;
    assert_eq!(stages.start(1).await, Log { partition: partition(0), next: 0, proof: None });
    stages.archive([frame(0, b"one")]).await;
    assert!(matches!(stages.replies.recv().await, Some(Reply::Archived { records: 1, .. })));
    stages.published(1).await;
    assert_eq!(stages.seen(), Some(1));

    // Another collector archives offsets 1 and 2 first; offset 1 has another content there.
    let mut rival = Frames::open(dir.path()).await.unwrap();
    rival.position(&partition(0)).await.unwrap();
    let theirs = [frame(1, b"theirs"), frame(2, b"theirs too")];
    rival.append(&theirs, &BTreeMap::from([(partition(0), 3)])).await.unwrap();

    stages.archive([frame(1, b"ours")]).await;
    stages.archive([frame(2, b"ours too")]).await;
    // The position of this batch is new to the archive. Without the records before, the batch must not be archived.
    stages.archive([frame(3, b"later")]).await;
    assert!(matches!(stages.replies.recv().await, Some(Reply::Refused)));
    assert_eq!(stages.seen(), Some(1));

    // The start comes after all three batches, and loads the records of the other collector.
    let log = stages.start(2).await;
    assert_eq!((log.next, log.proof.as_ref()), (3, theirs[1].record.as_ref()));
    assert_eq!(stages.seen(), Some(3));
    let current = stages.newest.current(HostId([1; 16])).unwrap();
    assert_eq!(current.newest.saved.frame.key, theirs[1].content.as_ref().unwrap().key);
    assert!(!current.conflict, "memory never had the refused contents");
    assert_eq!(stages.newest.rows()[0].alarms, Vec::<String>::new());

    stages.archive([frame(3, b"later")]).await;
    assert!(matches!(stages.replies.recv().await, Some(Reply::Archived { records: 1, .. })));
    stages.published(2).await;
    assert_eq!(stages.seen(), Some(4));
    stages.end().await;
}

#[tokio::test]
async fn a_failed_commit_becomes_visible_when_a_retry_has_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut stages = Stages::new(dir.path()).await;
    stages.start(1).await;
    // Without the log's folder the store can neither write nor read the table.
    let (log, away) = (dir.path().join("frames/_delta_log"), dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    std::fs::write(&log, b"no folder").unwrap();
    stages.archive([frame(0, b"one")]).await;
    let mut progress = stages.progress.clone();
    progress.wait_for(|progress| progress.archive_trouble.is_some()).await.unwrap();
    assert_eq!(stages.seen(), None);

    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&away, &log).unwrap();
    assert!(matches!(stages.replies.recv().await, Some(Reply::Archived { records: 1, .. })));
    stages.published(1).await;
    assert_eq!(stages.seen(), Some(1));
    assert_eq!(stages.progress.borrow().archive_trouble, None);
    stages.end().await;
}

#[tokio::test]
async fn an_end_saves_hosts_and_a_start_has_the_same_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut stages = Stages::new(dir.path()).await;
    stages.start(1).await;
    stages.archive([frame(0, b"one"), frame(1, b"two")]).await;
    // The stages finish their work although nobody reads the replies.
    let newest = stages.end().await;
    let saved = HostsTable::open(dir.path()).await.unwrap().load(&Default::default()).await.unwrap();
    assert_eq!(saved.hosts, newest.save(|_| true).hosts);
    assert_eq!(saved.hosts[0].newest.frame.key.seq, 2);

    let mut again = Stages::new(dir.path()).await;
    assert_eq!(again.start(1).await.next, 2);
    assert_eq!(again.newest.save(|_| true).hosts, saved.hosts);
    again.end().await;
}

#[test]
fn coverage_ends_with_the_last_record_even_when_the_clock_was_set_back() {
    let mut published = PublishedPositions::default();
    for received_ns in [10, 20, 20, 5, 6] {
        published.receive(received_ns);
    }
    assert_eq!((published.until_ns, published.set_back), (6, 1));
}
