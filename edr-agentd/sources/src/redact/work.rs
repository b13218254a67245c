//! The budget of the search for secrets.

/// The work on one command line, in scanned bytes. Other work counts as the number of bytes scanned in the same time.
///
/// The search is linear, so that usual command lines stay far below the budget. The budget is for command lines made to
/// be expensive: their time would be missing for all further processes of the tick.
#[derive(Debug)]
pub(super) struct SearchBudget {
    done: u64,
    max: u64,
}

/// Looking up a word among programs and options.
pub(super) const WORD: usize = 128;
/// Judging a name.
pub(super) const NAME: usize = 64;
/// One HMAC, and a token in the row.
pub(super) const TOKEN: usize = 512;

impl SearchBudget {
    /// A budget of `max` bytes.
    pub(super) fn up_to(max: u64) -> Self {
        Self { done: 0, max }
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.done > self.max
    }

    #[cfg(test)]
    pub(super) fn done(&self) -> u64 {
        self.done
    }
}
