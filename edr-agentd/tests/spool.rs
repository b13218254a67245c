//! The promises of the spool, one test for each promise. The ledger under random actions is tested in `spool_model.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edr_agentd::config;
use edr_agentd::heartbeat::{Heartbeat, Observer};
use edr_agentd::sample::{AcceptedFrame, Framer, Moment, Shape};
use edr_agentd::spool::{FrameId, MEMORY_BYTES_MAX, Patience, Resume, Spool, SpoolError, verify};
use edr_wire::HostId;
use edr_wire::frame::{FrameHeader, FrameKind, LostRange, MissedTicks, Record, split_records};
use edr_wire::limits::RANGES_MAX;
use edr_wire::snapshot::{Host, Snapshot, encode_row};

const SETTINGS: config::Spool = config::Spool { bytes_max: 64 << 20, free_bytes_min: 0 };

struct Agent {
    spool: Arc<Spool>,
    framer: Framer,
    host_id: HostId,
    boot_id: &'static str,
    ticks: u64,
}

impl Agent {
    fn start(state_dir: &Path, settings: config::Spool) -> Self {
        Self::start_as(state_dir, settings, HostId([1; 16]), "boot")
    }

    fn start_as(state_dir: &Path, settings: config::Spool, host_id: HostId, boot_id: &'static str) -> Self {
        let (spool, resume) = Spool::open(state_dir, state_dir, settings).unwrap();
        let spool = Arc::new(spool);
        let hour = Duration::from_secs(3600);
        let (framer, _) = Framer::start(Arc::clone(&spool), &resume, host_id, boot_id, hour);
        Self { spool, framer, host_id, boot_id, ticks: 0 }
    }

    /// Makes a tick whose snapshot has 3,000 constant bytes and `bytes` changing bytes, all incompressible.
    fn tick(&mut self, bytes: usize) -> AcceptedFrame {
        self.ticks += 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let moment = Moment {
            host_id: self.host_id,
            boot_id: self.boot_id.to_owned(),
            captured_ns: i64::try_from(now.as_nanos()).unwrap(),
            boottime: Duration::from_secs(self.ticks * 10),
            bye: false,
        };
        let shape = Shape { key_interval: Duration::from_secs(3600), part_bytes_max: 64 << 10 };
        let (noise, constant) = (noise(self.ticks, bytes), noise(0, 3_000));
        let encode = |FrameId { epoch, seq }| {
            let host = Host { os: noise.clone(), kernel: constant.clone(), ..Host::default() };
            let mut snapshot = Snapshot { host, ..Snapshot::default() };
            (snapshot.agent.epoch, snapshot.agent.seq, snapshot.time.boottime_ns) = (epoch, seq, u64::MAX);
            encode_row(&snapshot)
        };
        self.framer.frame(&moment, shape, &mut Vec::new(), encode).unwrap()
    }

    /// Kafka takes every readable frame. Returns the ids and the received declarations.
    fn ship(&self) -> (Vec<FrameId>, Vec<LostRange>) {
        let (mut ids, mut lost) = (Vec::new(), Vec::new());
        while let Some(id) = self.spool.oldest_unsent(Instant::now()) {
            if let Some(frame) = self.spool.load(id, Instant::now()) {
                lost.extend(frame.header.lost.iter().cloned());
                ids.push(id);
                self.spool.acknowledge(&frame.header);
            }
        }
        (ids, lost)
    }
}

/// Writes the frame in `from` to `to`, as a key, with a changed header.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut FrameHeader)) {
    let bytes = fs::read(from).unwrap();
    let mut header = Record::decode(split_records(&bytes).next().unwrap().unwrap()).unwrap().header;
    change(&mut header);
    (header.kind, header.base_seq) = (FrameKind::Key, header.seq);
    let raw = encode_row(&Snapshot::default());
    let frame = edr_wire::frame::EncodedFrame::encode(&header, &raw, None, 1 << 20).unwrap();
    fs::write(to, frame.records.concat()).unwrap();
}

fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    (0..bytes).map(next).collect()
}

fn frames(state_dir: &Path) -> Vec<PathBuf> {
    let mut frames: Vec<PathBuf> = fs::read_dir(state_dir.join("spool"))
        .unwrap()
        .map(|folder| folder.unwrap().path())
        .filter(|folder| folder.file_name().unwrap() != "set-aside")
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()))
        .collect();
    frames.sort();
    frames
}

fn bytes(state_dir: &Path) -> u64 {
    frames(state_dir).iter().map(|frame| frame.metadata().unwrap().len()).sum()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_acknowledged_frame_is_removed_but_the_newest_and_its_key_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
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
fn a_start_goes_on_in_the_same_epoch_and_another_boot_or_host_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let last = [(); 3].map(|()| agent.tick(10).id)[2];
    drop(agent);
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let next = agent.tick(10);
    assert_eq!((next.id, next.kind), (FrameId { seq: 4, ..last }, FrameKind::Key));
    drop(agent);
    let mut agent = Agent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    let booted = agent.tick(10).id;
    assert!(booted.epoch != last.epoch && booted.seq == 1);
    let header = agent.spool.load(booted, Instant::now()).unwrap().header.clone();
    let previous = header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (last.epoch, 4));
    drop(agent);
    let mut agent = Agent::start_as(dir.path(), SETTINGS, HostId([2; 16]), "next boot");
    let cloned = agent.tick(10).id;
    assert!(cloned.epoch != booted.epoch && cloned.seq == 1);
    assert_eq!(agent.spool.load(cloned, Instant::now()).unwrap().header.previous_epoch, None);
    // The frames of the other host are sent unchanged, first.
    assert_eq!(agent.ship().0.len(), 6);
}

#[test]
fn a_spool_restored_from_a_backup_does_not_use_a_sequence_number_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let id = [(); 3].map(|()| agent.tick(10).id)[2];
    drop(agent);
    // `cp -a` keeps every date except the change time of the inode; this copy is of two hours ago.
    let newest = frames(dir.path()).pop().unwrap();
    rewrite(&newest, &newest, |header| header.captured_ns -= 7_200_000_000_000);
    let mut agent = Agent::start(dir.path(), SETTINGS);
    assert_ne!(agent.tick(10).id.epoch, id.epoch);
}

#[test]
fn losses_for_want_of_room_are_declared_before_anything_is_deleted_and_room_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Spool { bytes_max: 60_000, free_bytes_min: 0 };
    let mut agent = Agent::start(dir.path(), settings);
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
        let mut agent = Agent::start(dir.path(), SETTINGS);
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
        let mut agent = Agent::start(dir.path(), SETTINGS);
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
    let mut agent = Agent::start(dir.path(), SETTINGS);
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
    let mut agent = Agent::start(dir.path(), SETTINGS);
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

#[test]
fn leftovers_go_strangers_stay_and_rights_for_others_are_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let id = agent.tick(10).id;
    drop(agent);
    let spool = dir.path().join("spool");
    let folder = spool.join(id.epoch.to_string());
    for name in [".77-3.tmp", "2.frame", "00000000000000000000.frame", "notes"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    fs::write(spool.join(".1-1.tmp"), b"x").unwrap();
    // An empty file at the next sequence number, as left by a power cut on some file systems.
    fs::write(folder.join("00000000000000000002.frame"), b"").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("00000000000000000003.frame")).unwrap();
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o755)).unwrap();
    let (_, findings) = verify(dir.path()).unwrap();
    assert_eq!(findings.len(), 8, "{findings:?}");

    let mut agent = Agent::start(dir.path(), SETTINGS);
    assert_eq!(mode(&spool), 0o700);
    let next = agent.tick(10).id;
    assert_ne!(next.epoch, id.epoch, "an empty newest frame proves nothing");
    agent.tick(10);
    let (ids, lost) = agent.ship();
    assert_eq!(ids.len(), 3);
    assert!(lost.iter().any(|lost| lost.epoch == id.epoch && lost.first_seq == 2 && lost.reason == "corrupt"));
    let left: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for stranger in ["2.frame", "00000000000000000000.frame", "notes", "00000000000000000003.frame"] {
        assert!(left.contains(&stranger.to_owned()), "{left:?}");
    }
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path(), SETTINGS);
    let refused = Spool::open(dir.path(), dir.path(), SETTINGS).unwrap_err();
    let lock = dir.path().join("lock");
    assert_eq!(
        refused.to_string(),
        format!("another edr-agentd (pid {}) holds {}", std::process::id(), lock.display())
    );
    assert!(matches!(refused, SpoolError::Locked { .. }));
    drop(agent);
    drop(Agent::start(dir.path(), SETTINGS));
    // The error for an unusable folder names the operation.
    let refused = Spool::open(&lock, dir.path(), SETTINGS).unwrap_err().to_string();
    assert!(refused.contains("create state-dir") && refused.contains("File exists"), "{refused}");
}

/// The folder, removed and made again, has a new lock file.
#[test]
fn a_second_agent_is_refused_when_the_state_folder_was_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (spool, _) = Spool::open(&state, dir.path(), SETTINGS).unwrap();
    fs::remove_dir_all(&state).unwrap();
    let refused = Spool::open(&state, dir.path(), SETTINGS).unwrap_err();
    assert!(matches!(refused, SpoolError::Locked { .. }), "{refused}");
    drop(spool);
    Spool::open(&state, dir.path(), SETTINGS).unwrap();
}

#[test]
fn an_epoch_away_at_a_start_is_sent_after_its_return() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let made = [(); 3].map(|()| agent.tick(10).id);
    drop(agent);
    let (folder, away) = (dir.path().join("spool").join(made[0].epoch.to_string()), dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let next = agent.tick(10).id;
    let header = agent.spool.load(next, Instant::now()).unwrap().header.clone();
    let previous = header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (made[2].epoch, made[2].seq), "the witness knows what is away");
    assert_eq!(agent.ship().0, [next]);
    fs::rename(&away, &folder).unwrap();
    let last = agent.tick(10).id;
    assert_eq!(agent.ship(), (vec![made[0], made[1], made[2], last], vec![]));
}

/// Frames are acknowledged and removed while the sampler makes frames and lists a folder that came back.
#[test]
fn a_drain_beside_the_sampler_sends_each_frame_once_and_loses_none() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
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

#[test]
fn a_folder_that_cannot_be_listed_at_a_start_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = nix::unistd::Uid::from_raw(65_534);
    // For root every folder can be listed.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(nobody.as_raw()), None).unwrap();
        nix::unistd::setfsuid(nobody);
    }
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let first = agent.tick(10).id;
    drop(agent);
    let mut agent = Agent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    let second = agent.tick(10).id;
    drop(agent);
    let folder = dir.path().join("spool").join(second.epoch.to_string());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o0)).unwrap();
    let (_, findings) = verify(dir.path()).unwrap();
    assert!(findings.iter().any(|finding| finding.path == folder && finding.fault.contains("cannot be listed")));
    let mut agent = Agent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    assert_eq!(agent.ship().0, [first]);
    let third = agent.tick(10).id;
    assert!(agent.spool.trouble(Instant::now()).unwrap().contains("list spool folder"));
    assert_eq!(agent.ship().0, [third]);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let fourth = agent.tick(10).id;
    assert_eq!(agent.ship(), (vec![second, fourth], vec![]));
    assert_eq!(agent.spool.trouble(Instant::now()), None);
}

/// A failing disk makes each step of a tick long: every step beats for the watchdog.
#[test]
fn a_frame_beats_between_its_steps() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path(), SETTINGS);
    let heartbeat = Arc::<Heartbeat>::default();
    let mut agent = Agent { framer: agent.framer.beating(&heartbeat), ..agent };
    let mut observer = Observer::default();
    assert!(!observer.is_alive(&heartbeat));
    agent.tick(10);
    assert!(observer.is_alive(&heartbeat));
}

#[test]
fn fifty_thousand_frames_are_found_by_their_names() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let id = agent.tick(1_000).id;
    drop(agent);
    let newest = frames(dir.path()).pop().unwrap();
    let folder = newest.parent().unwrap();
    rewrite(&newest, &folder.join(format!("{:020}.frame", 60_000)), |header| header.seq = 60_000);
    // A start reads only the newest frame, so the content of the rest does not matter.
    for seq in 2..=50_000 {
        fs::File::create(folder.join(format!("{seq:020}.frame"))).unwrap();
    }
    let started = Instant::now();
    let (spool, resume) = Spool::open(dir.path(), dir.path(), SETTINGS).unwrap();
    let took = started.elapsed();
    assert_eq!(spool.state().unsent_frames, 50_001);
    assert_eq!((resume.last.unwrap().last_seq, resume.newest.unwrap().header.seq), (60_000, 60_000));
    assert_eq!(spool.oldest_unsent(Instant::now()), Some(id));
    eprintln!("50,000 frames: start took {took:?}");
}

/// Patience that ends after a few attempts.
const SHORT: Patience = Patience {
    first: Duration::from_millis(1),
    last: Duration::from_millis(2),
    tries: 3,
    lasting: Duration::from_millis(4),
};

/// A folder that is away, as with an unmounted disk: nothing is lost, nothing deleted, nothing out of order.
#[test]
fn frames_in_a_missing_folder_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let made = [(); 5].map(|()| agent.tick(10).id);
    let (folder, away) = (dir.path().join("spool").join(made[0].epoch.to_string()), dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    let started = Instant::now();
    agent.spool.set_patience(SHORT);
    for _ in 0..40 {
        // No other frame can be read either, so the cause is the disk, not the frame.
        assert_eq!(agent.ship(), (vec![], vec![]));
        assert!(agent.spool.trouble(Instant::now()).unwrap().contains("its folder is not there"));
        agent.spool.wait(Duration::from_secs(1));
    }
    assert!(started.elapsed() > Duration::from_millis(40), "no wait between two tries");
    // Frames made meanwhile have a new epoch and are sent.
    let in_memory = agent.tick(10).id;
    assert_eq!(agent.ship().0, [in_memory]);
    fs::rename(&away, &folder).unwrap();
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(1));
        assert_eq!(agent.ship(), (made.to_vec(), vec![]));
    }
    // The same at a start: continuity cannot be proved, and nothing is lost.
    let last = agent.tick(10).id;
    drop(agent);
    let folder = dir.path().join("spool").join(last.epoch.to_string());
    fs::rename(folder.join(format!("{:020}.frame", last.seq)), &away).unwrap();
    std::os::unix::fs::symlink(&away, folder.join(format!("{:020}.frame", last.seq))).unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    assert_ne!(agent.tick(10).id.epoch, last.epoch);
    assert!(away.exists());
}

/// `/proc/self/mem` gives EIO at offset 0: bound over a frame's file, the mount acts as a bad sector.
#[test]
fn a_frame_with_an_io_error_is_tried_again_and_given_up_only_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let made = [(); 4].map(|()| agent.tick(10).id);
    let bad = frames(dir.path())[1].clone();
    let Some(sector) = BadSector::over(&bad) else {
        eprintln!("skipped: mounting over a file needs root");
        return;
    };
    assert_eq!(agent.ship(), (made[..1].to_vec(), vec![]));
    assert!(agent.spool.trouble(Instant::now()).unwrap().contains("Input/output error"));
    assert_eq!(agent.ship(), (vec![], vec![]), "it waits");
    drop(sector);
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(5));
        assert_eq!(agent.ship(), (made[1..].to_vec(), vec![]));
    }

    let made = [(); 4].map(|()| agent.tick(10).id);
    let bad = frames(dir.path()).into_iter().find(|path| path.ends_with(format!("{:020}.frame", made[1].seq))).unwrap();
    let sector = BadSector::over(&bad).unwrap();
    agent.spool.set_patience(SHORT);
    let mut ids = Vec::new();
    while ids.len() < 3 {
        ids.extend(agent.ship().0);
        agent.spool.wait(Duration::from_secs(1));
    }
    assert_eq!(ids, [made[0], made[2], made[3]]);
    for _ in 0..4 {
        agent.tick(10);
    }
    let (_, lost) = agent.ship();
    let said = LostRange {
        epoch: made[1].epoch,
        first_seq: made[1].seq,
        last_seq: made[1].seq,
        reason: "unreadable".to_owned(),
    };
    assert!(lost.contains(&said), "{lost:?}");
    // The frame is declared lost but not deleted: the file could not be set aside, and is sent when the disk can read
    // the file again.
    drop(sector);
    assert!(bad.exists());
    agent.tick(10);
    assert!(agent.ship().0.contains(&made[1]));
}

/// A mount over a file, from which no read succeeds.
struct BadSector(PathBuf);

impl BadSector {
    fn over(path: &Path) -> Option<Self> {
        let none: Option<&str> = None;
        nix::mount::mount(Some("/proc/self/mem"), path, none, nix::mount::MsFlags::MS_BIND, none).ok()?;
        Some(Self(path.to_owned()))
    }
}

impl Drop for BadSector {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_frame_whole_again_before_being_set_aside_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let harmed = agent.tick(100).id;
    agent.tick(10);
    let path = &frames(dir.path())[0];
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..100]).unwrap();
    agent.ship();
    fs::write(path, whole).unwrap();
    agent.tick(10);
    agent.tick(10);
    let (ids, lost) = agent.ship();
    assert!(lost.iter().any(|lost| lost.reason == "corrupt") && ids.contains(&harmed), "{ids:?} {lost:?}");
    assert!(!dir.path().join("spool/set-aside").exists());
}

/// Among the set-aside frames, only the damaged make room for new frames.
#[test]
fn unreadable_frames_are_kept_among_any_number_of_set_aside_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let aside = dir.path().join("spool/set-aside");
    fs::create_dir(&aside).unwrap();
    let first = agent.tick(10).id;
    // The oldest entry, and unreadable: a link to nowhere instead of a file.
    let kept = aside.join(format!("{}.{:020}.frame", first.epoch, 77));
    std::os::unix::fs::symlink("/nowhere", &kept).unwrap();
    for _ in 0..20 {
        let harmed = agent.tick(10).id;
        agent.tick(10);
        let path = frames(dir.path()).into_iter().find(|path| path.ends_with(format!("{:020}.frame", harmed.seq)));
        fs::write(path.unwrap(), b"x").unwrap();
        agent.ship();
    }
    agent.tick(10);
    agent.tick(10);
    assert!(kept.is_symlink());
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 17);
}

/// Frames on a file system of 1 MiB, which is then filled, or made read-only.
#[test]
fn a_disk_that_takes_nothing_sends_frames_to_memory_and_comes_back_by_itself() {
    let Some(disk) = SmallDisk::mount("1m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let mut agent = Agent::start(disk.path(), SETTINGS);
    // The status line's text about the disk.
    let said = |made: &AcceptedFrame| made.disk_fault.map(|fault| fault.in_words(Path::new("/s"))).unwrap_or_default();
    let on_disk = agent.tick(1_000).id;
    fs::write(disk.path().join("spool/filler"), vec![0; 4 << 20]).unwrap_err();
    let made = agent.tick(5_000);
    assert!(said(&made).starts_with("no space left on /s: "), "{made:?}");
    let in_memory = made.id;
    assert_ne!(in_memory.epoch, on_disk.epoch);
    assert!(agent.spool.state().memory_only);
    assert_eq!(agent.tick(5_000).id, FrameId { seq: 2, ..in_memory });
    let header = agent.spool.load(in_memory, Instant::now()).unwrap().header.clone();
    assert_eq!(header.previous_epoch.map(|previous| (previous.id, previous.last_seq)), Some((on_disk.epoch, 1)));
    assert_eq!(header.kind, FrameKind::Key);
    fs::remove_file(disk.path().join("spool/filler")).unwrap();
    let made = agent.tick(5_000);
    assert_eq!(said(&made), "");
    let back = made.id;
    assert!(back.epoch != in_memory.epoch && back.seq == 1);
    assert!(!agent.spool.state().memory_only);
    let previous = agent.spool.load(back, Instant::now()).unwrap().header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (in_memory.epoch, 2));

    disk.remount("ro");
    let read_only = agent.tick(10).id;
    assert_ne!(read_only.epoch, back.epoch);
    disk.remount("rw");
    let writable = agent.tick(10).id;
    assert_ne!(writable.epoch, read_only.epoch);
    // The frames from memory are on the disk now: a crash does not lose them.
    drop(agent);
    let mut agent = Agent::start(disk.path(), SETTINGS);
    // All frames, in the order of their making, and nothing else.
    let (ids, lost) = agent.ship();
    let epochs: Vec<_> = ids.iter().map(|id| id.epoch).collect();
    let expected = [on_disk.epoch, in_memory.epoch, in_memory.epoch, back.epoch, read_only.epoch, writable.epoch];
    assert_eq!((epochs.as_slice(), lost.as_slice()), (expected.as_slice(), [].as_slice()));

    let writable = agent.tick(10).id;
    agent.ship();
    drop(agent);

    // A read-only disk does not stop a start. Frames made in memory get a new epoch: in the epoch on the disk their
    // numbers would be used twice after a crash.
    disk.remount("ro");
    let mut agent = Agent::start(disk.path(), SETTINGS);
    let made = agent.tick(10);
    let in_memory = made.id;
    assert!(said(&made).starts_with("/s is mounted read-only: "), "{made:?}");
    assert!(agent.spool.state().memory_only && agent.spool.in_memory().0 == 1);
    assert_ne!(in_memory.epoch, writable.epoch);
    assert_eq!(agent.ship().0, [writable, in_memory]);
    drop(agent);
    disk.remount("rw");
    // After a crash the epoch on the disk does not continue, even on a good disk: frames in memory may have followed.
    let mut agent = Agent::start(disk.path(), SETTINGS);
    let next = agent.tick(10).id;
    assert!(![writable.epoch, in_memory.epoch].contains(&next.epoch));
    let header = agent.spool.load(next, Instant::now()).unwrap().header.clone();
    assert_eq!(header.previous_epoch.map(|previous| (previous.id, previous.last_seq)), Some((writable.epoch, 2)));
    drop(agent);
    // An epoch that was on the disk all the time continues.
    let mut agent = Agent::start(disk.path(), SETTINGS);
    assert_eq!(agent.tick(10).id, FrameId { seq: 2, ..next });
    disk.remount("ro");
    agent.tick(10);
    assert!(agent.spool.state().memory_only);
    disk.remount("rw");
    agent.tick(10);
    assert!(!agent.spool.state().memory_only);
}

#[test]
fn a_removed_folder_is_made_again_and_its_frames_are_declared() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(dir.path(), SETTINGS);
    let gone = [(); 3].map(|()| agent.tick(10).id)[0];
    fs::remove_dir_all(dir.path().join("spool")).unwrap();
    let in_memory = agent.tick(10).id;
    assert!(agent.spool.state().memory_only);
    let back = agent.tick(10).id;
    assert!(!agent.spool.state().memory_only && back.epoch != in_memory.epoch && in_memory.epoch != gone.epoch);
    // The folder may come back with its frames, but the wait is limited.
    assert_eq!(agent.ship().0, [in_memory, back]);
    agent.tick(10);
    assert_eq!(agent.ship().1, []);
    agent.spool.set_patience(SHORT);
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(1));
        agent.ship();
        agent.tick(10);
    }
    agent.tick(10);
    let (_, lost) = agent.ship();
    let said = LostRange { epoch: gone.epoch, first_seq: 1, last_seq: 3, reason: "vanished".to_owned() };
    assert!(!lost.is_empty() && lost.iter().all(|lost| *lost == said), "{lost:?}");
}

#[test]
fn memory_is_bounded_and_dropped_frames_are_declared() {
    let Some(disk) = SmallDisk::mount("64k") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let mut agent = Agent::start(disk.path(), SETTINGS);
    let first = agent.tick(100_000).id;
    for _ in 0..400 {
        agent.tick(100_000);
        let state = agent.spool.state();
        assert!(state.memory_only && state.unsent_bytes <= MEMORY_BYTES_MAX, "{state:?}");
    }
    let (ids, lost) = agent.ship();
    let lost: Vec<_> = lost.iter().filter(|lost| lost.reason == "memory_full").collect();
    let said =
        |seq| lost.iter().any(|lost| lost.epoch == first.epoch && (lost.first_seq..=lost.last_seq).contains(&seq));
    let undeclared: Vec<u64> = (1..=401).filter(|&seq| !said(seq) && !ids.iter().any(|id| id.seq == seq)).collect();
    let dropped = agent.spool.state().dropped_frames;
    assert!(dropped > 100);
    // The frames chosen last are declared by the next frame.
    agent.tick(10);
    let (_, more) = agent.ship();
    for seq in undeclared {
        assert!(more.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq)), "{seq}");
    }
}

/// A state folder whose spool lies on a separate tmpfs. The lock is outside: a file open for writing keeps a file
/// system from becoming read-only.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("spool")).unwrap();
        let options = format!("size={size},mode=700");
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &dir.path().join("spool"), Some("tmpfs"), flags, Some(options.as_str())).ok()?;
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, how: &str) {
        let none: Option<&str> = None;
        let mut flags = nix::mount::MsFlags::MS_REMOUNT;
        flags.set(nix::mount::MsFlags::MS_RDONLY, how == "ro");
        nix::mount::mount(none, &self.path().join("spool"), none, flags, none).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path().join("spool"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_start_without_anything_is_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (_, resume) = Spool::open(&dir.path().join("a/b"), dir.path(), SETTINGS).unwrap();
    let Resume { last, newest, declared, last_made } = resume;
    assert_eq!(last_made, None);
    assert!(declared.is_none());
    assert!(last.is_none() && newest.is_none());
    assert_eq!(mode(&dir.path().join("a/b")), 0o700);
}
