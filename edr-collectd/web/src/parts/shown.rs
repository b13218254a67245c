//! Text for a page. Everything under a host's control becomes [`Shown`] first, without characters that act invisibly
//! (control, bidirectional, zero-width characters); then the template escapes markup.

use std::fmt;

use askama::filters::HtmlSafe;
use edr_model::Cell;
pub(crate) use edr_model::cell::{grouped, size};

/// Bytes shown of a cell: a control character takes 24 bytes of HTML, and a snapshot may contain a single value of 32
/// MiB.
const CELL_BYTES_MAX: usize = 16 << 10;
/// Bytes shown of any other text; psad's own report is the longest.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Text with all invisible bytes made visible ([`edr_wire::visible`]). Templates escape the text like any other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown(String);

impl Shown {
    /// Makes bytes visible.
    pub(crate) fn of(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        match bytes.split_at_checked(TEXT_BYTES_MAX) {
            Some((shown, rest)) if !rest.is_empty() => {
                Self(format!("{} … ({} bytes in all)", edr_wire::visible(shown), bytes.len()))
            }
            _ => Self(edr_wire::visible(bytes)),
        }
    }
}

impl From<&Cell> for Shown {
    /// [`Cell::text`] makes the text visible.
    fn from(cell: &Cell) -> Self {
        Self(cell.text_within(CELL_BYTES_MAX))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Shown {
    /// Returns HTML in which escapes written by [`edr_wire::visible`] are highlighted; for the content of an element
    /// only.
    pub(crate) fn marked(&self) -> Marked<'_> {
        Marked(&self.0)
    }

    /// Returns the number of characters.
    pub(crate) fn len(&self) -> usize {
        self.0.chars().count()
    }

    /// Returns true for an empty text.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// [`Shown`] as HTML: already escaped, so templates must not escape the text again.
pub(crate) struct Marked<'a>(&'a str);

impl HtmlSafe for Marked<'_> {}

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(start) = rest.find('\\') {
            html(f, &rest[..start])?;
            let escapes = escapes_len(&rest[start..]);
            f.write_str("<i class=\"esc\">")?;
            html(f, &rest[start..start + escapes])?;
            f.write_str("</i>")?;
            rest = &rest[start + escapes..];
        }
        html(f, rest)
    }
}

/// Returns the bytes of the escapes at the start of `text`, at least 1: `\\`, `\xNN`, `\u{N}`, one after another.
fn escapes_len(text: &str) -> usize {
    let mut len = 0;
    while text[len..].starts_with('\\') {
        let escape = &text[len..];
        len += match escape.as_bytes().get(1) {
            Some(b'x') if escape.is_char_boundary(4.min(escape.len())) => 4.min(escape.len()),
            Some(b'u') => escape.find('}').map_or(1, |end| end + 1),
            Some(b'\\') => 2,
            _ => 1,
        };
    }
    len
}

fn html(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let entity = match byte {
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'&' => "&amp;",
            b'"' => "&#34;",
            b'\'' => "&#39;",
            _ => continue,
        };
        f.write_str(&text[plain_from..at])?;
        f.write_str(entity)?;
        plain_from = at + 1;
    }
    f.write_str(&text[plain_from..])
}

/// A danger level, shown as a figure and a bar, never as a color alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Danger(u8);

impl Danger {
    /// Makes a level from 1 to 5, or 0 for none. A larger level counts as 5, psad's highest.
    pub(crate) fn new(level: u8) -> Self {
        Self(level.min(5))
    }
}

impl HtmlSafe for Danger {}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("<span class=\"none\">none</span>"),
            level => write!(
                f,
                "<span class=\"danger d{level}\" title=\"danger level {level} of 5\"><b>{level}</b>\
                 <i aria-hidden=\"true\"></i></span>"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_stays_text_and_escapes_are_set_apart() {
        let shown = Shown::of(b"<b>)\n\xff&'\" a\\x41 \xe2\x80\xaegnp\x1b".as_slice());
        assert_eq!(
            shown.marked().to_string(),
            "&lt;b&gt;)<i class=\"esc\">\\x0a\\xff</i>&amp;&#39;&#34; a<i class=\"esc\">\\\\</i>x41 \
             <i class=\"esc\">\\u{202e}</i>gnp<i class=\"esc\">\\x1b</i>"
        );
    }

    #[test]
    fn text_that_only_looks_like_an_escape_is_cut_nowhere() {
        for text in ["\\", "\\x", "\\xé", "\\u", "\\u{", "\\é", "\\x4é", "\\\\\\"] {
            let marked = Marked(text).to_string();
            assert_eq!(marked.replace("<i class=\"esc\">", "").replace("</i>", ""), text);
        }
    }

    #[test]
    fn a_huge_value_is_a_short_cell_marked_as_cut() {
        use edr_wire::Bytes;
        let long: Vec<u8> = b"a\x01".repeat(15 << 20);
        for cell in [
            Cell::Bytes(Bytes(long.clone())),
            Cell::List(vec!["sh".into(), Bytes(long.clone())]),
            Cell::List(vec![Bytes::from("x"); 1 << 20]),
            Cell::Numbers(vec![7; 1 << 20]),
        ] {
            let shown = Shown::from(&cell);
            assert!(shown.marked().to_string().len() < 32 * CELL_BYTES_MAX);
            assert!(shown.to_string().contains("bytes in all; JSON and CSV have them"));
        }
        assert_eq!(Shown::from(&Cell::List(vec!["a b".into(), "c".into()])).to_string(), "'a b' c");
        assert!(Shown::of(&long).to_string().len() < 6 * TEXT_BYTES_MAX);
    }

    #[test]
    fn numbers_are_grouped_and_sizes_short() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567, -1_234].map(grouped),
            ["0", "999", "1,000", "1,234,567", "-1,234"].map(String::from)
        );
        assert_eq!(
            [0, 1_023, 1_024, 1_258_291, 1 << 40, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.2 MiB", "1.0 TiB", "16 EiB"].map(String::from)
        );
    }
}
