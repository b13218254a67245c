//! A walk over msgpack that builds no values: length, depth and element count of a value, and the places of rows.
//!
//! Every decode starts with this walk, because a decoder that builds values trusts claimed lengths: five bytes can
//! claim an array of 2^32 entries, and 10 MB of nils become 390 MB of values. The walk holds a stack of at most
//! [`DEPTH_MAX`] numbers.

use crate::limits::{DEPTH_MAX, ELEMENTS_MAX, ROW_ELEMENTS_MAX};

/// The reason why bytes are not one acceptable msgpack value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes end in the middle of a value.
    #[error("msgpack ends in the middle of a value, at byte {at}")]
    Cut {
        /// Offset in bytes.
        at: usize,
    },
    /// The byte 0xc1 stands where a value must start.
    #[error("byte 0xc1 at {at} starts no msgpack value")]
    Reserved {
        /// Offset in bytes.
        at: usize,
    },
    /// The value is nested deeper than [`DEPTH_MAX`].
    #[error("msgpack nested deeper than {DEPTH_MAX}, at byte {at}")]
    TooDeep {
        /// Offset in bytes.
        at: usize,
    },
    /// The value has more elements than [`ELEMENTS_MAX`], or one row has more than [`ROW_ELEMENTS_MAX`].
    #[error("msgpack of more than {max} elements, at byte {at}")]
    TooMany {
        /// Elements allowed.
        max: usize,
        /// Offset in bytes.
        at: usize,
    },
    /// An array has more entries than its list allows.
    #[error("{what}: {count} entries, {max} are allowed")]
    TooLong {
        /// Name of the list.
        what: &'static str,
        /// Claimed number of entries.
        count: usize,
        /// Entries allowed.
        max: usize,
    },
    /// Another kind of value than expected.
    #[error("{what} expected at byte {at}")]
    Unexpected {
        /// The expected kind.
        what: &'static str,
        /// Offset in bytes.
        at: usize,
    },
}

/// The head of a msgpack value: its kind, and the number of values inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueHead {
    /// A value without inner values; the cursor stands behind it.
    Leaf,
    /// An array of this many values.
    Array(usize),
    /// A map of this many pairs.
    Map(usize),
}

/// A position in msgpack bytes, with the number of elements passed so far.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
    elements: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, elements: 0 }
    }

    /// Passes over the head of the next value; over the whole value when it is a leaf.
    pub(crate) fn head(&mut self) -> Result<ValueHead, ScanError> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(ScanError::TooMany { max: ELEMENTS_MAX, at: self.at });
        }
        let start = self.at;
        let marker = self.take(1)?[0];
        let leaf = |cursor: &mut Self, len: usize| cursor.take(len).map(|_| ValueHead::Leaf);
        match marker {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Ok(ValueHead::Leaf),
            0x80..=0x8f => Ok(ValueHead::Map(usize::from(marker & 0x0f))),
            0x90..=0x9f => Ok(ValueHead::Array(usize::from(marker & 0x0f))),
            0xa0..=0xbf => leaf(self, usize::from(marker & 0x1f)),
            0xc1 => Err(ScanError::Reserved { at: start }),
            0xc4 | 0xd9 => self.number(1).and_then(|len| leaf(self, len)),
            0xc5 | 0xda => self.number(2).and_then(|len| leaf(self, len)),
            0xc6 | 0xdb => self.number(4).and_then(|len| leaf(self, len)),
            0xc7 => self.number(1).and_then(|len| leaf(self, len + 1)),
            0xc8 => self.number(2).and_then(|len| leaf(self, len + 1)),
            0xc9 => self.number(4).and_then(|len| leaf(self, len + 1)),
            0xcc | 0xd0 => leaf(self, 1),
            0xcd | 0xd1 => leaf(self, 2),
            0xca | 0xce | 0xd2 => leaf(self, 4),
            0xcb | 0xcf | 0xd3 => leaf(self, 8),
            0xd4..=0xd8 => leaf(self, 1 + (1 << (marker - 0xd4))),
            0xdc => self.number(2).map(ValueHead::Array),
            0xdd => self.number(4).map(ValueHead::Array),
            0xde => self.number(2).map(ValueHead::Map),
            0xdf => self.number(4).map(ValueHead::Map),
        }
    }

    /// Passes over one whole value of at most [`ROW_ELEMENTS_MAX`] elements that is `depth` levels below the root.
    pub(crate) fn skip(&mut self, depth: usize) -> Result<(), ScanError> {
        // The values still to come at each open level. A loop instead of recursion keeps the stack small in a debug
        // build.
        let mut open = [0_usize; DEPTH_MAX + 1];
        let mut level = 0;
        let before = self.elements;
        open[0] = 1;
        loop {
            while open[level] == 0 {
                if level == 0 {
                    return Ok(());
                }
                level -= 1;
            }
            open[level] -= 1;
            let at = self.at;
            if self.elements - before >= ROW_ELEMENTS_MAX {
                return Err(ScanError::TooMany { max: ROW_ELEMENTS_MAX, at });
            }
            let inside = match self.head()? {
                ValueHead::Leaf => continue,
                ValueHead::Array(len) => len,
                ValueHead::Map(len) => len.saturating_mul(2),
            };
            level += 1;
            if level + depth > DEPTH_MAX {
                return Err(ScanError::TooDeep { at });
            }
            open[level] = inside;
        }
    }

    /// Passes over the next value, which must be a string, and returns the string.
    pub(crate) fn text(&mut self) -> Result<&'a str, ScanError> {
        let at = self.at;
        let unexpected = ScanError::Unexpected { what: "a string", at };
        let header = match self.bytes.get(at) {
            Some(0xa0..=0xbf) => 1,
            Some(0xd9) => 2,
            Some(0xda) => 3,
            Some(0xdb) => 5,
            Some(_) => return Err(unexpected),
            None => return Err(ScanError::Cut { at }),
        };
        self.head()?;
        std::str::from_utf8(&self.bytes[at + header..self.at]).map_err(|_| unexpected)
    }

    /// True at the end of the bytes.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn number(&mut self, len: usize) -> Result<usize, ScanError> {
        Ok(self.take(len)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ScanError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(ScanError::Cut { at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

/// The length in bytes of the msgpack value at the start of `bytes`.
pub(crate) fn value_len(bytes: &[u8]) -> Result<usize, ScanError> {
    let mut cursor = Cursor::new(bytes);
    cursor.skip(0)?;
    Ok(cursor.at)
}

/// The number of elements of the msgpack value at the start of `bytes`.
pub(crate) fn value_elements(bytes: &[u8]) -> Result<usize, ScanError> {
    let mut cursor = Cursor::new(bytes);
    cursor.skip(0)?;
    Ok(cursor.elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_claimed_length_costs_nothing() {
        let claim = [0xdd, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(value_len(&claim), Err(ScanError::Cut { at: 5 }));
        assert_eq!(value_len(&[0xdf, 0xff, 0xff, 0xff, 0xff]), Err(ScanError::Cut { at: 5 }));
        assert_eq!(value_len(&[0xc6, 0xff, 0xff, 0xff, 0xff]), Err(ScanError::Cut { at: 5 }));
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = vec![0x91; 100_000];
        assert!(matches!(value_len(&deep), Err(ScanError::TooDeep { .. })));
        let mut nils = vec![0xdd, 0x00, 0x98, 0x96, 0x80];
        nils.resize(10_000_005, 0xc0);
        assert!(matches!(value_len(&nils), Err(ScanError::TooMany { max: ROW_ELEMENTS_MAX, .. })));
        let at_the_limit = [vec![0x91; DEPTH_MAX], vec![0xc0]].concat();
        assert_eq!(value_len(&at_the_limit), Ok(DEPTH_MAX + 1));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(len) = value_len(&bytes) {
                prop_assert!(len <= bytes.len() && len > 0);
            }
        }
    }
}
