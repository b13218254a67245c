//! A full spool keeps frames of the whole time: one a minute, then one in ten minutes, before time is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use edr_agentd::config;
use edr_agentd::spool::FrameId;
use edr_wire::frame::{FrameKind, LostRange};

use super::agent::{SETTINGS, SpoolAgent, bytes, frames};

const PACE: Duration = Duration::from_secs(10);
/// Ticks of ten minutes.
const TEN: u64 = 60;

/// What Kafka received after an outage.
struct Received {
    /// Minutes since 1970, and kinds, of readable frames.
    minutes: BTreeMap<i64, FrameKind>,
    ids: BTreeSet<FrameId>,
    lost: Vec<LostRange>,
}

impl Received {
    /// Ships everything, with the ticks that declare the last losses.
    fn of(agent: &mut SpoolAgent) -> Self {
        let mut received = Self { minutes: BTreeMap::new(), ids: BTreeSet::new(), lost: Vec::new() };
        for _ in 0..3 {
            while let Some(id) = agent.spool.oldest_unsent(Instant::now()) {
                let frame = agent.spool.load(id, Instant::now()).unwrap();
                received.ids.insert(id);
                // A delta without its key is worth nothing.
                if received.ids.contains(&FrameId { seq: frame.header.base_seq, ..id }) {
                    received.minutes.insert(frame.header.captured_ns / 60_000_000_000, frame.header.kind);
                }
                received.lost.extend(frame.header.lost.iter().cloned());
                agent.spool.acknowledge(&frame.header);
            }
            agent.tick(10);
        }
        received
    }

    /// Longest time without a frame, in minutes.
    fn longest_gap(&self) -> i64 {
        let minutes: Vec<i64> = self.minutes.keys().copied().collect();
        minutes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The time from the first frame to the last, in minutes.
    fn span(&self) -> i64 {
        let mut minutes = self.minutes.keys();
        minutes.next_back().zip(minutes.next()).map_or(0, |(last, first)| last - first)
    }

    fn reasons(&self) -> BTreeSet<&str> {
        self.lost.iter().map(|lost| lost.reason.as_str()).collect()
    }

    /// Every frame arrived or is declared lost.
    fn assert_whole(&self, epoch: edr_wire::Epoch, last_seq: u64) {
        let said =
            |seq| self.lost.iter().any(|lost| lost.epoch == epoch && (lost.first_seq..=lost.last_seq).contains(&seq));
        for seq in 1..=last_seq {
            assert!(self.ids.contains(&FrameId { epoch, seq }) || said(seq), "{seq} is missing without a declaration");
        }
    }
}

/// Processes change their arguments at each tick, so that no frame can be compressed: the frames before stay readable.
#[test]
fn large_frames_thin_the_time_before_they_drop_any() {
    // Frames of 20 kB against a spool of 1.2 MB: room for ten minutes at one in ten seconds.
    let settings = config::Spool { bytes_max: 1_200_000, free_bytes_min: 0 };
    for (large, gap, name) in [(20 * TEN / 10, 1, "one a minute"), (30 * TEN, 10, "one in ten minutes")] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut agent = SpoolAgent { pace: PACE, ..SpoolAgent::start(dir.path(), settings) };
        let first = agent.tick(10).id;
        for _ in 1..6 * TEN {
            agent.tick(10);
        }
        let mut newest = first;
        for _ in 0..large {
            newest = agent.tick(20_000).id;
            assert!(bytes(dir.path()) <= settings.bytes_max, "{} bytes", bytes(dir.path()));
            let header = agent.spool.load(newest, Instant::now()).unwrap().header.clone();
            assert!(header.lost.len() <= 1, "each frame repeats a long declaration: {:?}", header.lost);
        }
        let dropped = agent.spool.state().dropped_frames;
        let received = Received::of(&mut agent);
        received.assert_whole(first.epoch, newest.seq);
        assert_eq!(received.reasons(), BTreeSet::from(["thinned"]), "{name}");
        let minutes = (6 * TEN + large) as i64 / 6;
        assert!(received.span() >= minutes - 10, "{name}: {} of {minutes} minutes", received.span());
        // Of each span one frame stays, anywhere in the span.
        assert!(received.longest_gap() < 2 * gap, "{name}: {} minutes without a frame", received.longest_gap());
        assert!(dropped > 0, "{name}");
    }
}

/// When one frame in ten minutes is too much, the oldest time is dropped whole, and the reason says so.
#[test]
fn time_is_dropped_whole_only_after_all_time_is_thinned() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let settings = config::Spool { bytes_max: 300_000, free_bytes_min: 0 };
    let mut agent = SpoolAgent { pace: PACE, ..SpoolAgent::start(dir.path(), settings) };
    let newest = (0..20 * TEN).map(|_| agent.tick(20_000).id).last().unwrap();
    let header = agent.spool.load(newest, Instant::now()).unwrap().header.clone();
    assert!(header.lost.len() <= 2, "{:?}", header.lost);
    let received = Received::of(&mut agent);
    received.assert_whole(newest.epoch, newest.seq);
    assert_eq!(received.reasons(), BTreeSet::from(["spool_full", "thinned"]));
    // 300 kB without the reserve for two frames hold about 11 frames.
    assert!((70..200).contains(&received.span()), "{} minutes", received.span());
    assert!(received.longest_gap() < 20);
}

/// Key frames of a quiet host are rare: a kept delta keeps its key.
#[test]
fn a_quota_lowered_at_once_leaves_all_time_readable() {
    for (tenths, gap) in [(7, 1), (3, 10)] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut agent = SpoolAgent { pace: PACE, ..SpoolAgent::start(dir.path(), SETTINGS) };
        let newest = (0..12 * TEN).map(|_| agent.tick(1).id).last().unwrap();
        let quota = bytes(dir.path()) * tenths / 10;
        agent.spool.set_limits(config::Spool { bytes_max: quota, ..SETTINGS });
        for _ in 0..3 {
            agent.tick(1);
        }
        assert!(bytes(dir.path()) <= quota, "{} of {quota}", bytes(dir.path()));
        let received = Received::of(&mut agent);
        received.assert_whole(newest.epoch, newest.seq);
        assert_eq!(received.reasons(), BTreeSet::from(["thinned"]));
        assert!(received.span() >= 110 && received.longest_gap() < 2 * gap, "{:?}", received.minutes);
        let deltas = received.minutes.values().filter(|kind| **kind == FrameKind::Delta).count();
        assert!(deltas > 5 || gap > 1, "{:?}", received.minutes);
    }
}

/// Frames of earlier runs are thinned, too: their headers are read again.
#[test]
fn restarts_do_not_end_the_thinning() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let settings = config::Spool { bytes_max: 800_000, free_bytes_min: 0 };
    let mut ticks = 0;
    let mut received = None;
    let mut made = Vec::new();
    for run in 0..6 {
        let mut agent = SpoolAgent { pace: PACE, ticks, ..SpoolAgent::start(dir.path(), settings) };
        made.extend((0..2 * TEN).map(|_| agent.tick(if run == 0 { 10 } else { 15_000 }).id));
        assert!(bytes(dir.path()) <= settings.bytes_max, "{} bytes", bytes(dir.path()));
        ticks = agent.ticks;
        received = (run == 5).then(|| Received::of(&mut agent));
    }
    let received = received.unwrap();
    for id in made {
        let said = |lost: &LostRange| lost.epoch == id.epoch && (lost.first_seq..=lost.last_seq).contains(&id.seq);
        assert!(received.ids.contains(&id) || received.lost.iter().any(said), "{id} is missing without a declaration");
    }
    assert_eq!(received.reasons(), BTreeSet::from(["thinned"]));
    assert!(received.span() >= 110 && received.longest_gap() < 20, "{:?}", received.minutes);
}

/// Another user fills the file system, or frames are kept in memory: the same rule.
#[test]
fn foreign_files_and_a_disk_that_is_away_thin_first() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent { pace: PACE, ..SpoolAgent::start(dir.path(), SETTINGS) };
    for _ in 0..6 * TEN {
        agent.tick(3_000);
    }
    let before = frames(dir.path()).len();
    // The floor of free bytes lies far above: no room at all, so everything goes but what always stays.
    agent.spool.set_limits(config::Spool { free_bytes_min: 1 << 60, ..SETTINGS });
    let newest = agent.tick(3_000).id;
    let lost = agent.spool.declarations().0;
    assert!(lost.iter().any(|lost| lost.reason == "spool_full" && lost.first_seq == 1), "{before} {newest} {lost:?}");

    // The spool's folder is a file: memory takes 16 MiB.
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent { pace: PACE, ..SpoolAgent::start(dir.path(), SETTINGS) };
    fs::remove_dir_all(dir.path().join("spool")).unwrap();
    fs::write(dir.path().join("spool"), b"").unwrap();
    let newest = (0..8 * TEN).map(|_| agent.tick(100_000).id).last().unwrap();
    assert!(agent.spool.state().memory_only);
    let received = Received::of(&mut agent);
    received.assert_whole(newest.epoch, newest.seq);
    assert_eq!(received.reasons(), BTreeSet::from(["thinned"]));
    assert!(received.span() >= 70 && received.longest_gap() < 20, "{:?}", received.minutes);
}
