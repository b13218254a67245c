//! A host with an agent, a spool, and the frames received by Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edr_agentd::config;
use edr_agentd::sample::{AcceptedFrame, Framer, Moment, Shape};
use edr_agentd::spool::{FrameId, Spool, Thinning};
use edr_wire::frame::{FrameHeader, FrameKind};
use edr_wire::snapshot::{Host, Snapshot, encode_row};
use edr_wire::{Epoch, HostId};

use super::action::Action;
use super::reference::{Reference, covers};

pub(super) const HOST: HostId = HostId([3; 16]);
pub(super) const SHAPE: Shape = Shape { key_interval: Duration::from_secs(40), part_bytes_max: 700 };

/// A snapshot is taken each second.
pub(super) const THINNING: Thinning = Thinning { steps: [Duration::from_secs(4), Duration::from_secs(16)] };

/// A host, its agent, and the frames received by Kafka.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) agent: Option<(Arc<Spool>, Framer)>,
    pub(super) reference: Reference,
    pub(super) quota: u64,
    pub(super) boot: u32,
    pub(super) ticks: u64,
    pub(super) started: (Instant, SystemTime),
    pub(super) elapsed: Duration,
    /// Starts of the agent.
    pub(super) run: usize,
    /// In the order of their making.
    pub(super) epochs: Vec<Epoch>,
    pub(super) newest: Option<FrameId>,
    /// The newest frame accepted on the disk, and its key.
    pub(super) kept: Option<(FrameId, FrameId)>,
    pub(super) is_full: bool,
    pub(super) snapshots: BTreeMap<FrameId, Vec<u8>>,
    /// Times of the captures, in ns since 1970.
    pub(super) captured: BTreeMap<FrameId, i64>,
    /// Names left by a torn write; no frame was accepted under these names.
    pub(super) torn: BTreeSet<FrameId>,
    /// Epochs unknown to the running agent: away or denied at its start, and at every tick since.
    pub(super) unknown: BTreeSet<Epoch>,
    /// False after a start without an order of the epochs.
    pub(super) is_order_known: bool,
    /// Epochs that were away or denied, or have no readable header: their frames may be late, and may be declared lost.
    pub(super) late: BTreeSet<Epoch>,
    pub(super) kafka: Vec<Delivered>,
}

pub(super) struct Delivered {
    pub(super) id: FrameId,
    pub(super) header: FrameHeader,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) run: usize,
    pub(super) is_repeated: bool,
}

impl World {
    pub(super) fn new() -> Self {
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
            captured: BTreeMap::new(),
            torn: BTreeSet::new(),
            unknown: BTreeSet::new(),
            is_order_known: true,
            late: BTreeSet::new(),
            kafka: Vec::new(),
        };
        world.start();
        world
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.agent.as_ref().unwrap().0
    }

    pub(super) fn settings(&self) -> config::Spool {
        config::Spool { bytes_max: self.quota, free_bytes_min: 0 }
    }

    pub(super) fn now(&self) -> Instant {
        self.started.0 + self.elapsed
    }

    pub(super) fn kill(&mut self) {
        self.agent = None;
        self.reference.kill();
    }

    pub(super) fn start(&mut self) {
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
        spool.set_thinning(THINNING);
        let hour = Duration::from_secs(3600);
        let (framer, _) = Framer::start(Arc::clone(&spool), &resume, HOST, &self.boot_id(), hour);
        self.agent = Some((spool, framer));
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub(super) fn tick(&mut self, bytes: usize) -> AcceptedFrame {
        self.ticks += 1;
        self.elapsed += Duration::from_secs(10);
        let tick = self.ticks;
        // In order, and within two minutes of the files' own times.
        let captured = self.started.1.duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(tick);
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
        self.captured.insert(made.id, moment.captured_ns);
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
    pub(super) fn must_declare(&self) -> Vec<FrameId> {
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

    pub(super) fn ship(&mut self, frames: usize) {
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
    pub(super) fn files_in(&self, folder: &str) -> Vec<FrameId> {
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

    pub(super) fn files(&self) -> Vec<FrameId> {
        self.files_in("spool")
    }

    pub(super) fn folder(&self, epoch: Epoch) -> PathBuf {
        self.dir.path().join("spool").join(epoch.to_string())
    }

    pub(super) fn path(&self, id: FrameId) -> PathBuf {
        self.folder(id.epoch).join(format!("{:020}.frame", id.seq))
    }

    pub(super) fn act(&mut self, action: Action) {
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
    pub(super) fn step(&mut self, action: Action) {
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

    pub(super) fn tear_newest(&mut self, bytes: usize) {
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
}

impl Drop for World {
    fn drop(&mut self) {
        self.allow();
        nix::unistd::setfsuid(nix::unistd::geteuid());
    }
}

/// Makes the modes of files apply to this thread, as to the agent: `root` may read everything.
pub(super) fn as_nobody(folder: &Path) {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(folder, Some(nobody.as_raw()), None).unwrap();
        nix::unistd::setfsuid(nobody);
    }
}

/// An incompressible snapshot, different at each tick.
pub(super) fn snapshot(tick: u64, bytes: usize, id: FrameId) -> Vec<u8> {
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
