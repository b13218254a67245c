//! Words of a command line, and places of secrets.

use std::ops::Range;

use super::rules::RuleId;
use super::value::Place;

/// A word of a command line: an argument, or a part of an argument with the syntax of a command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a> {
    /// The bytes, without quotes.
    pub(super) bytes: &'a [u8],
    pub(super) argument: usize,
    /// Offset of the word in the argument, for a word without quotes inside.
    pub(super) start: usize,
    /// Offset of each byte in the argument, for a word with quotes or escapes inside.
    pub(super) offsets: Option<&'a [u32]>,
    /// Where the word stands.
    pub(super) place: Place,
}

impl<'a> Word<'a> {
    /// An argument of a process.
    pub(super) fn argument(bytes: &'a [u8], argument: usize) -> Self {
        Self { bytes, argument, start: 0, offsets: None, place: Place::Argument }
    }

    /// The range in the argument of a range of the word.
    pub(super) fn range(&self, range: Range<usize>) -> Range<usize> {
        match self.offsets {
            None => self.start + range.start..self.start + range.end,
            Some(offsets) => {
                let offset = |at: usize| offsets.get(at).map_or(0, |&offset| offset as usize);
                match range.end.checked_sub(1) {
                    Some(last) if range.start <= last => offset(range.start)..offset(last) + 1,
                    _ => 0..0,
                }
            }
        }
    }

    /// Offset in the argument of a byte of the word.
    pub(super) fn offset(&self, at: usize) -> usize {
        self.range(at..at + 1).start
    }

    /// A part of the word.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        Self {
            bytes: &self.bytes[range.clone()],
            start: self.start + range.start,
            offsets: self.offsets.map(|offsets| &offsets[range]),
            ..*self
        }
    }
}

/// The place of a secret: index of the argument, and range of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretPlace {
    pub(super) argument: usize,
    pub(super) range: Range<usize>,
    pub(super) because: Because,
}

/// Why bytes are a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Because {
    /// A rule of the table.
    Rule(RuleId),
    /// A structure that the search knows.
    Structure(&'static str),
}

/// The arguments of a process as words.
pub(super) fn arguments(argv: &[edr_wire::Bytes]) -> Vec<Word<'_>> {
    argv.iter().enumerate().map(|(argument, bytes)| Word::argument(&bytes.0, argument)).collect()
}
