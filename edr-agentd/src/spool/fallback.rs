//! Frames kept in memory while the disk is unusable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::FrameId;
use super::stored::StoredFrame;

#[derive(Debug, Default)]
pub(super) struct Fallback {
    frames: BTreeMap<FrameId, Arc<StoredFrame>>,
    /// True while new frames go to memory.
    pub(super) is_used: bool,
}

impl Fallback {
    pub(super) fn insert(&mut self, id: FrameId, stored: StoredFrame) {
        self.frames.insert(id, Arc::new(stored));
    }

    pub(super) fn get(&self, id: FrameId) -> Option<Arc<StoredFrame>> {
        self.frames.get(&id).cloned()
    }

    /// Drops the frames for which `is_needed` is false.
    pub(super) fn retain(&mut self, is_needed: impl Fn(FrameId) -> bool) {
        self.frames.retain(|&id, _| is_needed(id));
    }

    /// Number of frames, and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let bytes = self.frames.values().map(|stored| stored.byte_len() as u64);
        (self.frames.len() as u64, bytes.sum())
    }
}
