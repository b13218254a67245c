//! Bytes controlled by a host, and their reversible text form.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Bytes from the kernel or from a file: a path, `comm`, an argument. They become text only for display.
///
/// msgpack carries the exact bytes as `bin`. JSON and every display carry [`escaped`] text, from which [`unescape`]
/// restores the exact bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: AsRef<[u8]> + ?Sized> From<&T> for Bytes {
    fn from(bytes: &T) -> Self {
        Self(bytes.as_ref().to_vec())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", escaped(&self.0))
    }
}

/// Returns the text form of bytes: valid UTF-8 stays, a backslash becomes `\\`, and each byte outside valid UTF-8
/// becomes `\xNN`. Control characters stay as they are: this function keeps the bytes exact, and [`visible`] makes them
/// safe to show.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Like [`escaped`], but without characters that a terminal or a page would act on, and without invisible characters.
/// Control characters, line and paragraph separators, bidirectional overrides, and every character displayed as nothing
/// (`Default_Ignorable_Code_Point` of Unicode 16.0, and the braille blank) become `\xNN` or `\u{N}`.
pub fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in escaped(bytes).chars() {
        match c {
            '\0'..='\x1f' | '\x7f' => text.push_str(&format!("\\x{:02x}", c as u32)),
            '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}' => text.push_str(&format!("\\u{{{:x}}}", c as u32)),
            _ => text.push(c),
        }
    }
    text
}

/// Returns the exact bytes behind [`escaped`] text; `None` when a backslash starts neither `\\` nor `\xNN`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        match tail {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                let digit = |d: u8| (d as char).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&escaped(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r"text in which a backslash starts \\ or \xNN")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                unescape(text).map(Bytes).ok_or_else(|| E::custom("a backslash that starts neither \\\\ nor \\xNN"))
            }
        }
        struct Binary;
        impl<'de> Visitor<'de> for Binary {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.as_bytes().to_vec()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Bytes, A::Error> {
                Err(A::Error::custom("an array where bytes belong"))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            deserializer.deserialize_bytes(Binary)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_outside_utf8_and_backslashes_are_written_reversibly() {
        assert_eq!(escaped(b"a\\b\xff\xc3\xa9"), "a\\\\b\\xff\u{e9}");
        assert_eq!(unescape("a\\\\b\\xff\u{e9}").as_deref(), Some(b"a\\b\xff\xc3\xa9".as_slice()));
        assert_eq!(unescape("cut \\x4"), None);
        assert_eq!(unescape("cut \\"), None);
    }

    #[test]
    fn nothing_a_terminal_acts_on_is_visible() {
        let hostile = "\x1b[2J\x07\u{202e}gnp\u{200b}\u{9b}".as_bytes();
        assert_eq!(visible(hostile), "\\x1b[2J\\x07\\u{202e}gnp\\u{200b}\\u{9b}");
        assert_eq!(visible("sshd\u{3164}\u{fe0f}".as_bytes()), "sshd\\u{3164}\\u{fe0f}");
        assert_eq!(visible("K\u{f6}ln \u{65e5}\u{672c}".as_bytes()), "K\u{f6}ln \u{65e5}\u{672c}");
    }

    proptest! {
        #[test]
        fn text_and_msgpack_give_any_bytes_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(unescape(&escaped(&bytes)), Some(bytes.clone()));
            let value = Bytes(bytes);
            let json = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Bytes>(&json).unwrap(), &value);
            let packed = rmp_serde::to_vec_named(&value).unwrap();
            prop_assert_eq!(&rmp_serde::from_slice::<Bytes>(&packed).unwrap(), &value);
        }
    }
}
