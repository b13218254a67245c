//! From a snapshot's bytes to an accepted frame.
//!
//! A frame is accepted when stored in the spool; only then the chain advances. When the disk does not take a frame, the
//! same snapshot is kept in memory under a new epoch, so that no (epoch, seq) ever stands for two snapshots.

use std::sync::Arc;
use std::time::Duration;

use edr_wire::frame::{EncodedFrame, FrameError, FrameHeader, FrameKind};
use edr_wire::snapshot::{Position, SourceCost};
use edr_wire::{Epoch, HostId};

use super::chain::{ChainStart, FrameChain};
use super::ticks;
use super::usual::UsualSizes;
use crate::clock::{boottime, nanos};
use crate::disk_fault::DiskFault;
use crate::event::Event;
use crate::heartbeat::Heartbeat;
use crate::spool::{FrameId, Resume, Spool, SpoolError};
use edr_sources::common::cost::measured;

/// Minimum number of bytes accepted by the disk before frames go to the disk again.
const PROBE_BYTES_MIN: usize = 64 << 10;

/// The host and the time of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The host.
    pub host_id: HostId,
    /// The boot of the host.
    pub boot_id: String,
    /// Wall clock, ns since the epoch.
    pub captured_ns: i64,
    /// Time since boot.
    pub boottime: Duration,
    /// True when the agent stops after this snapshot.
    pub bye: bool,
}

/// Parameters of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Longest time between two keys.
    pub key_interval: Duration,
    /// Largest body of one record, bytes.
    pub part_bytes_max: usize,
}

/// An accepted frame.
#[derive(Debug, Clone)]
pub struct AcceptedFrame {
    /// Epoch and seq.
    pub id: FrameId,
    /// Key or delta.
    pub kind: FrameKind,
    /// Bytes of the snapshot, uncompressed.
    pub raw_bytes: usize,
    /// Bytes of the frame.
    pub bytes: usize,
    /// Usual bytes of frames of this kind, if this frame has ten times as many or more.
    pub usual_bytes: Option<usize>,
    /// True when the frame announces the stop of the agent.
    pub bye: bool,
    /// The reason why the frame is only in memory; `None` when the disk took the frame.
    pub disk_fault: Option<DiskFault>,
}

/// Makes the frames of a run of the agent.
#[derive(Debug)]
pub struct Framer {
    spool: Arc<Spool>,
    chain: FrameChain,
    /// The fault of the disk while frames are kept in memory.
    in_memory: Option<DiskFault>,
    sizes: UsualSizes,
    /// Beats between two steps, each of which may be slow on a failing disk.
    heartbeat: Arc<Heartbeat>,
}

impl Framer {
    /// Continues after the newest frame of the spool. Takes over the declarations of an earlier run that are still due,
    /// and declares the ticks missed since. Returns the log positions of the newest frame.
    pub fn start(
        spool: Arc<Spool>,
        resume: &Resume,
        host_id: HostId,
        boot_id: &str,
        interval: Duration,
    ) -> (Self, Vec<Position>) {
        let in_memory = spool.state().memory_only;
        let (chain, start) = FrameChain::start(resume, host_id, boot_id, in_memory, new_epoch());
        // True when an agent ran in this boot.
        let witnessed = resume.last_made.as_ref().is_some_and(|made| made.boot_id == boot_id);
        let proven = matches!(start, ChainStart::Continued | ChainStart::InMemory);
        let (mut positions, mut last) = (Vec::new(), None);
        let mut reason = if witnessed && !proven { ticks::UNKNOWN } else { ticks::NOT_RUNNING };
        if let Some(header) = resume.declared.as_ref().filter(|header| header.host_id == host_id) {
            let missed = if header.boot_id == boot_id { header.missed.as_slice() } else { &[] };
            spool.take_over(&header.lost, missed);
        }
        if let Some(newest) = resume.newest.as_ref().filter(|newest| newest.header.host_id == host_id) {
            // The view was checked when the frame was read; a field of another shape counts as missing.
            positions = newest.snapshot.positions().unwrap_or_default();
            if newest.header.boot_id == boot_id {
                last = newest.snapshot.time().ok().map(|time| Duration::from_nanos(time.boottime_ns));
                reason = match (proven, newest.header.bye) {
                    (false, _) => ticks::UNKNOWN,
                    (true, true) => ticks::STOPPED,
                    (true, false) => ticks::NOT_RUNNING,
                };
            }
        }
        if let Some(missed) = ticks::missed_before(last, boottime(), interval, reason) {
            spool.declare_missed(missed);
        }
        log_start(&chain, start, host_id, positions.len());
        // The first frame probes the disk and so finds the reason.
        let in_memory = spool.state().memory_only.then(DiskFault::default);
        let (sizes, heartbeat) = (UsualSizes::default(), Arc::default());
        (Self { spool, chain, in_memory, sizes, heartbeat }, positions)
    }

    /// Beats on `heartbeat` while a frame is made.
    #[must_use]
    pub fn beating(self, heartbeat: &Arc<Heartbeat>) -> Self {
        Self { heartbeat: Arc::clone(heartbeat), ..self }
    }

    /// Makes a frame of a snapshot and stores the frame in the spool. `encode` returns the snapshot's bytes for an
    /// (epoch, seq), and is called again when the disk refuses the frame and another epoch begins.
    ///
    /// # Errors
    /// When the snapshot does not fit a frame; then nothing has changed.
    pub fn frame(
        &mut self,
        moment: &Moment,
        shape: Shape,
        cost: &mut Vec<SourceCost>,
        mut encode: impl FnMut(FrameId) -> Vec<u8>,
    ) -> Result<AcceptedFrame, FrameError> {
        if self.in_memory.is_some() {
            match self.spool.recover(self.chain.key_bytes().max(PROBE_BYTES_MIN)) {
                Ok(true) => {
                    edr_daemon::limited!(
                        log::Level::Info,
                        Event::SpoolUsable,
                        EDR_SOURCE = "spool",
                        "the spool takes frames again"
                    );
                    self.in_memory = None;
                    self.chain.begin(new_epoch());
                }
                Ok(false) => {}
                Err(error) => self.in_memory = Some(fault(&error)),
            }
            self.heartbeat.beat();
        }
        let stages = cost.len();
        loop {
            cost.truncate(stages);
            let id = FrameId { epoch: self.chain.epoch(), seq: self.chain.seq() };
            let raw = measured(cost, "encode", || {
                let raw = encode(id);
                let bytes = raw.len();
                (raw, bytes)
            });
            let wants_key = self.spool.wants_key();
            let base = self.chain.base(moment.boottime, shape.key_interval).filter(|_| !wants_key);
            let header = self.header(moment, base.map(|(seq, _)| seq));
            let frame = measured(cost, "frame", || {
                let frame = EncodedFrame::encode(&header, &raw, base.map(|(_, raw)| raw), shape.part_bytes_max);
                let bytes = frame.as_ref().map_or(0, EncodedFrame::byte_len);
                (frame, bytes)
            })?;
            let (raw_bytes, bytes) = (raw.len(), frame.byte_len());
            let put = measured(cost, "spool", || (self.put(&header, frame), bytes));
            if let Err(error) = put {
                // The frame may be on the disk in spite of the error, so its (epoch, seq) must not be used again: the
                // same snapshot gets another epoch.
                edr_daemon::limited!(
                    log::Level::Error,
                    Event::SpoolUnusable,
                    EDR_SOURCE = "spool",
                    "{error}; frames are kept in memory until the disk is usable"
                );
                self.in_memory = Some(fault(&error));
                self.chain.begin(new_epoch());
                continue;
            }
            self.chain.accepted(header.kind, raw, bytes, moment.boottime);
            return Ok(AcceptedFrame {
                id,
                kind: header.kind,
                raw_bytes,
                bytes,
                usual_bytes: self.sizes.note(header.kind, bytes),
                bye: moment.bye,
                disk_fault: self.in_memory,
            });
        }
    }

    fn put(&self, header: &FrameHeader, frame: EncodedFrame) -> Result<(), SpoolError> {
        let put = if self.in_memory.is_some() {
            self.spool.put_in_memory(header, frame);
            Ok(())
        } else {
            self.spool.put(header, &frame)
        };
        self.heartbeat.beat();
        put?;
        self.spool.tidy();
        self.heartbeat.beat();
        Ok(())
    }

    fn header(&self, moment: &Moment, base_seq: Option<u64>) -> FrameHeader {
        let (lost, missed) = self.spool.declarations();
        FrameHeader {
            host_id: moment.host_id,
            epoch: self.chain.epoch(),
            seq: self.chain.seq(),
            kind: if base_seq.is_some() { FrameKind::Delta } else { FrameKind::Key },
            base_seq: base_seq.unwrap_or(self.chain.seq()),
            boot_id: moment.boot_id.clone(),
            previous_epoch: self.chain.previous(),
            captured_ns: moment.captured_ns,
            lost,
            missed,
            bye: moment.bye,
        }
    }
}

/// The disk's fault behind an error of the spool.
fn fault(error: &SpoolError) -> DiskFault {
    match error {
        SpoolError::Folder { source, .. } | SpoolError::Unusable { source, .. } => DiskFault::of(source),
        SpoolError::Locked { .. } => DiskFault::default(),
    }
}

/// Returns a random id for a new epoch.
fn new_epoch() -> Epoch {
    let mut id = [0; 8];
    if let Err(error) = getrandom::fill(&mut id) {
        // Early in the boot the kernel may have no entropy yet. Time and pid distinguish two runs on a host just as
        // well.
        log::warn!("no random numbers for an epoch: {error}");
        id = (nanos(boottime()) ^ u64::from(std::process::id()).rotate_left(40)).to_be_bytes();
    }
    Epoch(id)
}

fn log_start(chain: &FrameChain, start: ChainStart, host_id: HostId, logs: usize) {
    let why = match start {
        ChainStart::Continued => "continues",
        ChainStart::Fresh => "is new: the spool is empty",
        ChainStart::NewBoot => "is new: the machine was booted",
        ChainStart::OtherHost => "is new: the spool is of another machine",
        ChainStart::Unproven => "is new: no proof that the newest frame in the spool was the last frame",
        ChainStart::InMemory => "is new: the disk takes no frames",
    };
    let (epoch, seq) = (chain.epoch(), chain.seq());
    edr_daemon::event!(
        log::Level::Info,
        Event::EpochBegins,
        EDR_HOST = host_id.to_string(),
        EDR_EPOCH = epoch.to_string(),
        EDR_SEQ = seq,
        "epoch {epoch} {why}; the next frame is {seq}, {logs} logs continue at their positions"
    );
}
