//! Folders of epochs that are away, denied or full.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use edr_agentd::spool::FrameId;
use edr_wire::Epoch;

use super::world::World;

impl World {
    /// Epochs with a readable folder in the spool.
    pub(super) fn epochs_there(&self) -> Vec<Epoch> {
        let there = |epoch: &Epoch| fs::read_dir(self.folder(*epoch)).is_ok();
        self.epochs.iter().copied().filter(there).collect()
    }

    /// True when a frame at the start or the end of an epoch is whole.
    pub(super) fn has_header(&self, epoch: Epoch) -> bool {
        let files: Vec<FrameId> = self.files().into_iter().filter(|id| id.epoch == epoch).collect();
        let mut some = files.iter().take(3).chain(files.iter().rev().take(3));
        files.is_empty() || some.any(|id| !self.reference.harmed.contains(id) && !self.torn.contains(id))
    }

    pub(super) fn denied(&self) -> BTreeSet<Epoch> {
        let denied = |epoch: &Epoch| self.folder(*epoch).exists() && fs::read_dir(self.folder(*epoch)).is_err();
        self.epochs.iter().copied().filter(denied).collect()
    }

    pub(super) fn bring_back(&mut self) {
        let bring = |folder: fs::DirEntry| {
            let to = self.dir.path().join("spool").join(folder.file_name());
            fs::rename(folder.path(), to).unwrap();
        };
        let away = fs::read_dir(self.dir.path().join("away")).unwrap();
        self.outside(|| away.for_each(|folder| bring(folder.unwrap())));
    }

    pub(super) fn allow(&mut self) {
        for epoch in self.denied() {
            fs::set_permissions(self.folder(epoch), fs::Permissions::from_mode(0o700)).unwrap();
        }
        self.set_modes(self.is_full);
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        self.set_modes(is_full);
    }

    /// Sets the modes of the spool and of all folders except denied folders.
    pub(super) fn set_modes(&self, is_full: bool) {
        let newest = self.newest.map(|id| id.epoch);
        let folders = self.epochs_there().into_iter().map(|epoch| (self.folder(epoch), Some(epoch) == newest));
        for (folder, takes_frames) in folders.chain([(self.dir.path().join("spool"), true)]) {
            let mode = if is_full && takes_frames { 0o500 } else { 0o700 };
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Changes the spool with full rights, which the agent lacks now.
    pub(super) fn outside(&self, act: impl FnOnce()) {
        self.set_modes(false);
        act();
        self.set_modes(self.is_full);
    }
}
