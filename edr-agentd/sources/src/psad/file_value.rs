//! A file of psad, with the last good value.
//!
//! psad rewrites most files in place without a lock, so a reader can see an empty file, or a file cut at a multiple of
//! Perl's buffer. In this case the last good value is kept, and a problem is reported until the file is whole again.

use edr_wire::snapshot::GapReason;

use super::folder::Folder;
use crate::common::files::{FileRefusal, FileStamp};
use crate::common::lines::BadLines;

/// Perl writes its buffer in pieces of this size, so a file may be cut at a line end by chance.
const PERL_BUFFER_BYTES: usize = 8_192;

/// The meaning of an empty file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    /// The settled file has no rows.
    NoRows,
    /// The file is being written, or the disk is full: psad always writes at least a header or a value.
    Torn,
}

/// The reason why a file's value is missing or stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileProblem {
    pub(crate) reason: GapReason,
    pub(crate) detail: String,
}

/// A value with the state of the file.
#[derive(Debug, Default)]
pub(crate) struct FileValue<T> {
    pub(crate) value: T,
    pub(crate) bad: BadLines,
    pub(crate) problem: Option<FileProblem>,
    /// Stamp of the file of `value`; `None` when the file must be read again.
    stamp: Option<FileStamp>,
    /// True when the file changed shortly before the read, so that an equal stamp does not prove an equal file.
    unsettled: bool,
    /// `mtime` of the file when `value` was read.
    good_ns: Option<i64>,
    /// `mtime` of the file at the last look, even when the value was not taken.
    seen_ns: Option<i64>,
}

impl<T: Default> FileValue<T> {
    /// Checks the file again; returns true when the value or the problem may have changed.
    pub(crate) fn look(
        &mut self,
        folder: &Folder,
        name: &[u8],
        now_ns: i64,
        when_empty: WhenEmpty,
        parse: impl FnOnce(&[u8], &mut BadLines) -> T,
    ) -> bool {
        // A new file is opened without a separate check of the stamp, because opening gives the stamp too.
        if self.stamp.is_some() || self.problem.is_some() {
            match folder.stamp_of(name) {
                Ok(stamp) if self.stamp == Some(stamp) && !self.unsettled => return false,
                Ok(_) => {}
                Err(refusal) => return self.refuse(&refusal),
            }
        }
        match folder.read(name) {
            Ok((text, stamp)) => self.take(&text, stamp, now_ns, when_empty, parse),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// Discards the value, after a restart of psad.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Discards a value that was only kept in place of a half-written file.
    pub(crate) fn forget_kept(&mut self) {
        if self.problem.is_some() {
            self.forget();
        }
    }

    /// True when the file must be checked without an event.
    pub(crate) fn is_pending(&self) -> bool {
        self.unsettled || self.problem.is_some()
    }

    /// `mtime` of the file at the last look, Unix time in ns.
    pub(crate) fn seen_ns(&self) -> Option<i64> {
        self.seen_ns
    }

    /// The stamp of the file of the value.
    pub(crate) fn stamp(&self) -> Option<FileStamp> {
        self.stamp
    }

    /// `mtime` of the file of the value, Unix time in ns.
    pub(crate) fn good_ns(&self) -> Option<i64> {
        self.good_ns
    }

    fn take(
        &mut self,
        text: &[u8],
        stamp: FileStamp,
        now_ns: i64,
        when_empty: WhenEmpty,
        parse: impl FnOnce(&[u8], &mut BadLines) -> T,
    ) -> bool {
        let young = !stamp.is_settled(now_ns);
        let whole = match text.last() {
            None => when_empty == WhenEmpty::NoRows && !young,
            Some(b'\n') => !(young && text.len().is_multiple_of(PERL_BUFFER_BYTES)),
            Some(_) => false,
        };
        self.unsettled = young;
        self.seen_ns = Some(stamp.mtime_ns);
        if !whole && self.good_ns.is_some() {
            let kept = self.good_ns.map(seconds).unwrap_or_default();
            let detail = format!("half written ({} bytes): the value of {kept} is kept", text.len());
            return self.set_problem(GapReason::Malformed, detail);
        }
        // Without a good value to keep, complete rows are better than none.
        let rows = memchr::memrchr(b'\n', text).map_or(&[][..], |end| &text[..=end]);
        self.bad = BadLines::default();
        self.value = parse(rows, &mut self.bad);
        self.stamp = Some(stamp);
        if whole {
            self.problem = None;
            self.good_ns = Some(stamp.mtime_ns);
        } else {
            self.set_problem(GapReason::Malformed, format!("half written ({} bytes)", text.len()));
        }
        true
    }

    fn refuse(&mut self, refusal: &FileRefusal) -> bool {
        let was_there = self.stamp.is_some() || self.problem.is_some();
        if refusal.is_gone() {
            self.forget();
            return was_there;
        }
        self.stamp = None;
        self.set_problem(refusal.reason(), refusal.detail())
    }

    fn set_problem(&mut self, reason: GapReason, detail: String) -> bool {
        let problem = Some(FileProblem { reason, detail });
        let changed = self.problem != problem;
        self.problem = problem;
        changed
    }
}

/// Unix time in whole seconds, for a text that should not change at every tick.
fn seconds(ns: i64) -> String {
    format!("{}", ns.div_euclid(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::files::SETTLE_NS;

    fn stamp(mtime_ns: i64, size: usize) -> FileStamp {
        FileStamp { dev: 1, inode: 1, size: size as u64, mtime_ns, ctime_ns: mtime_ns }
    }

    fn take(held: &mut FileValue<Vec<u8>>, text: &[u8], age_ns: i64, when_empty: WhenEmpty) {
        let now_ns = 1_000_000_000_000;
        held.take(text, stamp(now_ns - age_ns, text.len()), now_ns, when_empty, |text, _| text.to_vec());
    }

    #[test]
    fn a_half_written_file_keeps_the_last_good_value() {
        let mut held = FileValue::default();
        take(&mut held, b"good\n", SETTLE_NS, WhenEmpty::Torn);
        assert!(held.problem.is_none() && !held.unsettled);
        for torn in [&b""[..], b"go", b"good\nbad"] {
            take(&mut held, torn, 0, WhenEmpty::Torn);
            assert_eq!((held.value.as_slice(), held.unsettled), (&b"good\n"[..], true));
            take(&mut held, torn, 10 * SETTLE_NS, WhenEmpty::Torn);
            assert_eq!(held.value, b"good\n");
        }
        let mut page = vec![b'x'; PERL_BUFFER_BYTES];
        page[PERL_BUFFER_BYTES - 1] = b'\n';
        take(&mut held, &page, 0, WhenEmpty::Torn);
        assert_eq!(held.value, b"good\n", "cut at a line's end");
        take(&mut held, &page, SETTLE_NS, WhenEmpty::Torn);
        assert_eq!(held.value.len(), PERL_BUFFER_BYTES, "that long, and settled");
    }

    #[test]
    fn an_empty_file_is_a_value_only_where_allowed_and_when_settled() {
        let mut held = FileValue::default();
        take(&mut held, b"good\n", SETTLE_NS, WhenEmpty::NoRows);
        take(&mut held, b"", 0, WhenEmpty::NoRows);
        assert_eq!(held.value, b"good\n");
        take(&mut held, b"", SETTLE_NS, WhenEmpty::NoRows);
        assert!(held.value.is_empty() && held.problem.is_none());
    }

    #[test]
    fn without_a_good_value_the_whole_rows_are_taken() {
        let mut held = FileValue::default();
        take(&mut held, b"row\nhal", 10 * SETTLE_NS, WhenEmpty::Torn);
        assert_eq!(held.value, b"row\n");
        assert!(held.problem.is_some());
    }
}
