//! The spool under random actions, in step with a reference: a set of frames for each state. After each action, every
//! accepted frame is delivered, present or declared lost, and no file is removed before its loss is declared. At the
//! end every frame is delivered or declared, no (epoch, seq) stands for two snapshots, and order is kept.
//!
//! 2,000 sequences per run, 50,000 with `EDR_TEST_LONG`. Failing seeds are kept in `spool_model.regressions`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edr_agentd::config;
use edr_agentd::sample::{AcceptedFrame, Framer, Moment, Shape};
use edr_agentd::spool::{FrameId, Spool, verify};
use edr_wire::frame::{Frame, FrameHeader, FrameKind, LostRange, Record};
use edr_wire::snapshot::{Host, Snapshot, encode_row};
use edr_wire::{Epoch, HostId};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const HOST: HostId = HostId([3; 16]);
const SHAPE: Shape = Shape { key_interval: Duration::from_secs(40), part_bytes_max: 700 };

/// A choice from a list, as a fraction of 2^64. Frames and epochs are listed in the order of their making.
#[derive(Debug, Clone, Copy)]
struct Pick(u64);

impl Pick {
    fn index(self, len: usize) -> usize {
        ((u128::from(self.0) * len as u128) >> 64) as usize
    }

    fn from<T: Copy>(self, list: &[T]) -> Option<T> {
        (!list.is_empty()).then(|| list[self.index(list.len())])
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// A tick with a snapshot of this number of incompressible bytes.
    Tick(usize),
    /// Kafka takes this number of frames, oldest first.
    Ship(usize),
    /// This number of seconds passes.
    Wait(u64),
    /// `kill -9` between two system calls, and a start. A write in progress leaves a temporary file of this number of
    /// bytes.
    Crash(usize),
    /// Like `Crash`, with a reboot of the machine.
    Boot,
    /// A torn write after a power loss: the name of the next frame is there, with this number of bytes of its content.
    TornNewest(usize),
    /// One bit of a frame's file flips.
    Flip(Pick, Pick),
    /// A frame's file is removed from outside. Not the newest file: no other file proves its existence.
    Remove(Pick),
    /// Another quota.
    Quota(u64),
    /// The folder of an epoch is away, together with its disk.
    Away(Pick),
    /// All missing folders are back.
    Back,
    /// The folder of an epoch may be neither listed nor read.
    Deny(Pick),
    /// All folders may be read.
    Allow,
    /// The spool takes no new files: no folder of an epoch, and no frame in the newest folder.
    Full,
    /// The spool takes new files again.
    Writable,
}

fn action() -> impl Strategy<Value = Action> {
    let pick = || any::<u64>().prop_map(Pick);
    prop_oneof![
        12 => (0..3_000_usize).prop_map(Action::Tick),
        5 => (1..6_usize).prop_map(Action::Ship),
        2 => (1..400_u64).prop_map(Action::Wait),
        2 => (0..2_000_usize).prop_map(Action::Crash),
        1 => Just(Action::Boot),
        1 => (0..300_usize).prop_map(Action::TornNewest),
        1 => (pick(), pick()).prop_map(|(file, bit)| Action::Flip(file, bit)),
        1 => pick().prop_map(Action::Remove),
        1 => (4_000..40_000_u64).prop_map(Action::Quota),
        2 => pick().prop_map(Action::Away),
        2 => Just(Action::Back),
        1 => pick().prop_map(Action::Deny),
        1 => Just(Action::Allow),
        1 => Just(Action::Full),
        1 => Just(Action::Writable),
    ]
}

/// The reference: frames by state.
#[derive(Default)]
struct Reference {
    /// Every accepted frame, with the ranges declared lost in its header.
    accepted: BTreeMap<FrameId, Vec<LostRange>>,
    /// Frames in Kafka.
    delivered: BTreeSet<FrameId>,
    /// Ranges declared lost by delivered frames.
    declared: Vec<LostRange>,
    /// Frames with a file, also in folders that are away.
    present: BTreeSet<FrameId>,
    /// Frames in the memory of the running agent.
    in_memory: BTreeSet<FrameId>,
    /// Frames whose files were damaged or removed from outside.
    harmed: BTreeSet<FrameId>,
    /// Frames removed from outside in this run of the agent; a start forgets them.
    removed: BTreeSet<FrameId>,
    /// Frames that no agent can know any more: removed before a start found the file, or in memory at a crash.
    forgotten: BTreeSet<FrameId>,
}

impl Reference {
    /// The agent ends. Frames in memory are gone.
    fn kill(&mut self) {
        self.forgotten.append(&mut self.removed);
        let unsent = std::mem::take(&mut self.in_memory);
        self.forgotten.extend(unsent.difference(&self.delivered));
    }

    /// Compares with the files present now.
    fn step(&mut self, present: BTreeSet<FrameId>) {
        self.in_memory.retain(|id| !present.contains(id) && !self.delivered.contains(id));
        let before = std::mem::replace(&mut self.present, present);
        for id in before.difference(&self.present) {
            let is_declared = covers(&self.declared, *id) || self.carriers(*id).count() >= 2;
            let is_explained =
                self.delivered.contains(id) || self.harmed.contains(id) || !self.accepted.contains_key(id);
            assert!(is_declared || is_explained, "{id} was removed before its loss was declared");
        }
        let whole =
            |id: &FrameId| self.in_memory.contains(id) || (self.present.contains(id) && !self.harmed.contains(id));
        for &id in self.accepted.keys() {
            let is_there = self.delivered.contains(&id)
                || self.present.contains(&id)
                || self.in_memory.contains(&id)
                // The running agent will notice the missing file.
                || self.removed.contains(&id);
            let is_declared = || covers(&self.declared, id) || self.carriers(id).any(|carrier| whole(&carrier));
            assert!(is_there || is_declared() || self.is_excused(id), "{id} is missing without a declaration");
        }
    }

    /// Accepted frames with a declaration of the loss of `id`.
    fn carriers(&self, id: FrameId) -> impl Iterator<Item = FrameId> {
        self.accepted.iter().filter(move |(_, lost)| covers(lost, id)).map(|(&carrier, _)| carrier)
    }

    /// Two frames declare a loss before a file is removed. The spool does not promise to survive damage to both.
    fn is_excused(&self, id: FrameId) -> bool {
        self.forgotten.contains(&id) || self.carriers(id).filter(|carrier| self.harmed.contains(carrier)).count() >= 2
    }
}

fn covers(lost: &[LostRange], id: FrameId) -> bool {
    lost.iter().any(|range| range.epoch == id.epoch && (range.first_seq..=range.last_seq).contains(&id.seq))
}

/// A host, its agent, and the frames received by Kafka.
struct World {
    dir: tempfile::TempDir,
    agent: Option<(Arc<Spool>, Framer)>,
    reference: Reference,
    quota: u64,
    boot: u32,
    ticks: u64,
    started: (Instant, SystemTime),
    elapsed: Duration,
    /// Starts of the agent.
    run: usize,
    /// In the order of their making.
    epochs: Vec<Epoch>,
    newest: Option<FrameId>,
    /// The newest frame accepted on the disk, and its key.
    kept: Option<(FrameId, FrameId)>,
    is_full: bool,
    snapshots: BTreeMap<FrameId, Vec<u8>>,
    /// Names left by a torn write; no frame was accepted under these names.
    torn: BTreeSet<FrameId>,
    /// Epochs unknown to the running agent: away or denied at its start, and at every tick since.
    unknown: BTreeSet<Epoch>,
    /// False after a start without an order of the epochs.
    is_order_known: bool,
    /// Epochs that were away or denied, or have no readable header: their frames may be late, and may be declared lost.
    late: BTreeSet<Epoch>,
    kafka: Vec<Delivered>,
}

struct Delivered {
    id: FrameId,
    header: FrameHeader,
    records: Vec<Vec<u8>>,
    run: usize,
    is_repeated: bool,
}

impl World {
    fn new() -> Self {
        let shared_memory = Path::new("/dev/shm");
        let dir = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        as_nobody(dir.path());
        fs::create_dir(dir.path().join("away")).unwrap();
        let mut world = Self {
            dir,
            agent: None,
            reference: Reference::default(),
            quota: 30_000,
            boot: 0,
            ticks: 0,
            started: (Instant::now(), SystemTime::now()),
            elapsed: Duration::ZERO,
            run: 0,
            epochs: Vec::new(),
            newest: None,
            kept: None,
            is_full: false,
            snapshots: BTreeMap::new(),
            torn: BTreeSet::new(),
            unknown: BTreeSet::new(),
            is_order_known: true,
            late: BTreeSet::new(),
            kafka: Vec::new(),
        };
        world.start();
        world
    }

    fn spool(&self) -> &Spool {
        &self.agent.as_ref().unwrap().0
    }

    fn settings(&self) -> config::Spool {
        config::Spool { bytes_max: self.quota, free_bytes_min: 0 }
    }

    fn now(&self) -> Instant {
        self.started.0 + self.elapsed
    }

    fn kill(&mut self) {
        self.agent = None;
        self.reference.kill();
    }

    fn start(&mut self) {
        self.kill();
        self.run += 1;
        let there = self.epochs_there();
        self.unknown = self.epochs.iter().copied().filter(|epoch| !there.contains(epoch)).collect();
        // Without a readable header an epoch is ordered by the times of its files, and a flip changes the times.
        let (dated, undated): (Vec<_>, Vec<_>) = there.into_iter().partition(|&epoch| self.has_header(epoch));
        self.is_order_known = undated.is_empty();
        self.late.extend(undated);
        // After a start without the newest frame, only new frames are kept.
        self.kept = self.kept.filter(|(newest, _)| self.is_order_known && dated.contains(&newest.epoch));
        let (spool, resume) = Spool::open(self.dir.path(), self.dir.path(), self.settings()).unwrap();
        let spool = Arc::new(spool);
        let hour = Duration::from_secs(3600);
        let (framer, _) = Framer::start(Arc::clone(&spool), &resume, HOST, &self.boot_id(), hour);
        self.agent = Some((spool, framer));
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    fn tick(&mut self, bytes: usize) -> AcceptedFrame {
        self.ticks += 1;
        self.elapsed += Duration::from_secs(10);
        let tick = self.ticks;
        // Near the files' own times, and in order.
        let captured = self.started.1.duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_micros(tick);
        let moment = Moment {
            host_id: HOST,
            boot_id: self.boot_id(),
            captured_ns: i64::try_from(captured.as_nanos()).unwrap(),
            boottime: Duration::from_secs(10 * tick),
            bye: false,
        };
        let must_declare = self.must_declare();
        let (spool, framer) = self.agent.as_mut().unwrap();
        let (lost, _) = spool.declarations();
        for id in must_declare {
            assert!(covers(&lost, id), "the loss of {id} is not repeated");
        }
        let mut raw = Vec::new();
        let made = framer.frame(&moment, SHAPE, &mut Vec::new(), |id| {
            raw = snapshot(tick, bytes, id);
            raw.clone()
        });
        let made = made.unwrap();
        let twice = self.snapshots.insert(made.id, raw);
        assert!(twice.is_none(), "{} stands for two snapshots", made.id);
        assert!(!self.torn.contains(&made.id), "{} was a torn name", made.id);
        self.newest = Some(made.id);
        self.is_order_known = true;
        let there = self.epochs_there();
        self.unknown.retain(|epoch| !there.contains(epoch));
        if !self.epochs.contains(&made.id.epoch) {
            self.epochs.push(made.id.epoch);
        }
        self.reference.accepted.insert(made.id, lost);
        if made.disk_fault.is_some() {
            self.reference.in_memory.insert(made.id);
        } else {
            let key = self.kept.filter(|_| made.kind == FrameKind::Delta).map_or(made.id, |(_, key)| key);
            self.kept = Some((made.id, key));
        }
        made
    }

    /// Lost frames declared by the newest frame, unless Kafka has the declaration, or the newest frame is unreadable.
    fn must_declare(&self) -> Vec<FrameId> {
        let Some(newest) = self.newest else { return Vec::new() };
        let reference = &self.reference;
        let is_readable = self.files().contains(&newest) && !reference.harmed.contains(&newest);
        let is_found = self.is_order_known && !self.unknown.contains(&newest.epoch);
        let is_known = is_found && (is_readable || reference.in_memory.contains(&newest));
        let lost = reference.accepted.get(&newest).filter(|_| is_known).into_iter().flatten();
        let ids =
            lost.flat_map(|range| (range.first_seq..=range.last_seq).map(|seq| FrameId { epoch: range.epoch, seq }));
        ids.filter(|id| !covers(&reference.declared, *id)).collect()
    }

    fn ship(&mut self, frames: usize) {
        let (now, run) = (self.now(), self.run);
        for _ in 0..frames {
            let Some(id) = self.spool().oldest_unsent(now) else { return };
            let Some(frame) = self.spool().load(id, now) else { continue };
            let records = frame.records().map(<[u8]>::to_vec).collect();
            self.spool().acknowledge(&frame.header);
            let is_repeated = !self.reference.delivered.insert(id);
            self.reference.declared.extend(frame.header.lost.iter().cloned());
            self.kafka.push(Delivered { id, header: frame.header.clone(), records, run, is_repeated });
        }
    }

    /// Frame files below a folder, in the order of their making.
    fn files_in(&self, folder: &str) -> Vec<FrameId> {
        let mut files = Vec::new();
        for &epoch in &self.epochs {
            let Ok(entries) = fs::read_dir(self.dir.path().join(folder).join(epoch.to_string())) else { continue };
            let seq = |path: PathBuf| path.file_stem()?.to_str()?.parse().ok();
            let mut seqs: Vec<u64> = entries.filter_map(|entry| seq(entry.unwrap().path())).collect();
            seqs.sort_unstable();
            files.extend(seqs.into_iter().map(|seq| FrameId { epoch, seq }));
        }
        files
    }

    fn files(&self) -> Vec<FrameId> {
        self.files_in("spool")
    }

    fn folder(&self, epoch: Epoch) -> PathBuf {
        self.dir.path().join("spool").join(epoch.to_string())
    }

    fn path(&self, id: FrameId) -> PathBuf {
        self.folder(id.epoch).join(format!("{:020}.frame", id.seq))
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Tick(bytes) => drop(self.tick(bytes)),
            Action::Ship(frames) => self.ship(frames),
            Action::Wait(seconds) => self.elapsed += Duration::from_secs(seconds),
            Action::Crash(left) => {
                self.kill();
                let folder = self.files().last().map_or(self.dir.path().join("spool"), |id| self.folder(id.epoch));
                let temporary = folder.join(".1-0.tmp");
                if !self.is_full {
                    fs::write(&temporary, vec![0xc1; left]).unwrap();
                }
                self.start();
                assert!(!temporary.exists());
            }
            Action::Boot => {
                self.boot += 1;
                self.start();
            }
            Action::TornNewest(bytes) => self.tear_newest(bytes),
            Action::Flip(file, bit) => {
                let Some(id) = file.from(&self.files()) else { return };
                let mut bytes = fs::read(self.path(id)).unwrap();
                if !bytes.is_empty() {
                    let bit = bit.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    fs::write(self.path(id), bytes).unwrap();
                    self.reference.harmed.insert(id);
                }
            }
            Action::Remove(file) => {
                let files: Vec<FrameId> = self.files().into_iter().filter(|id| Some(*id) != self.newest).collect();
                let Some(id) = file.from(&files) else { return };
                self.outside(|| fs::remove_file(self.path(id)).unwrap());
                self.reference.harmed.insert(id);
                self.torn.remove(&id);
                let is_known = !self.unknown.contains(&id.epoch);
                if is_known { &mut self.reference.removed } else { &mut self.reference.forgotten }.insert(id);
            }
            Action::Away(epoch) => {
                let Some(epoch) = epoch.from(&self.epochs_there()) else { return };
                let to = self.dir.path().join("away").join(epoch.to_string());
                self.outside(|| fs::rename(self.folder(epoch), to).unwrap());
                self.late.insert(epoch);
            }
            Action::Back => self.bring_back(),
            Action::Deny(epoch) => {
                let Some(epoch) = epoch.from(&self.epochs_there()) else { return };
                fs::set_permissions(self.folder(epoch), fs::Permissions::from_mode(0o0)).unwrap();
                self.late.insert(epoch);
            }
            Action::Allow => self.allow(),
            Action::Full => self.set_full(true),
            Action::Writable => self.set_full(false),
            Action::Quota(bytes) => {
                self.quota = bytes;
                self.spool().set_limits(self.settings());
            }
        }
    }

    /// Acts, and compares with the reference.
    fn step(&mut self, action: Action) {
        self.act(action);
        let denied = self.denied();
        let mut present: BTreeSet<FrameId> = self.files().into_iter().chain(self.files_in("away")).collect();
        // The content of a denied folder stays unchanged.
        present.extend(self.reference.present.iter().filter(|id| denied.contains(&id.epoch)));
        if let Some((newest, key)) = self.kept {
            let is_harmed = [newest, key].iter().any(|id| self.reference.harmed.contains(id));
            let is_there = present.contains(&newest) && present.contains(&key);
            assert!(is_there || is_harmed, "{newest} or its key {key} does not stay");
        }
        self.reference.step(present);
    }

    fn tear_newest(&mut self, bytes: usize) {
        let Some(newest) = self.newest.filter(|newest| self.files().contains(newest)) else { return };
        let next = FrameId { seq: newest.seq + 1, ..newest };
        self.kill();
        let whole = fs::read(self.path(newest)).unwrap();
        if !self.path(next).exists() && !whole.is_empty() {
            self.outside(|| fs::write(self.path(next), &whole[..bytes.min(whole.len() - 1)]).unwrap());
            self.torn.insert(next);
        }
        self.start();
    }

    /// Epochs with a readable folder in the spool.
    fn epochs_there(&self) -> Vec<Epoch> {
        let there = |epoch: &Epoch| fs::read_dir(self.folder(*epoch)).is_ok();
        self.epochs.iter().copied().filter(there).collect()
    }

    /// True when a frame at the start or the end of an epoch is whole.
    fn has_header(&self, epoch: Epoch) -> bool {
        let files: Vec<FrameId> = self.files().into_iter().filter(|id| id.epoch == epoch).collect();
        let mut some = files.iter().take(3).chain(files.iter().rev().take(3));
        files.is_empty() || some.any(|id| !self.reference.harmed.contains(id) && !self.torn.contains(id))
    }

    fn denied(&self) -> BTreeSet<Epoch> {
        let denied = |epoch: &Epoch| self.folder(*epoch).exists() && fs::read_dir(self.folder(*epoch)).is_err();
        self.epochs.iter().copied().filter(denied).collect()
    }

    fn bring_back(&mut self) {
        let bring = |folder: fs::DirEntry| {
            let to = self.dir.path().join("spool").join(folder.file_name());
            fs::rename(folder.path(), to).unwrap();
        };
        let away = fs::read_dir(self.dir.path().join("away")).unwrap();
        self.outside(|| away.for_each(|folder| bring(folder.unwrap())));
    }

    fn allow(&mut self) {
        for epoch in self.denied() {
            fs::set_permissions(self.folder(epoch), fs::Permissions::from_mode(0o700)).unwrap();
        }
        self.set_modes(self.is_full);
    }

    fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        self.set_modes(is_full);
    }

    /// Sets the modes of the spool and of all folders except denied folders.
    fn set_modes(&self, is_full: bool) {
        let newest = self.newest.map(|id| id.epoch);
        let folders = self.epochs_there().into_iter().map(|epoch| (self.folder(epoch), Some(epoch) == newest));
        for (folder, takes_frames) in folders.chain([(self.dir.path().join("spool"), true)]) {
            let mode = if is_full && takes_frames { 0o500 } else { 0o700 };
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Changes the spool with full rights, which the agent lacks now.
    fn outside(&self, act: impl FnOnce()) {
        self.set_modes(false);
        act();
        self.set_modes(self.is_full);
    }

    /// Brings back and ships everything, with enough ticks for all pending declarations; then every frame is delivered
    /// or declared.
    fn settle(mut self) {
        self.step(Action::Back);
        self.step(Action::Allow);
        self.step(Action::Writable);
        for _ in 0..6 {
            self.step(Action::Tick(10));
            for _ in 0..12 {
                self.act(Action::Wait(60));
                self.act(Action::Ship(usize::MAX));
            }
        }
        let (lost, missed) = self.spool().declarations();
        assert!(lost.is_empty(), "still to be declared: {lost:?}");
        // Each start has ticks to declare: one entry per start.
        assert!(missed.is_empty(), "{missed:?}");
        assert_eq!(self.spool().state().unsent_frames, 0);
        let (frames, findings) = verify(self.dir.path()).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert!(frames.len() <= 2, "more than the newest frame and its key stay: {frames:?}");

        let mut delivered: BTreeMap<FrameId, &Delivered> = BTreeMap::new();
        for frame in &self.kafka {
            if let Some(before) = delivered.insert(frame.id, frame) {
                assert_eq!(before.records, frame.records, "{} was sent with two contents", frame.id);
            }
        }
        for (&id, raw) in &self.snapshots {
            match delivered.get(&id) {
                Some(frame) => self.is_whole(frame, raw, &delivered),
                None => assert!(
                    covers(&self.reference.declared, id) || self.reference.is_excused(id),
                    "{id} is missing without a declaration"
                ),
            }
        }
        // Every declared frame was harmed, dropped or away.
        for range in self.reference.declared.iter().filter(|range| range.reason != "spool_full") {
            for seq in range.first_seq..=range.last_seq {
                let id = FrameId { epoch: range.epoch, seq };
                let is_harmed = self.reference.harmed.contains(&id) || self.torn.contains(&id);
                assert!(is_harmed || self.late.contains(&id.epoch), "{range:?} was not harmed");
            }
        }
        self.assert_order();
    }

    fn is_whole(&self, frame: &Delivered, raw: &[u8], delivered: &BTreeMap<FrameId, &Delivered>) {
        let open = |frame: &Delivered, key: Option<&[u8]>| {
            let records = frame.records.iter().map(|record| Record::decode(record).unwrap());
            Frame::assemble(records.collect()).unwrap().open(key).unwrap()
        };
        let key = match frame.header.kind {
            FrameKind::Key => None,
            FrameKind::Delta => {
                let base = FrameId { seq: frame.header.base_seq, ..frame.id };
                match delivered.get(&base) {
                    Some(key) => Some(open(key, None)),
                    // Without its key a delta cannot be opened; deltas of a harmed key are delivered all the same.
                    None => {
                        let is_excused = self.reference.harmed.contains(&base) || self.late.contains(&base.epoch);
                        assert!(is_excused, "{} needs {base}, which was dropped", frame.id);
                        return;
                    }
                }
            }
        };
        assert!(open(frame, key.as_deref()) == raw, "{} means another snapshot", frame.id);
    }

    /// Between two starts, frames come in the order of their making.
    fn assert_order(&self) {
        let first = |frame: &&Delivered| !frame.is_repeated;
        let frames: Vec<&Delivered> = self.kafka.iter().filter(first).collect();
        for pair in frames.windows(2).filter(|pair| pair[0].run == pair[1].run) {
            let (a, b) = (pair[0], pair[1]);
            // A damaged frame may be whole again, and comes late; an epoch that was away comes late, but in order.
            let is_late =
                |frame: &Delivered| self.late.contains(&frame.id.epoch) || self.reference.harmed.contains(&frame.id);
            let in_order = if a.id.epoch == b.id.epoch {
                a.id.seq < b.id.seq || is_late(a) || is_late(b)
            } else {
                a.header.captured_ns <= b.header.captured_ns || is_late(a) || is_late(b)
            };
            assert!(in_order, "{} before {}", a.id, b.id);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.allow();
        nix::unistd::setfsuid(nix::unistd::geteuid());
    }
}

/// Makes the modes of files apply to this thread, as to the agent: `root` may read everything.
fn as_nobody(folder: &Path) {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(folder, Some(nobody.as_raw()), None).unwrap();
        nix::unistd::setfsuid(nobody);
    }
}

/// An incompressible snapshot, different at each tick.
fn snapshot(tick: u64, bytes: usize, id: FrameId) -> Vec<u8> {
    let mut state = tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise: String = (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + (state % 90) as u8)
        })
        .collect();
    let mut snapshot = Snapshot { host: Host { os: noise, ..Host::default() }, ..Snapshot::default() };
    (snapshot.agent.epoch, snapshot.agent.seq) = (id.epoch, id.seq);
    // All runs of this test are in the present boot: "missed" ticks before the test are of no interest.
    snapshot.time.boottime_ns = u64::MAX;
    encode_row(&snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("EDR_TEST_LONG").is_some() { 50_000 } else { 2_000 },
        max_shrink_iters: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_frame_is_missing_without_a_declaration(actions in prop::collection::vec(action(), 1..60)) {
        replay(&actions);
    }
}

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spool_model.regressions");

fn replay(actions: &[Action]) {
    let mut world = World::new();
    for &action in actions {
        world.step(action);
    }
    world.settle();
}

/// Plays a sequence with variations: with larger snapshots, since the sizes decide which frames are keys and are given
/// up together, and with changed choices of epochs and frames, since the sequence was found with epochs in random
/// order.
fn replay_alike(actions: &[Action]) {
    for (more, turn) in (0..4).flat_map(|more| (0..8_u64).map(move |turn| (80 * more, turn << 61))) {
        let alike = |action: &Action| match *action {
            Action::Tick(bytes) => Action::Tick(bytes + more),
            Action::Away(pick) => Action::Away(Pick(pick.0.wrapping_add(turn))),
            Action::Flip(pick, bit) => Action::Flip(Pick(pick.0.wrapping_add(turn)), bit),
            Action::Remove(pick) => Action::Remove(Pick(pick.0.wrapping_add(turn))),
            other => other,
        };
        replay(&actions.iter().map(alike).collect::<Vec<_>>());
    }
}

#[test]
fn an_epoch_that_was_away_at_a_start_comes_back_under_a_small_quota() {
    use Action::*;
    replay_alike(&[
        Tick(0),
        Quota(4000),
        Crash(0),
        Tick(279),
        Tick(437),
        Tick(51),
        Away(Pick(706687976043083898)),
        Boot,
        Back,
        Tick(2076),
        Boot,
        Tick(1697),
        Tick(510),
        Tick(901),
    ]);
}

#[test]
fn an_epoch_is_away_over_a_crash_and_later_frames_are_damaged() {
    use Action::*;
    replay_alike(&[
        Quota(4000),
        Tick(0),
        Away(Pick(0)),
        Tick(0),
        Tick(0),
        Crash(0),
        Tick(10),
        Tick(516),
        Tick(1294),
        Remove(Pick(6165765084756860418)),
        Tick(960),
        Flip(Pick(6148914786494070860), Pick(249795514048309913)),
        Tick(32),
        Remove(Pick(13902704139473724181)),
        Flip(Pick(11797218704391669291), Pick(332281530530317424)),
    ]);
}

#[test]
fn three_epochs_are_away_and_come_back_one_run_later() {
    use Action::*;
    replay_alike(&[
        Tick(525),
        Tick(1720),
        Away(Pick(13837097841611792269)),
        Tick(1991),
        Tick(2825),
        Away(Pick(1319585292781520658)),
        Tick(1136),
        Away(Pick(14873839663217533993)),
        Back,
        Tick(2246),
        Remove(Pick(15804390416687895813)),
        Flip(Pick(4469416878457070048), Pick(16712853179863065748)),
        Tick(1992),
        Tick(1292),
        Tick(2866),
        Ship(1),
        Tick(366),
        Boot,
        Tick(2617),
        Tick(2635),
        Tick(387),
        Ship(3),
        Tick(882),
        Ship(4),
        Ship(2),
        Ship(5),
    ]);
}

#[test]
fn the_first_to_declare_is_damaged_and_the_others_run_out_of_room() {
    use Action::*;
    replay_alike(&[
        Tick(58),
        Flip(Pick(8557571990866927809), Pick(200574365989782600)),
        Ship(5),
        Tick(253),
        Tick(2514),
        Tick(2136),
        Away(Pick(12379499466212164488)),
        Tick(1079),
        Boot,
        Tick(667),
        Quota(19257),
        Tick(612),
        Ship(5),
        Ship(5),
        Tick(1593),
        Ship(5),
        Tick(1576),
        Ship(5),
        Back,
        Back,
        Tick(1209),
        Tick(465),
        Ship(3),
        Tick(2212),
        Ship(4),
        Tick(460),
        TornNewest(162),
        Tick(2426),
        Tick(2966),
        Tick(1059),
        Ship(1),
        Flip(Pick(8169920419735251945), Pick(13162399721995759397)),
        Quota(36706),
    ]);
}

#[test]
fn epochs_go_away_and_come_back_over_several_crashes() {
    use Action::*;
    replay_alike(&[
        Tick(1985),
        Boot,
        Ship(5),
        Tick(1802),
        Away(Pick(8328828490541332300)),
        Ship(4),
        Tick(2543),
        Tick(1493),
        Tick(926),
        Away(Pick(3006383936484420635)),
        Flip(Pick(8640593474139300553), Pick(5875631662301292029)),
        Crash(1186),
        Ship(1),
        Tick(1454),
        Tick(725),
        Away(Pick(8514008335472064640)),
        TornNewest(177),
        Crash(773),
        Ship(4),
        Tick(1530),
        TornNewest(207),
        Tick(1767),
        Ship(4),
        Tick(1565),
        Tick(815),
        Away(Pick(17496119932609517824)),
        Tick(1229),
        Tick(1789),
        Ship(4),
        Back,
        Tick(473),
        Tick(0),
        Ship(1),
        Away(Pick(17145752751746999892)),
        Back,
        Crash(534),
        Back,
        Remove(Pick(433613573177585971)),
        Tick(597),
        Tick(2252),
        Tick(2676),
        Tick(2330),
        Away(Pick(2711882753162741564)),
        Ship(1),
        Tick(2761),
        Tick(2519),
    ]);
}

#[test]
fn epochs_come_back_between_changes_of_the_quota() {
    use Action::*;
    replay_alike(&[
        Ship(5),
        Tick(2841),
        Tick(1648),
        Quota(12611),
        Tick(2048),
        Tick(586),
        Away(Pick(11056583823450163161)),
        Tick(2453),
        Tick(291),
        TornNewest(25),
        Tick(784),
        Tick(1474),
        Away(Pick(14152840037735871970)),
        Tick(1191),
        Tick(716),
        Away(Pick(2062714430241341481)),
        Boot,
        Tick(2897),
        Flip(Pick(1119927042873120788), Pick(10096264381774412719)),
        Ship(2),
        Ship(5),
        Tick(785),
        Tick(855),
        Tick(133),
        Ship(1),
        Tick(9),
        Ship(2),
        Tick(40),
        Tick(828),
        Ship(2),
        Tick(1733),
        Ship(3),
        Flip(Pick(5983242857322275363), Pick(6530288028033994445)),
        Back,
        Back,
        Quota(20594),
        Back,
        Crash(1476),
        Quota(6938),
        Tick(615),
        Ship(4),
        Tick(1324),
        Tick(1452),
        Quota(14320),
        Tick(932),
        Tick(1021),
        Away(Pick(5543994443332342767)),
        Ship(2),
    ]);
}

/// The newest frame's key is lost after declaring the loss of further frames. The newest frame's snapshot cannot be
/// read, but its header has the only copy of the declarations. The newest frame is never sent, since room runs out
/// again.
#[test]
fn declarations_survive_the_loss_of_a_key() {
    // The sizes decide which frame becomes a key; one of these sizes gives the wanted scene.
    let scene = |bytes: usize| {
        let mut world = World::new();
        world.quota = 15_000;
        world.spool().set_limits(world.settings());
        while world.spool().declarations().0.is_empty() {
            world.tick(bytes);
        }
        world.act(Action::Quota(1 << 20));
        let key = world.tick(3_000);
        let newest = world.tick(10);
        (key.kind == FrameKind::Key && newest.kind == FrameKind::Delta).then_some((world, key.id))
    };
    let (mut world, key) = (500..3_000).step_by(50).find_map(scene).unwrap();
    fs::remove_file(world.path(key)).unwrap();
    world.reference.harmed.insert(key);
    world.reference.removed.insert(key);
    world.step(Action::Boot);
    world.step(Action::Quota(9_000));
    for _ in 0..8 {
        world.step(Action::Tick(2_000));
    }
    world.settle();
}
