//! No frame is removed before its delivery or before the declaration of its loss.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edr_agentd::config;
use edr_agentd::heartbeat::{Heartbeat, Observer};
use edr_agentd::spool::FrameId;
use edr_wire::frame::{FrameKind, LostRange, MissedTicks};
use edr_wire::limits::RANGES_MAX;

use super::agent::{SETTINGS, SpoolAgent, bytes, frames, mode};

#[test]
fn an_acknowledged_frame_is_removed_but_the_newest_and_its_key_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let kinds: Vec<FrameKind> = (0..4).map(|_| agent.tick(10).kind).collect();
    assert_eq!(kinds, [FrameKind::Key, FrameKind::Delta, FrameKind::Delta, FrameKind::Delta]);
    assert!(bytes(dir.path()) < 6_000);
    assert_eq!(frames(dir.path()).len(), 4);
    assert_eq!(agent.ship().0.len(), 4);
    let names = |frames: Vec<PathBuf>| {
        let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().trim_start_matches('0').to_owned();
        frames.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(frames(dir.path())), ["1", "4"]);
    // A large change makes a key: then the old key and the old newest frame are removed.
    let mut kind = FrameKind::Delta;
    while kind == FrameKind::Delta {
        kind = agent.tick(5_000).kind;
        agent.ship();
    }
    let newest = agent.tick(10);
    assert_eq!(newest.kind, FrameKind::Delta);
    assert_eq!(names(frames(dir.path())), [(newest.id.seq - 1).to_string(), newest.id.seq.to_string()]);
    assert_eq!((mode(&dir.path().join("spool")), mode(&frames(dir.path())[0])), (0o700, 0o600));
}

#[test]
fn losses_for_want_of_room_are_declared_before_anything_is_deleted_and_room_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Spool { bytes_max: 60_000, free_bytes_min: 0 };
    let mut agent = SpoolAgent::start(dir.path(), settings);
    // Nothing to thin.
    agent.pace = Duration::from_secs(600);
    let mut before: Vec<PathBuf> = Vec::new();
    let mut deleted = 0;
    for _ in 0..200 {
        let newest = agent.tick(3_000).id;
        let now = frames(dir.path());
        let header = agent.spool.load(newest, Instant::now()).unwrap().header.clone();
        for gone in before.iter().filter(|path| !now.contains(path)) {
            let seq: u64 = gone.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let said = header.lost.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq));
            assert!(said, "{} went without a word", gone.display());
            deleted += 1;
        }
        assert!(bytes(dir.path()) <= settings.bytes_max, "{} bytes", bytes(dir.path()));
        assert!(header.lost.len() <= 3, "{:?}", header.lost);
        before = now;
    }
    assert!(deleted > 100);
    let dropped = agent.spool.state().dropped_frames;
    let (mut ids, mut lost) = agent.ship();
    let last = agent.tick(10).id.seq;
    let (more_ids, more_lost) = agent.ship();
    ids.extend(more_ids);
    lost.extend(more_lost);
    // Every sequence number is present, or declared with its reason.
    for seq in 1..=last {
        let declared =
            lost.iter().any(|lost| lost.reason == "spool_full" && (lost.first_seq..=lost.last_seq).contains(&seq));
        assert!(declared || ids.iter().any(|id| id.seq == seq), "{seq}");
    }
    assert!(dropped >= deleted);
    // Kafka has the declaration, so later frames do not repeat the entry.
    agent.tick(10);
    let newest = agent.tick(10).id;
    assert!(agent.spool.load(newest, Instant::now()).unwrap().header.lost.is_empty());
}

/// A crash after an accepted frame forgets no declaration, at any number.
#[test]
fn no_crash_forgets_missed_ticks_or_lost_frames() {
    let dir = tempfile::tempdir().unwrap();
    for count in [300_u64, 3_000] {
        let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
        agent.ship();
        agent.tick(10);
        agent.ship();
        let single = |tick: u64| MissedTicks {
            from_boottime_ns: 100 * tick,
            to_boottime_ns: 100 * tick,
            ticks: 1,
            reason: ["overrun", "suspended"][(tick % 2) as usize].to_owned(),
        };
        (1..=count).for_each(|tick| agent.spool.declare_missed(single(tick)));
        let lost = |n: u64| LostRange {
            epoch: edr_wire::Epoch([9; 8]),
            first_seq: 2 * n,
            last_seq: 2 * n,
            reason: "vanished".to_owned(),
        };
        agent.spool.take_over(&(1..=count).map(lost).collect::<Vec<_>>(), &[]);
        agent.tick(10);
        drop(agent);
        let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
        let next = agent.tick(10).id;
        let header = agent.spool.load(next, Instant::now()).unwrap().header.clone();
        assert!(header.missed.len() <= RANGES_MAX && header.lost.len() <= RANGES_MAX);
        for tick in 1..=count {
            let single = single(tick);
            let said = header.missed.iter().filter(|missed| {
                missed.reason == single.reason
                    && (missed.from_boottime_ns..=missed.to_boottime_ns).contains(&single.from_boottime_ns)
            });
            assert_eq!(said.count(), 1, "tick {tick} of {count}");
            let said = |lost: &LostRange| (lost.first_seq..=lost.last_seq).contains(&(2 * tick));
            assert!(header.lost.iter().any(said), "frame {tick} of {count}");
        }
        let ticks = |reason: &str| -> u64 {
            header.missed.iter().filter(|missed| missed.reason == reason).map(|missed| missed.ticks).sum()
        };
        assert_eq!((ticks("overrun"), ticks("suspended")), (count / 2, count / 2));
        // A few single losses are not joined.
        assert!(count > 300 || (header.missed.len() >= 300 && header.lost.len() == 300));
    }
}

#[test]
fn foreign_files_on_the_disk_displace_frames_down_to_the_newest_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    for _ in 0..20 {
        agent.tick(3_000);
    }
    assert_eq!(frames(dir.path()).len(), 20);
    agent.spool.set_limits(config::Spool { free_bytes_min: 1 << 60, ..SETTINGS });
    for _ in 0..4 {
        agent.tick(3_000);
    }
    assert!(frames(dir.path()).len() < 8, "{:?}", frames(dir.path()));
    assert!(agent.spool.state().dropped_frames >= 16);
}

#[test]
fn every_flipped_bit_costs_one_frame_and_is_declared() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let harmed = agent.tick(100).id;
    agent.tick(10);
    let path = &frames(dir.path())[0];
    let whole = fs::read(path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(edr_agentd::spool::StoredFrame::parse(flipped).is_err(), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert!(edr_agentd::spool::StoredFrame::parse(whole[..len].to_vec()).is_err(), "cut at {len}");
    }
    let mut flipped = whole;
    flipped[40] ^= 4;
    fs::write(path, flipped).unwrap();
    assert_eq!(agent.ship().0.len(), 1);
    agent.tick(10);
    let next = agent.tick(10);
    assert_eq!(next.kind, FrameKind::Delta, "a new key follows the loss of a key, then deltas");
    let (_, lost) = agent.ship();
    let said = LostRange { epoch: harmed.epoch, first_seq: 1, last_seq: 1, reason: "corrupt".to_owned() };
    assert!(lost.contains(&said), "{lost:?}");
    let aside: Vec<_> = fs::read_dir(dir.path().join("spool/set-aside")).unwrap().collect();
    assert_eq!(aside.len(), 1);
}

/// Frames are acknowledged and removed while the sampler makes frames and lists a folder that came back.
#[test]
fn a_drain_beside_the_sampler_sends_each_frame_once_and_loses_none() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let mut made: Vec<FrameId> = Vec::new();
    for _ in 0..20 {
        let before = [(); 10].map(|()| agent.tick(10).id);
        made.extend(before);
        let folder = dir.path().join("spool").join(before[0].epoch.to_string());
        let away = dir.path().join("away");
        fs::rename(&folder, &away).unwrap();
        // A frame in memory, and the sampler notices the missing folder.
        made.push(agent.tick(10).id);
        fs::rename(&away, &folder).unwrap();
        let spool = Arc::clone(&agent.spool);
        let unsent = spool.state().unsent_frames;
        let shipper = std::thread::spawn(move || {
            let (mut ids, mut lost) = (Vec::new(), Vec::new());
            while (ids.len() as u64) < unsent {
                let Some(id) = spool.oldest_unsent(Instant::now()) else { break };
                let Some(frame) = spool.load(id, Instant::now()) else { continue };
                lost.extend(frame.header.lost.iter().cloned());
                spool.acknowledge(&frame.header);
                ids.push(id);
            }
            (ids, lost)
        });
        // Lists the returned folder.
        made.extend([(); 3].map(|()| agent.tick(10).id));
        let (mut ids, mut lost) = shipper.join().unwrap();
        let (more, more_lost) = agent.ship();
        ids.extend(more);
        lost.extend(more_lost);
        let sent = ids.len();
        ids.sort_unstable();
        ids.dedup();
        made.sort_unstable();
        assert_eq!((ids.len(), &ids, lost.as_slice()), (sent, &made, [].as_slice()));
        made.clear();
    }
}

/// A failing disk makes each step of a tick long: every step beats for the watchdog.
#[test]
fn a_frame_beats_between_its_steps() {
    let dir = tempfile::tempdir().unwrap();
    let agent = SpoolAgent::start(dir.path(), SETTINGS);
    let heartbeat = Arc::<Heartbeat>::default();
    let mut agent = SpoolAgent { framer: agent.framer.beating(&heartbeat), ..agent };
    let mut observer = Observer::default();
    assert!(!observer.is_alive(&heartbeat));
    agent.tick(10);
    assert!(observer.is_alive(&heartbeat));
}
