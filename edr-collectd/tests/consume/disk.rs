//! A full, hanging or slow disk delays neither the poll loop nor more of the archive than the disk makes necessary, and
//! readers see what is archived.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edr_archive::{ArchiveError, Coverage, SavedHosts};
use edr_collectd::consume::{DerivedStore, DerivedTables, Schedule};
use edr_wire::HostId;
use tokio::sync::watch;

use crate::frames::frames;
use crate::scene::{LIMIT, Scene, eventually, offsets, span};

/// A small file system, unmounted when the value is dropped.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    /// `None` when this process may not mount.
    fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "edr-test"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: mounting a small file system needs root");
        }
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_archive_and_loses_nothing() {
    let Some(scene) = Scene::new() else { return };
    let Some(disk) = SmallFileSystem::mount(scene.dir.path().join("disk")) else { return };
    let archive = disk.0.join("archive");
    scene.create_topic().await;
    let mut sent = frames(1, 1..=2);
    let archived = sent.len();
    scene.produce(0, &sent);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(sent.len() as u64).await;

    let filler = disk.0.join("filler");
    fill(&filler);
    for seq in 3..=6 {
        let more = frames(1, seq..=seq);
        scene.produce(0, &more);
        sent.extend(more);
    }
    let troubled = collector.progress.wait_for(|progress| progress.archive_trouble.is_some());
    let trouble = tokio::time::timeout(LIMIT, troubled).await.unwrap().unwrap().archive_trouble.clone().unwrap();
    assert!(trouble.contains("space"), "{trouble}");
    // Frames 3 to 6 are received, but not archived: readers see none of them, and are told so.
    let waiting = sent.len() - archived;
    let reached = collector.progress.wait_for(|progress| progress.waiting == waiting);
    let progress = tokio::time::timeout(LIMIT, reached).await.unwrap().unwrap().clone();
    let shown = progress.trouble().unwrap();
    assert!(shown.ends_with(&format!("; {waiting} received records wait for the archive and are not shown yet")));
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 2);
    // Kafka is polled in spite of a commit that is retried for ever.
    collector.polls_for(Duration::from_secs(3)).await;

    std::fs::remove_file(&filler).unwrap();
    collector.archived(sent.len() as u64).await;
    assert_eq!(collector.progress.borrow().trouble(), None);
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 6);

    // A stop in the middle of failures abandons the records; the next start reads them again.
    fill(&filler);
    let more = frames(1, 7..=8);
    scene.produce(0, &more);
    sent.extend(more.clone());
    let troubled = collector.progress.wait_for(|progress| progress.archive_trouble.is_some());
    drop(tokio::time::timeout(LIMIT, troubled).await.unwrap().unwrap());
    let begin = Instant::now();
    collector.stop().await;
    edr_tests::wait::within("a stop amid failures", Duration::from_secs(6), begin.elapsed()).unwrap();
    std::fs::remove_file(&filler).unwrap();
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(more.len() as u64).await;
    collector.stop().await;
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));
}

/// Writes a file until the disk is full.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

/// A file that hangs each reader until the value is dropped: a FIFO without a writer in the place of the file.
struct HangingFile {
    path: PathBuf,
    fifo: PathBuf,
    away: PathBuf,
}

impl HangingFile {
    fn new(path: PathBuf, dir: &Path) -> Self {
        let (fifo, away) = (dir.join("fifo"), dir.join("away"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::hard_link(&path, &away).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&fifo, &path).unwrap();
        Self { path, fifo, away }
    }
}

impl Drop for HangingFile {
    fn drop(&mut self) {
        let _ = std::fs::rename(&self.away, &self.path);
        // The opening of the other end lets the readers go on.
        let _ = std::fs::File::options().read(true).write(true).open(&self.fifo);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_hangs_does_not_hold_up_the_poll_loop_and_shows_nothing() {
    let Some(scene) = Scene::new() else { return };
    let archive = scene.archive();
    scene.create_topic().await;
    let mut sent = frames(1, 1..=1);
    scene.produce(0, &sent);
    let mut collector = scene.collector("one", &archive).await;
    collector.archived(sent.len() as u64).await;

    // A commit reads the newest entry of the table's log first.
    let log = std::fs::read_dir(archive.join("frames/_delta_log")).unwrap().map(|entry| entry.unwrap().path());
    let newest = log.filter(|path| path.extension().is_some_and(|extension| extension == "json")).max().unwrap();
    let hanging = HangingFile::new(newest, scene.dir.path());
    let more = frames(1, 2..=2);
    scene.produce(0, &more);
    sent.extend(more);
    eventually("the commit to hang", || {
        collector.vitals.commit.silence().is_some_and(|silence| silence > Duration::from_secs(1))
    })
    .await;
    collector.polls_for(Duration::from_secs(5)).await;
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 1);
    assert!(collector.vitals.commit.silence().is_some_and(|silence| silence > Duration::from_secs(5)));

    drop(hanging);
    collector.archived(sent.len() as u64).await;
    assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, 2);
    collector.stop().await;
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent.len()))]));
}

/// A disk on which each save of hosts and each round of upkeep takes ten seconds.
struct SlowTables {
    tables: DerivedTables,
    /// Saves and rounds of upkeep begun.
    begun: watch::Sender<(u32, u32)>,
}

const SLOW: Duration = Duration::from_secs(10);

impl DerivedStore for SlowTables {
    async fn save_hosts(&mut self, saved: SavedHosts, coverage: &Coverage) -> Result<(), ArchiveError> {
        self.begun.send_modify(|(saves, _)| *saves += 1);
        tokio::time::sleep(SLOW).await;
        self.tables.save_hosts(saved, coverage).await
    }

    async fn maintain(&mut self, sign: &(dyn Fn() + Sync)) -> Result<(), ArchiveError> {
        self.begun.send_modify(|(_, rounds)| *rounds += 1);
        tokio::time::sleep(SLOW).await;
        self.tables.maintain(sign).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_and_upkeep_of_ten_seconds_delay_neither_kafka_nor_the_archive_nor_readers() {
    let Some(scene) = Scene::new() else { return };
    let archive = scene.archive();
    scene.create_topic().await;
    let tables = DerivedTables::open(&archive).await.unwrap();
    let (begun, mut seen) = watch::channel((0, 0));
    let schedule = Schedule { save: Duration::from_millis(1), upkeep: SLOW + SLOW / 2 };
    let slow = SlowTables { tables, begun };
    let mut collector = scene.collector_saving("one", &archive, slow, schedule).await;
    let mut sent = 0;
    let mut seq = 0;
    // One save, and then one round of upkeep, are under way while a frame is sent each second.
    for wanted in [(1, 0), (1, 1)] {
        let reached = seen.wait_for(|begun| begun.0 >= wanted.0 && begun.1 >= wanted.1);
        let begun = *tokio::time::timeout(LIMIT, reached).await.unwrap().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < SLOW - Duration::from_secs(2) {
            seq += 1;
            let records = frames(1, seq..=seq);
            sent += records.len() as u64;
            scene.produce(0, &records);
            collector.archived(sent).await;
            assert_eq!(collector.newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.seq, seq);
            collector.polls_for(Duration::from_secs(1)).await;
        }
        assert_eq!(*seen.borrow(), begun, "the same save or upkeep is still under way");
    }
    assert_eq!(collector.vitals.hung(), None);
    // A stop does not wait for upkeep, and the records are archived.
    let begin = Instant::now();
    collector.stop().await;
    assert!(begin.elapsed() < SLOW, "{:?}", begin.elapsed());
    let sent = usize::try_from(sent).unwrap();
    assert_eq!(offsets(&archive).await, BTreeMap::from([((0, 0), span(sent))]));
}
