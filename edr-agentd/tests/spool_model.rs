//! The spool under random actions, with every way a crash, a bad disk or a stranger can leave its folder, against
//! what it promises: no accepted frame is missing without a word, no (epoch, seq) ever stands for two snapshots, and
//! order is kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edr_agentd::config;
use edr_agentd::sample::{Framer, Made, Moment, Shape};
use edr_agentd::spool::{FrameId, Patience, Spool, verify};
use edr_wire::frame::{FrameHeader, FrameKind, LostRange};
use edr_wire::snapshot::{Host, Snapshot, encode_row};
use edr_wire::{Epoch, HostId};
use proptest::prelude::*;

const HOST: HostId = HostId([3; 16]);
const SHAPE: Shape = Shape { key_interval: Duration::from_secs(40), part_bytes_max: 700 };

#[derive(Debug, Clone)]
enum Action {
    /// A tick with a snapshot of so many incompressible bytes.
    Tick(usize),
    /// Kafka takes so many frames, oldest first.
    Ship(usize),
    /// `kill -9` between two system calls, and a start. What a write in progress may leave is there: a temporary
    /// file, cut.
    Crash(usize),
    /// The same, and the machine was booted.
    Boot,
    /// A write that power loss tore: the name is there, the content is not whole.
    TornNewest(usize),
    /// One bit of one frame's file flips.
    Flip(prop::sample::Index, prop::sample::Index),
    /// Somebody removes a frame's file. Not the newest one: that it was there, nothing else knows.
    Remove(prop::sample::Index),
    /// Another quota.
    Quota(u64),
    /// The folder of an epoch is away, with its disk.
    Away(prop::sample::Index),
    /// What is away is back.
    Back,
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        12 => (0..3_000_usize).prop_map(Action::Tick),
        5 => (1..6_usize).prop_map(Action::Ship),
        2 => (0..2_000_usize).prop_map(Action::Crash),
        1 => Just(Action::Boot),
        1 => (0..300_usize).prop_map(Action::TornNewest),
        1 => (index(), index()).prop_map(|(file, bit)| Action::Flip(file, bit)),
        1 => index().prop_map(Action::Remove),
        1 => (4_000..40_000_u64).prop_map(Action::Quota),
        2 => index().prop_map(Action::Away),
        2 => Just(Action::Back),
    ]
}

/// A host, its agent, and what Kafka got from it.
struct World {
    dir: tempfile::TempDir,
    agent: Option<(Arc<Spool>, Framer)>,
    quota: u64,
    boot: u32,
    ticks: u64,
    /// Starts of the agent.
    run: usize,
    newest: Option<(Epoch, u64)>,
    /// Every accepted frame: the snapshot, and where its loss would be somebody else's fault.
    accepted: BTreeMap<(Epoch, u64), Vec<u8>>,
    /// Frames whose files were damaged from outside.
    harmed: BTreeSet<(Epoch, u64)>,
    /// Frames that somebody removed and the running agent has not missed yet; a start forgets them.
    removed: BTreeSet<(Epoch, u64)>,
    forgotten: BTreeSet<(Epoch, u64)>,
    /// What each accepted frame declares lost.
    says: BTreeMap<(Epoch, u64), Vec<LostRange>>,
    /// Names that a torn write left and that never were a frame.
    torn: BTreeSet<(Epoch, u64)>,
    /// Epochs that were away.
    away: BTreeSet<Epoch>,
    /// Frames that were made in memory, and not sent when the agent was killed.
    in_memory: BTreeSet<(Epoch, u64)>,
    kafka: Vec<Delivered>,
}

struct Delivered {
    header: FrameHeader,
    records: Vec<Vec<u8>>,
    run: usize,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self {
            dir,
            agent: None,
            quota: 30_000,
            boot: 0,
            ticks: 0,
            run: 0,
            newest: None,
            accepted: BTreeMap::new(),
            harmed: BTreeSet::new(),
            removed: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            says: BTreeMap::new(),
            torn: BTreeSet::new(),
            away: BTreeSet::new(),
            in_memory: BTreeSet::new(),
            kafka: Vec::new(),
        };
        world.start();
        world
    }

    fn settings(&self) -> config::Spool {
        config::Spool { bytes_max: self.quota, free_bytes_min: 0 }
    }

    /// What was in memory is gone with the agent.
    fn kill(&mut self) {
        if self.agent.take().is_some_and(|(spool, _)| spool.state().memory_only) {
            let disk: BTreeSet<Epoch> = self.files().into_iter().map(|(_, id)| id.0).chain(self.away.clone()).collect();
            self.in_memory.extend(self.accepted.keys().filter(|(epoch, _)| !disk.contains(epoch)));
        }
    }

    fn start(&mut self) {
        self.kill();
        self.run += 1;
        self.forgotten.append(&mut self.removed);
        let (spool, resume) = Spool::open(self.dir.path(), self.dir.path(), self.settings()).unwrap();
        // What is away comes back; it is asked for at each call.
        let now = Duration::ZERO;
        spool.set_patience(Patience { first: now, last: now, ..Patience::default() });
        let spool = Arc::new(spool);
        let boot = self.boot_id();
        let (framer, _) = Framer::start(Arc::clone(&spool), &resume, HOST, &boot, Duration::from_secs(3600));
        self.agent = Some((spool, framer));
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    fn tick(&mut self, bytes: usize) -> Made {
        self.ticks += 1;
        let tick = self.ticks;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let moment = Moment {
            host_id: HOST,
            boot_id: self.boot_id(),
            captured_ns: i64::try_from(now.as_nanos()).unwrap(),
            boottime: Duration::from_secs(10 * tick),
            bye: false,
        };
        let (spool, framer) = self.agent.as_mut().unwrap();
        let (lost, _) = spool.declarations();
        let mut raw = Vec::new();
        let made = framer.frame(&moment, SHAPE, &mut Vec::new(), |id| {
            raw = snapshot(tick, bytes, id);
            raw.clone()
        });
        let made = made.unwrap();
        let twice = self.accepted.insert((made.id.epoch, made.id.seq), raw);
        assert!(twice.is_none(), "{} stands for two snapshots", made.id);
        assert!(!self.torn.contains(&(made.id.epoch, made.id.seq)), "{} was a torn name", made.id);
        self.newest = Some((made.id.epoch, made.id.seq));
        self.says.insert((made.id.epoch, made.id.seq), lost);
        made
    }

    fn ship(&mut self, frames: usize) {
        let (spool, _) = self.agent.as_ref().unwrap();
        let run = self.run;
        for _ in 0..frames {
            let Some(id) = spool.oldest_unsent() else { return };
            let Some(frame) = spool.load(id) else {
                if spool.trouble().is_some() {
                    return;
                }
                continue;
            };
            let records = frame.records().map(<[u8]>::to_vec).collect();
            self.kafka.push(Delivered { header: frame.header.clone(), records, run });
            spool.acknowledge(id);
        }
    }

    fn files(&self) -> Vec<(PathBuf, (Epoch, u64))> {
        let mut files = Vec::new();
        for folder in fs::read_dir(self.dir.path().join("spool")).unwrap() {
            let folder = folder.unwrap();
            let Ok(epoch) = folder.file_name().to_str().unwrap().parse::<Epoch>() else { continue };
            for file in fs::read_dir(folder.path()).unwrap() {
                let path = file.unwrap().path();
                let seq = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                files.push((path, (epoch, seq)));
            }
        }
        files.sort();
        files
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Tick(bytes) => drop(self.tick(bytes)),
            Action::Ship(frames) => self.ship(frames),
            Action::Crash(left) => {
                self.kill();
                let folder = self
                    .files()
                    .last()
                    .map_or(self.dir.path().join("spool"), |(path, _)| path.parent().map(Path::to_owned).unwrap());
                fs::write(folder.join(".1-0.tmp"), vec![0xc1; left]).unwrap();
                self.start();
                assert!(!folder.join(".1-0.tmp").exists());
            }
            Action::Boot => {
                self.boot += 1;
                self.start();
            }
            Action::TornNewest(bytes) => {
                let newest = self.files().into_iter().find(|(_, id)| Some(*id) == self.newest);
                let Some((path, (epoch, seq))) = newest else { return };
                self.kill();
                let whole = fs::read(&path).unwrap();
                let name = path.with_file_name(format!("{:020}.frame", seq + 1));
                if name.exists() {
                    return self.start();
                }
                fs::write(name, &whole[..bytes.min(whole.len() - 1)]).unwrap();
                self.torn.insert((epoch, seq + 1));
                self.start();
            }
            Action::Flip(file, bit) => {
                let files = self.files();
                if files.is_empty() {
                    return;
                }
                let (path, id) = file.get(&files);
                let mut bytes = fs::read(path).unwrap();
                if !bytes.is_empty() {
                    let bit = bit.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    fs::write(path, bytes).unwrap();
                    self.harmed.insert(*id);
                }
            }
            Action::Remove(file) => {
                let files: Vec<_> = self.files().into_iter().filter(|(_, id)| Some(*id) != self.newest).collect();
                if !files.is_empty() {
                    let (path, id) = file.get(&files);
                    fs::remove_file(path).unwrap();
                    self.harmed.insert(*id);
                    self.removed.insert(*id);
                    self.torn.remove(id);
                }
            }
            Action::Away(epoch) => {
                let epochs: BTreeSet<Epoch> = self.files().into_iter().map(|(_, id)| id.0).collect();
                if !epochs.is_empty() {
                    let epochs: Vec<Epoch> = epochs.into_iter().collect();
                    let epoch = *epoch.get(&epochs);
                    let name = epoch.to_string();
                    fs::create_dir_all(self.dir.path().join("away")).unwrap();
                    let to = self.dir.path().join("away").join(&name);
                    if !to.exists() {
                        fs::rename(self.dir.path().join("spool").join(&name), to).unwrap();
                        self.away.insert(epoch);
                    }
                }
            }
            Action::Back => self.bring_back(),
            Action::Quota(bytes) => {
                self.quota = bytes;
                self.agent.as_ref().unwrap().0.set_limits(self.settings());
            }
        }
    }

    fn bring_back(&mut self) {
        let Ok(away) = fs::read_dir(self.dir.path().join("away")) else { return };
        for folder in away {
            let folder = folder.unwrap();
            fs::rename(folder.path(), self.dir.path().join("spool").join(folder.file_name())).unwrap();
        }
    }

    /// Everything is shipped, with enough ticks to declare what there is to declare; then the books must balance.
    fn settle(mut self) {
        self.bring_back();
        self.ship(usize::MAX);
        if !self.away.is_empty() {
            // An agent that was started while they were away finds them at its next start.
            self.act(Action::Crash(0));
            self.ship(usize::MAX);
        }
        for _ in 0..4 {
            self.tick(10);
            self.ship(usize::MAX);
        }
        let (spool, _) = self.agent.as_ref().unwrap();
        let (lost, missed) = spool.declarations();
        assert!(lost.is_empty(), "still to be declared: {lost:?}");
        // A start has ticks to declare: one entry each.
        assert!(missed.is_empty(), "{missed:?}");
        assert_eq!(spool.state().unsent_frames, 0);
        let (frames, findings) = verify(self.dir.path()).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert!(frames.len() <= 2, "more than the newest frame and its key stay: {frames:?}");

        let mut delivered: BTreeMap<(Epoch, u64), &Delivered> = BTreeMap::new();
        for frame in &self.kafka {
            let id = (frame.header.epoch, frame.header.seq);
            if let Some(before) = delivered.insert(id, frame) {
                assert_eq!(before.records, frame.records, "{id:?} was sent with two contents");
            }
        }
        let said: Vec<_> = self.kafka.iter().flat_map(|frame| frame.header.lost.iter()).collect();
        let is_said = |(epoch, seq): (Epoch, u64)| {
            said.iter().any(|lost| lost.epoch == epoch && (lost.first_seq..=lost.last_seq).contains(&seq))
        };
        for (&id, raw) in &self.accepted {
            match delivered.get(&id) {
                Some(frame) => self.is_whole(id, frame, raw, &delivered),
                None => assert!(is_said(id) || self.is_excused(id), "{id:?} is missing without a word"),
            }
        }
        // {1..highest} of every epoch is delivered or declared, and nothing is declared that was not harmed or dropped.
        for &(epoch, last) in delivered.keys() {
            for seq in 1..=last {
                let id = (epoch, seq);
                let explained = delivered.contains_key(&id) || is_said(id) || self.is_excused(id);
                assert!(explained, "{epoch}/{seq} unexplained");
            }
        }
        for lost in said.iter().filter(|lost| lost.reason != "spool_full") {
            for seq in lost.first_seq..=lost.last_seq {
                let id = (lost.epoch, seq);
                assert!(self.harmed.contains(&id) || self.torn.contains(&id), "{lost:?} was not harmed");
            }
        }
        self.assert_order();
    }

    /// What no agent can know: a file that vanished while no agent ran, and what only damaged frames said, if they
    /// were two or more.
    fn is_excused(&self, (epoch, seq): (Epoch, u64)) -> bool {
        let covers = |lost: &LostRange| lost.epoch == epoch && (lost.first_seq..=lost.last_seq).contains(&seq);
        let mut carriers = self.says.iter().filter(|(_, said)| said.iter().any(covers)).map(|(id, _)| id);
        let (count, harmed) = (carriers.clone().count(), carriers.all(|id| self.harmed.contains(id)));
        let id = (epoch, seq);
        self.forgotten.contains(&id) || self.in_memory.contains(&id) || (count >= 2 && harmed)
    }

    fn is_whole(
        &self,
        id: (Epoch, u64),
        frame: &Delivered,
        raw: &[u8],
        delivered: &BTreeMap<(Epoch, u64), &Delivered>,
    ) {
        let open = |frame: &Delivered, key: Option<&[u8]>| {
            let records = frame.records.iter().map(|record| edr_wire::frame::Record::decode(record).unwrap());
            edr_wire::frame::Frame::assemble(records.collect()).unwrap().open(key).unwrap()
        };
        let key = match frame.header.kind {
            FrameKind::Key => None,
            FrameKind::Delta => {
                let base = (id.0, frame.header.base_seq);
                match delivered.get(&base) {
                    Some(key) => Some(open(key, None)),
                    // A key that was harmed takes its deltas with it; they are delivered all the same.
                    None => {
                        assert!(self.harmed.contains(&base), "{id:?} needs {base:?}, which was dropped");
                        return;
                    }
                }
            }
        };
        assert!(open(frame, key.as_deref()) == raw, "{id:?} means another snapshot");
    }

    /// Between two starts, frames come in the order of their making.
    fn assert_order(&self) {
        for pair in self.kafka.windows(2).filter(|pair| pair[0].run == pair[1].run) {
            let (a, b) = (&pair[0].header, &pair[1].header);
            // An epoch that was away comes late, but in its order.
            let late = [a, b].iter().any(|header| self.away.contains(&header.epoch));
            let ordered = if a.epoch == b.epoch { a.seq < b.seq } else { late || a.captured_ns <= b.captured_ns };
            assert!(ordered, "{}/{} before {}/{}", a.epoch, a.seq, b.epoch, b.seq);
        }
    }
}

/// A snapshot whose bytes no compression shrinks, and different at each tick.
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
    // Every run of this test is in the present boot: ticks "missed" before it are not what it is about.
    snapshot.time.boottime_ns = u64::MAX;
    encode_row(&snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_books_balance_whatever_happens(actions in prop::collection::vec(action(), 1..60)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.settle();
    }
}

/// The newest frame's key is gone, and it was the first to declare the loss of others: the newest frame's snapshot cannot
/// be read, but its header is all that still speaks of them. And it is never sent, since room runs out again.
#[test]
fn declarations_survive_the_loss_of_a_key() {
    // Which frame becomes a key depends on their sizes: one of these comes out as it is needed.
    let scene = |bytes: usize| {
        let mut world = World::new();
        world.quota = 15_000;
        world.agent.as_ref().unwrap().0.set_limits(world.settings());
        while world.agent.as_ref().unwrap().0.declarations().0.is_empty() {
            world.tick(bytes);
        }
        world.act(Action::Quota(1 << 20));
        let key = world.tick(3_000);
        let newest = world.tick(10);
        (key.kind == FrameKind::Key && newest.kind == FrameKind::Delta).then_some((world, (key.id.epoch, key.id.seq)))
    };
    let (mut world, key) = (500..3_000).step_by(50).find_map(scene).unwrap();
    let (path, id) = world.files().into_iter().find(|(_, id)| *id == key).unwrap();
    fs::remove_file(path).unwrap();
    world.harmed.insert(id);
    world.removed.insert(id);
    world.act(Action::Boot);
    world.act(Action::Quota(9_000));
    for _ in 0..8 {
        world.tick(2_000);
    }
    world.settle();
}
