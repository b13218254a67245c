//! The agent's right to see the descriptors of other users' processes.

/// The right to see descriptors, as observed in a pass over all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DescriptorAccess {
    own_uid: u32,
    /// The first process of another user whose descriptors are refused.
    refused: Option<u32>,
    /// Another user's descriptors were listed.
    granted: bool,
}

impl DescriptorAccess {
    /// Starts with no observation, for a reader with this effective user id.
    pub(crate) fn of(own_uid: u32) -> Self {
        Self { own_uid, ..Self::default() }
    }

    /// Adds a process of user `uid`; `listed` is true when the descriptors were listed, false when refused, `None`
    /// without descriptors or after another error.
    pub(crate) fn note(&mut self, pid: u32, uid: u32, listed: Option<bool>) {
        if uid == self.own_uid {
            return;
        }
        match listed {
            Some(true) => self.granted = true,
            Some(false) => self.refused = self.refused.or(Some(pid)),
            None => {}
        }
    }

    /// A process of another user whose descriptors are refused, if no other user's descriptors were listed.
    pub(crate) fn refused(&self) -> Option<u32> {
        self.refused.filter(|_| !self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_be_refused() {
        let mut access = DescriptorAccess::of(0);
        access.note(1, 0, Some(true));
        access.note(2, 5, None);
        assert_eq!(access.refused(), None);
        access.note(3, 5, Some(false));
        access.note(4, 6, Some(false));
        assert_eq!(access.refused(), Some(3));
        access.note(5, 7, Some(true));
        assert_eq!(access.refused(), None);
    }
}
