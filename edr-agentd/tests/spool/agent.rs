//! An agent without sources: frames of invented snapshots.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edr_agentd::config;
use edr_agentd::sample::{AcceptedFrame, Framer, Moment, Shape};
use edr_agentd::spool::{FrameId, Spool};
use edr_wire::HostId;
use edr_wire::frame::{FrameHeader, FrameKind, LostRange, Record, split_records};
use edr_wire::snapshot::{Host, Snapshot, encode_row};

pub(crate) const SETTINGS: config::Spool = config::Spool { bytes_max: 64 << 20, free_bytes_min: 0 };

pub(crate) struct SpoolAgent {
    pub(crate) spool: Arc<Spool>,
    pub(crate) framer: Framer,
    pub(crate) host_id: HostId,
    pub(crate) boot_id: &'static str,
    pub(crate) ticks: u64,
    /// Time between two captures, added to the present time.
    pub(crate) pace: Duration,
}

impl SpoolAgent {
    pub(crate) fn start(state_dir: &Path, settings: config::Spool) -> Self {
        Self::start_as(state_dir, settings, HostId([1; 16]), "boot")
    }

    pub(crate) fn start_as(state_dir: &Path, settings: config::Spool, host_id: HostId, boot_id: &'static str) -> Self {
        let (spool, resume) = Spool::open(state_dir, state_dir, settings).unwrap();
        let spool = Arc::new(spool);
        let hour = Duration::from_secs(3600);
        let (framer, _) = Framer::start(Arc::clone(&spool), &resume, host_id, boot_id, hour);
        Self { spool, framer, host_id, boot_id, ticks: 0, pace: Duration::ZERO }
    }

    /// Makes a tick whose snapshot has 3,000 constant bytes and `bytes` changing bytes, all incompressible.
    pub(crate) fn tick(&mut self, bytes: usize) -> AcceptedFrame {
        self.ticks += 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let moment = Moment {
            host_id: self.host_id,
            boot_id: self.boot_id.to_owned(),
            captured_ns: i64::try_from((now + self.pace * self.ticks as u32).as_nanos()).unwrap(),
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
    pub(crate) fn ship(&self) -> (Vec<FrameId>, Vec<LostRange>) {
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
pub(crate) fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut FrameHeader)) {
    let bytes = fs::read(from).unwrap();
    let mut header = Record::decode(split_records(&bytes).next().unwrap().unwrap()).unwrap().header;
    change(&mut header);
    (header.kind, header.base_seq) = (FrameKind::Key, header.seq);
    let raw = encode_row(&Snapshot::default());
    let frame = edr_wire::frame::EncodedFrame::encode(&header, &raw, None, 1 << 20).unwrap();
    fs::write(to, frame.records.concat()).unwrap();
}

pub(crate) fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    (0..bytes).map(next).collect()
}

pub(crate) fn frames(state_dir: &Path) -> Vec<PathBuf> {
    let mut frames: Vec<PathBuf> = fs::read_dir(state_dir.join("spool"))
        .unwrap()
        .map(|folder| folder.unwrap().path())
        .filter(|folder| folder.file_name().unwrap() != "set-aside")
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()))
        .collect();
    frames.sort();
    frames
}

pub(crate) fn bytes(state_dir: &Path) -> u64 {
    frames(state_dir).iter().map(|frame| frame.metadata().unwrap().len()).sum()
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
