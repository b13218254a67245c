//! The agent's right to see the descriptors of other users' processes.

use super::row::Told;

/// The right to see descriptors, as observed in a pass over all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    own_uid: u32,
    /// The first process of another user whose descriptors are refused.
    refused: Option<u32>,
    /// Another user's descriptors were listed.
    granted: bool,
}

impl Access {
    /// Starts with no observation, for a reader with this effective user id.
    pub(super) fn of(own_uid: u32) -> Self {
        Self { own_uid, ..Self::default() }
    }

    pub(super) fn note(&mut self, pid: u32, told: &Told) {
        if told.uid == self.own_uid {
            return;
        }
        match told.files {
            Some(true) => self.granted = true,
            Some(false) => self.refused = self.refused.or(Some(pid)),
            None => {}
        }
    }

    /// A process of another user whose descriptors are refused, if no other user's descriptors were listed.
    pub(super) fn refused(&self) -> Option<u32> {
        self.refused.filter(|_| !self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Netns;
    use super::*;

    #[test]
    fn all_must_be_refused() {
        let told = |uid, files| Told { netns: Netns::None, uid, files };
        let mut access = Access::of(0);
        access.note(1, &told(0, Some(true)));
        access.note(2, &told(5, None));
        assert_eq!(access.refused(), None);
        access.note(3, &told(5, Some(false)));
        access.note(4, &told(6, Some(false)));
        assert_eq!(access.refused(), Some(3));
        access.note(5, &told(7, Some(true)));
        assert_eq!(access.refused(), None);
    }
}
