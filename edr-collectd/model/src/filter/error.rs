//! Errors of filters.

use std::fmt;
use std::ops::Range;

/// Characters of the filter shown before and after the fault.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 40;

/// Why a filter is refused: the fault, the place of the fault in the filter, and what is possible there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter as typed.
    pub filter: String,
    /// The bytes at fault.
    pub at: Range<usize>,
    /// The fault, a sentence without a full stop.
    pub message: String,
    /// What is possible instead.
    pub possible: String,
}

impl FilterError {
    /// Returns the filter on one line, with visible control characters, and a line of `^` under the fault. Of a long
    /// filter only the part around the fault is returned.
    pub fn lines(&self) -> [String; 2] {
        let visible = |text: &str| edr_wire::visible(text.as_bytes());
        let (before, rest) = self.filter.split_at_checked(self.at.start).unwrap_or((&self.filter, ""));
        let (fault, after) = rest.split_at_checked(self.at.end.saturating_sub(self.at.start)).unwrap_or((rest, ""));
        let cut = before.char_indices().rev().nth(SHOWN_BEFORE).map(|(at, _)| at);
        let before = match cut {
            Some(at) => format!("…{}", visible(&before[at..])),
            None => visible(before),
        };
        let head = |text: &str| match text.char_indices().nth(SHOWN_AFTER) {
            Some((at, _)) => format!("{}…", visible(&text[..at])),
            None => visible(text),
        };
        let (fault, after) = (head(fault), head(after));
        let mark = "^".repeat(fault.chars().count().max(1));
        let space = " ".repeat(before.chars().count());
        [format!("{before}{fault}{after}"), format!("{space}{mark}")]
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [filter, mark] = self.lines();
        write!(f, "{}\n  {filter}\n  {mark}\n{}", self.message, self.possible)
    }
}

impl std::error::Error for FilterError {}
