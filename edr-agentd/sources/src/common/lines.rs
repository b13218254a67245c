//! The common format of psad's state files: lines, `#` comments, fields between blanks.
//!
//! The parsers of this folder take bytes and use neither files nor clocks. An invalid line makes no row and is counted
//! in [`BadLines`] with its first bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edr_wire::Bytes;
use edr_wire::snapshot::Unparsed;

/// Longest accepted line, bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;
/// Kept bytes of the first invalid line.
const FIRST_BYTES_MAX: usize = 256;

/// Invalid lines, which make no rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BadLines {
    pub(crate) lines: u64,
    pub(crate) first: Bytes,
}

impl BadLines {
    /// Counts `line`.
    pub(crate) fn add(&mut self, line: &[u8]) {
        if self.lines == 0 {
            self.first = Bytes::from(&line[..line.len().min(FIRST_BYTES_MAX)]);
        }
        self.lines += 1;
    }

    /// Adds the invalid lines of another file.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.lines == 0 {
            self.first = other.first.clone();
        }
        self.lines += other.lines;
    }

    /// Returns the lines in the form of the snapshot.
    pub(crate) fn into_wire(self) -> Option<Unparsed> {
        (self.lines > 0).then_some(Unparsed { lines: self.lines, first: self.first })
    }
}

/// The lines of `text` without their line ends; includes an unterminated last line.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[][..], |end| &rest[end + 1..]);
        Some(line)
    })
}

/// Parses each line except blank lines and comments into a row; `parse` returns `None` for an invalid line.
pub(crate) fn rows<T>(text: &[u8], bad: &mut BadLines, mut parse: impl FnMut(&[u8]) -> Option<T>) -> Vec<T> {
    let mut rows = Vec::new();
    for line in lines(text) {
        if line.first() == Some(&b'#') || line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match (line.len() <= LINE_BYTES_MAX).then(|| parse(line)).flatten() {
            Some(row) => rows.push(row),
            None => bad.add(line),
        }
    }
    rows
}

/// Parses digits to a number, without overflow and without any other character.
pub(crate) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses `0` or `1`.
pub(crate) fn flag(digit: &[u8]) -> Option<bool> {
    match digit {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// Parses a name of at most 32 ASCII letters, digits and `_`: a protocol, a chain.
pub(crate) fn word(bytes: &[u8]) -> Option<String> {
    let plain = !bytes.is_empty() && bytes.len() <= 32;
    let plain = plain && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    plain.then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Parses an address in one of psad's two forms: dotted IPv4, or IPv6 with eight groups of four lower-case hex digits.
/// Every address has only one form, so two folders can never stand for the same address.
pub(crate) fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.into());
    }
    let full = text.len() == 39 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':'));
    full.then(|| text.parse::<Ipv6Addr>().ok().map(IpAddr::from)).flatten()
}

/// The bytes before and after the first `separator`.
pub(crate) fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes before and after the last `separator`.
pub(crate) fn rsplit_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memrchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form() {
        for text in ["192.0.2.1", "0.0.0.0", "2001:0db8:0bad:0000:0000:0000:0000:000d"] {
            assert!(address(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["", ".", "..", "../../x", "192.0.2.01", "192.0.2.1/24", "192.0.2", "::1", "2001:db8::1", "errs"] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
        }
        assert_eq!(address(b"2001:0DB8:0bad:0000:0000:0000:0000:000d"), None, "upper case is not psad's");
        let canonical = address(b"2001:0db8:0bad:0000:0000:0000:0000:000d").unwrap().to_string();
        assert_eq!(canonical, "2001:db8:bad::d");
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number::<u16>(b"65535"), Some(65535));
        for text in ["65536", "+1", "-1", "", " 1", "1 ", "0x1"] {
            assert_eq!(number::<u16>(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_line_beyond_the_cap_is_counted_and_its_first_bytes_kept() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
        text.extend_from_slice(b"\n# comment\n\n1\n");
        let mut bad = BadLines::default();
        assert_eq!(rows(&text, &mut bad, number::<u8>), [1]);
        assert_eq!((bad.lines, bad.first.0.len()), (1, FIRST_BYTES_MAX));
    }
}
