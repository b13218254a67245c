//! Epoch and sequence number of the next frame, and its kind (key or delta). No I/O, no clock.

use std::time::Duration;

use edr_wire::frame::{FrameKind, PreviousEpoch};
use edr_wire::{Epoch, HostId};

use crate::spool::Resume;

/// The relation of a start to the epoch in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainStart {
    /// The epoch continues.
    Continued,
    /// The spool is empty.
    Fresh,
    /// The host was booted after the newest frame.
    NewBoot,
    /// The spool belongs to another host.
    OtherHost,
    /// No proof that the newest frame was the last frame made: the frame cannot be read, or was not written by this
    /// host at the time stated in the frame, or the witness is missing.
    Unproven,
    /// The epoch could continue, but the disk takes no frames. Frames made in memory have a separate epoch.
    InMemory,
}

/// The unbroken run of frames in progress.
#[derive(Debug)]
pub(super) struct FrameChain {
    epoch: Epoch,
    next_seq: u64,
    previous: Option<PreviousEpoch>,
    base: Option<KeyFrame>,
}

/// The key needed by deltas, and the bytes of the deltas since.
#[derive(Debug)]
struct KeyFrame {
    seq: u64,
    raw: Vec<u8>,
    key_bytes: usize,
    delta_bytes: usize,
    made: Duration,
}

impl FrameChain {
    /// Continues the epoch of the newest frame in the spool when host, boot, the frame and its witness prove that no
    /// frame is missing, and when frames go to the disk. Otherwise starts `fresh`, an epoch with a link to the previous
    /// epoch.
    pub(super) fn start(
        resume: &Resume,
        host_id: HostId,
        boot_id: &str,
        in_memory: bool,
        fresh: Epoch,
    ) -> (Self, ChainStart) {
        let new = |previous| Self { epoch: fresh, next_seq: 1, previous, base: None };
        let made = resume.last_made.as_ref().filter(|made| made.boot_id == boot_id).and_then(|made| made.on_disk);
        // When the witness names a newer frame than the spool has, the last epoch ended there: files were removed, or
        // the epoch's folder is away.
        let further = made.filter(|made| {
            let newer = resume.last.is_none_or(|last| made.epoch != last.id || made.seq > last.last_seq);
            made.seq > 0 && newer
        });
        let further = further.map(|made| PreviousEpoch { id: made.epoch, last_seq: made.seq });
        let Some(last) = further.or(resume.last) else { return (new(None), ChainStart::Fresh) };
        let Some(newest) = &resume.newest else { return (new(Some(last)), ChainStart::Unproven) };
        let header = &newest.header;
        if header.host_id != host_id {
            // Epochs of another host do not precede the epochs of this host.
            return (new(None), ChainStart::OtherHost);
        }
        if header.boot_id != boot_id {
            return (new(Some(last)), ChainStart::NewBoot);
        }
        let newest_id = PreviousEpoch { id: header.epoch, last_seq: header.seq };
        let is_last = last == newest_id && resume.last == Some(newest_id);
        // The witnessed frame, or the next frame when the agent was killed between writing the frame and its witness.
        let witnessed = made.is_some_and(|made| {
            made.epoch == header.epoch && (made.seq == header.seq || made.seq.checked_add(1) == Some(header.seq))
        });
        if !is_last || !newest.written_when_captured || !witnessed {
            return (new(Some(last)), ChainStart::Unproven);
        }
        if in_memory {
            return (new(Some(last)), ChainStart::InMemory);
        }
        let previous = header.previous_epoch;
        (Self { epoch: header.epoch, next_seq: header.seq + 1, previous, base: None }, ChainStart::Continued)
    }

    /// Epoch of the next frame.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sequence number of the next frame.
    pub(super) fn seq(&self) -> u64 {
        self.next_seq
    }

    /// The previous epoch.
    pub(super) fn previous(&self) -> Option<PreviousEpoch> {
        self.previous
    }

    /// Begins another epoch. The new epoch names the present epoch, if the present epoch has a frame.
    pub(super) fn begin(&mut self, epoch: Epoch) {
        if self.next_seq > 1 {
            self.previous = Some(PreviousEpoch { id: self.epoch, last_seq: self.next_seq - 1 });
        }
        *self = Self { epoch, next_seq: 1, previous: self.previous, base: None };
    }

    /// Returns seq and raw bytes of the key for a delta. Returns `None` when the next frame must be a key: for the
    /// first frame of a run, when the deltas since the last key have reached the size of the key, or when the key is
    /// older than `key_interval`.
    pub(super) fn base(&self, now: Duration, key_interval: Duration) -> Option<(u64, &[u8])> {
        let base = self.base.as_ref()?;
        let due = base.delta_bytes >= base.key_bytes || now.saturating_sub(base.made) >= key_interval;
        (!due).then_some((base.seq, base.raw.as_slice()))
    }

    /// Bytes of the last key frame.
    pub(super) fn key_bytes(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.key_bytes)
    }

    /// Records an accepted frame.
    pub(super) fn accepted(&mut self, kind: FrameKind, raw: Vec<u8>, bytes: usize, now: Duration) {
        match (&mut self.base, kind) {
            (Some(base), FrameKind::Delta) => base.delta_bytes += bytes,
            (base, _) => {
                *base = Some(KeyFrame { seq: self.next_seq, raw, key_bytes: bytes, delta_bytes: 0, made: now });
            }
        }
        self.next_seq += 1;
    }
}

#[cfg(test)]
mod tests {
    use edr_wire::frame::FrameHeader;
    use edr_wire::snapshot::{SnapshotView, encode_row};

    use super::*;
    use crate::spool::{FrameId, LastFrame, NewestFrame};

    const HOST: HostId = HostId([1; 16]);
    const OLD: Epoch = Epoch([1; 8]);
    const FRESH: Epoch = Epoch([2; 8]);
    const BEFORE: Option<PreviousEpoch> = Some(PreviousEpoch { id: Epoch([9; 8]), last_seq: 77 });

    fn resume(change: impl FnOnce(&mut FrameHeader, &mut Resume)) -> Resume {
        let mut header = FrameHeader {
            host_id: HOST,
            epoch: OLD,
            seq: 41,
            kind: FrameKind::Delta,
            base_seq: 40,
            boot_id: "boot".to_owned(),
            previous_epoch: BEFORE,
            captured_ns: 0,
            lost: Vec::new(),
            missed: Vec::new(),
            bye: false,
        };
        let last = Some(PreviousEpoch { id: OLD, last_seq: 41 });
        let mut resume = Resume { last, last_made: made("boot", Some(41)), ..Resume::default() };
        change(&mut header, &mut resume);
        let snapshot = SnapshotView::parse(encode_row(&edr_wire::snapshot::Snapshot::default())).unwrap();
        resume.newest = Some(Box::new(NewestFrame { header, snapshot, written_when_captured: true }));
        resume
    }

    fn made(boot_id: &str, seq: Option<u64>) -> Option<LastFrame> {
        let on_disk = seq.map(|seq| FrameId { epoch: OLD, seq });
        Some(LastFrame { boot_id: boot_id.to_owned(), on_disk })
    }

    fn started(resume: &Resume) -> (ChainStart, Epoch, u64, Option<PreviousEpoch>) {
        let (chain, start) = FrameChain::start(resume, HOST, "boot", false, FRESH);
        (start, chain.epoch(), chain.seq(), chain.previous())
    }

    #[test]
    fn an_epoch_goes_on_only_when_nothing_can_be_missing() {
        let last = Some(PreviousEpoch { id: OLD, last_seq: 41 });
        assert_eq!(started(&resume(|_, _| {})), (ChainStart::Continued, OLD, 42, BEFORE));
        assert_eq!(started(&Resume::default()), (ChainStart::Fresh, FRESH, 1, None));
        assert_eq!(
            started(&resume(|header, _| header.boot_id = "other".into())),
            (ChainStart::NewBoot, FRESH, 1, last)
        );
        let other_host = resume(|header, _| header.host_id = HostId([7; 16]));
        assert_eq!(started(&other_host), (ChainStart::OtherHost, FRESH, 1, None));
        let newer = Some(PreviousEpoch { id: OLD, last_seq: 42 });
        assert_eq!(started(&resume(|_, resume| resume.last = newer)), (ChainStart::Unproven, FRESH, 1, newer));
        let mut restored = resume(|_, _| {});
        restored.newest.as_mut().unwrap().written_when_captured = false;
        assert_eq!(started(&restored), (ChainStart::Unproven, FRESH, 1, last));
        restored.newest = None;
        assert_eq!(started(&restored), (ChainStart::Unproven, FRESH, 1, last));
    }

    #[test]
    fn an_epoch_continues_only_when_the_witness_proves_no_later_frame() {
        let last = |last_seq| Some(PreviousEpoch { id: OLD, last_seq });
        let with = |last_made| resume(|_, resume| resume.last_made = last_made);
        let new = |last_seq| (ChainStart::Unproven, FRESH, 1, last(last_seq));
        // Killed between the frame and its witness.
        assert_eq!(started(&with(made("boot", Some(40)))), (ChainStart::Continued, OLD, 42, BEFORE));
        assert_eq!(started(&with(made("boot", Some(39)))), new(41));
        // Frames were made in memory; no witness; the witness is of another boot.
        assert_eq!(started(&with(made("boot", None))), new(41));
        assert_eq!(started(&with(None)), new(41));
        assert_eq!(started(&with(made("other", Some(41)))), new(41));
        // The newest frames, or the whole spool, were removed by someone.
        assert_eq!(started(&with(made("boot", Some(44)))), new(44));
        // The newest epoch differs from the epoch of the newest readable frame.
        let elsewhere = resume(|_, resume| resume.last = Some(PreviousEpoch { id: Epoch([8; 8]), last_seq: 1 }));
        assert_eq!(started(&elsewhere), new(41));
        let gone = Resume { last_made: made("boot", Some(44)), ..Resume::default() };
        assert_eq!(started(&gone), new(44));
        let goodbye = resume(|header, resume| {
            header.bye = true;
            resume.last_made = made("boot", None);
        });
        assert_eq!(started(&goodbye), new(41), "a later run may have been in memory from its start");
        let (chain, start) = FrameChain::start(&resume(|_, _| {}), HOST, "boot", true, FRESH);
        assert_eq!((start, chain.epoch(), chain.previous()), (ChainStart::InMemory, FRESH, last(41)));
    }

    #[test]
    fn a_new_key_is_due_when_deltas_cost_as_much_or_the_key_is_old() {
        let hour = Duration::from_secs(3600);
        let at = Duration::from_secs;
        let (mut chain, _) = FrameChain::start(&Resume::default(), HOST, "boot", false, FRESH);
        assert_eq!(chain.base(at(0), hour), None);
        chain.accepted(FrameKind::Key, b"key".to_vec(), 100, at(0));
        assert_eq!(chain.base(at(10), hour), Some((1, b"key".as_slice())));
        chain.accepted(FrameKind::Delta, b"delta".to_vec(), 99, at(10));
        assert_eq!(chain.base(at(3599), hour), Some((1, b"key".as_slice())));
        assert_eq!(chain.base(at(3600), hour), None);
        chain.accepted(FrameKind::Delta, b"delta".to_vec(), 1, at(20));
        assert_eq!(chain.base(at(30), hour), None);
        chain.accepted(FrameKind::Key, b"next".to_vec(), 50, at(30));
        assert_eq!((chain.base(at(40), hour), chain.seq()), (Some((4, b"next".as_slice())), 5));
        chain.begin(OLD);
        assert_eq!((chain.base(at(50), hour), chain.seq()), (None, 1));
        assert_eq!(chain.previous(), Some(PreviousEpoch { id: FRESH, last_seq: 4 }));
        // An epoch without a frame is not named.
        chain.begin(Epoch([3; 8]));
        assert_eq!(chain.previous(), Some(PreviousEpoch { id: FRESH, last_seq: 4 }));
    }
}
