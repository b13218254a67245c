//! Everything that can happen to a spool.

use proptest::prelude::*;

/// A choice from a list, as a fraction of 2^64. Frames and epochs are listed in the order of their making.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick(pub(super) u64);

impl Pick {
    pub(super) fn index(self, len: usize) -> usize {
        ((u128::from(self.0) * len as u128) >> 64) as usize
    }

    pub(super) fn from<T: Copy>(self, list: &[T]) -> Option<T> {
        (!list.is_empty()).then(|| list[self.index(list.len())])
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
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

pub(super) fn action() -> impl Strategy<Value = Action> {
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
