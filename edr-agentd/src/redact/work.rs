//! What looking for secrets may cost.

/// Work on one command line, in bytes looked at: what else is done is counted as so many bytes as take the same time.
///
/// The search is linear, so command lines of any program end far below the budget. It is for those made to be
/// expensive: their time belongs to the other processes of the tick.
#[derive(Debug)]
pub(super) struct Work {
    done: u64,
    max: u64,
}

/// Looking a word up among programs and options.
pub(super) const WORD: usize = 128;
/// Judging a name.
pub(super) const NAME: usize = 64;
/// One HMAC, and a token in the row.
pub(super) const TOKEN: usize = 512;

impl Work {
    /// Ends after `max`.
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
