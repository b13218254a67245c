//! The end of a sequence: every frame is delivered or declared, and order is kept.

use std::collections::BTreeMap;

use edr_agentd::spool::{FrameId, verify};
use edr_wire::frame::{Frame, FrameKind, LostRange, Record};

use super::action::Action;
use super::reference::covers;
use super::world::{Delivered, THINNING, World};

impl World {
    /// Brings back and ships everything, with enough ticks for all pending declarations; then every frame is delivered
    /// or declared.
    pub(super) fn settle(mut self) {
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
        let for_room = |range: &&LostRange| ["spool_full", "thinned"].contains(&range.reason.as_str());
        for range in self.reference.declared.iter().filter(|range| !for_room(range)) {
            for seq in range.first_seq..=range.last_seq {
                let id = FrameId { epoch: range.epoch, seq };
                let is_harmed = self.reference.harmed.contains(&id) || self.torn.contains(&id);
                assert!(is_harmed || self.late.contains(&id.epoch), "{range:?} was not harmed");
            }
        }
        self.assert_thinned(&delivered);
        self.assert_order();
    }

    /// Thinning leaves a frame of each span of time, unless the time was dropped whole or the frame was harmed.
    fn assert_thinned(&self, delivered: &BTreeMap<FrameId, &Delivered>) {
        let of_reason = |reason: &str| {
            let ranges = self.reference.declared.iter().filter(|range| range.reason == reason);
            ranges.cloned().collect::<Vec<LostRange>>()
        };
        let (thinned, dropped) = (of_reason("thinned"), of_reason("spool_full"));
        let span = |id: &FrameId| self.captured[id].div_euclid(THINNING.steps[1].as_nanos() as i64);
        let is_there = |id: &FrameId| delivered.contains_key(id);
        let is_excused = |id: &FrameId| {
            let is_harmed = self.reference.harmed.contains(id) || self.reference.is_excused(*id);
            is_harmed || self.late.contains(&id.epoch) || covers(&dropped, *id)
        };
        for gone in self.captured.keys().filter(|id| covers(&thinned, **id) && !is_there(id)) {
            let mut alike = self.captured.keys().filter(|id| id.epoch == gone.epoch && span(id) == span(gone));
            assert!(alike.any(|id| is_there(id) || is_excused(id)), "no frame is left of the time of {gone}");
        }
    }

    pub(super) fn is_whole(&self, frame: &Delivered, raw: &[u8], delivered: &BTreeMap<FrameId, &Delivered>) {
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
    pub(super) fn assert_order(&self) {
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
