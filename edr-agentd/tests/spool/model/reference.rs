//! The reference: a set of frames for each state.

use std::collections::{BTreeMap, BTreeSet};

use edr_agentd::spool::FrameId;
use edr_wire::frame::LostRange;

/// The reference: frames by state.
#[derive(Default)]
pub(super) struct Reference {
    /// Every accepted frame, with the ranges declared lost in its header.
    pub(super) accepted: BTreeMap<FrameId, Vec<LostRange>>,
    /// Frames in Kafka.
    pub(super) delivered: BTreeSet<FrameId>,
    /// Ranges declared lost by delivered frames.
    pub(super) declared: Vec<LostRange>,
    /// Frames with a file, also in folders that are away.
    pub(super) present: BTreeSet<FrameId>,
    /// Frames in the memory of the running agent.
    pub(super) in_memory: BTreeSet<FrameId>,
    /// Frames whose files were damaged or removed from outside.
    pub(super) harmed: BTreeSet<FrameId>,
    /// Frames removed from outside in this run of the agent; a start forgets them.
    pub(super) removed: BTreeSet<FrameId>,
    /// Frames that no agent can know any more: removed before a start found the file, or in memory at a crash.
    pub(super) forgotten: BTreeSet<FrameId>,
}

impl Reference {
    /// The agent ends. Frames in memory are gone.
    pub(super) fn kill(&mut self) {
        self.forgotten.append(&mut self.removed);
        let unsent = std::mem::take(&mut self.in_memory);
        self.forgotten.extend(unsent.difference(&self.delivered));
    }

    /// Compares with the files present now.
    pub(super) fn step(&mut self, present: BTreeSet<FrameId>) {
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
    pub(super) fn is_excused(&self, id: FrameId) -> bool {
        self.forgotten.contains(&id) || self.carriers(id).filter(|carrier| self.harmed.contains(carrier)).count() >= 2
    }
}

pub(super) fn covers(lost: &[LostRange], id: FrameId) -> bool {
    lost.iter().any(|range| range.epoch == id.epoch && (range.first_seq..=range.last_seq).contains(&id.seq))
}
