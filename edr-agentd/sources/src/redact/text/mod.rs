//! Secrets inside a text, for any program.
//!
//! The search is a single pass from left to right. A value that was looked at to its end is not searched again, so that
//! the work is linear; look-ahead that may fail is remembered ([`LookAhead`]).
//!
//! - [`token`]: secrets of a known form, JSON web tokens, private keys.
//! - [`url`]: logins and signatures in addresses.
//! - [`named`]: `name=SECRET`, `"name": "SECRET"`, headers, connection strings.
//! - [`markup`]: the name and the secret in two fields of one object.
//! - [`sql`]: passwords in statements.

mod markup;
mod named;
mod sql;
mod token;
mod url;

use std::ops::Range;

pub(super) use self::named::header;
pub(super) use self::sql::is_statement;
pub(super) use self::url::login;
use super::rules::is_word_byte;
use super::search::SecretSearch;
use super::value::Place;
use super::word::Word;
use super::work::SearchBudget;

/// Shortest text with a secret of a known form.
const FORM_BYTES_MIN: usize = 12;

/// Finds the secrets in `word`, until the budget is used up.
pub(super) fn secrets(word: Word<'_>, search: &mut SecretSearch<'_>) {
    let text = word.bytes;
    let is_text = word.place == Place::Argument && text.iter().any(u8::is_ascii_whitespace);
    let word = if is_text { Word { place: Place::Text, ..word } } else { word };
    search.work.spend(text.len());
    let mut ahead = Stretches::default();
    let mut at = 0;
    let mut in_word = false;
    while at < text.len() && !search.work.is_spent() {
        let byte = text[at];
        let starts = !in_word;
        in_word = is_word_byte(byte);
        if starts
            && text.len() - at >= FORM_BYTES_MIN
            && token::may_start(byte)
            && let Some(end) = token::known(word, at, search)
        {
            in_word = true;
            at = end;
            continue;
        }
        if starts && matches!(byte | 0x20, b'i' | b's' | b'p') {
            sql::keyword(word, at, &mut ahead, search);
        }
        let end = match byte {
            b':' if text[at..].starts_with(b"://") => url::user_info(word, at + 3, &mut ahead, search),
            b'=' | b':' => named::named(word, at, &mut ahead, search),
            b'\'' | b'"' => {
                ahead.quote(text, at);
                sql::quoted(word, at, &mut ahead, search)
            }
            b'<' => markup::tag(word, at, &mut ahead, search),
            b'{' | b'}' | b'>' => {
                ahead.pair = markup::Pair::default();
                None
            }
            b'-' if starts => token::private_key(word, at, &mut ahead, search),
            b'/' if at > 2 => token::hook(word, at, search),
            _ => None,
        };
        match end {
            Some(end) if end > at => {
                at = end;
                in_word = false;
            }
            _ => at += 1,
        }
    }
    url::account_at_host(word, search);
}

/// A cached look-ahead: the stretch of text from a start to the first match.
#[derive(Debug, Default)]
pub(super) struct LookAhead(Option<Range<usize>>);

impl LookAhead {
    /// Returns the first match of `find` from `start` on, or the end of the text. `find` must be the same for every
    /// call.
    pub(super) fn find(
        &mut self,
        text: &[u8],
        start: usize,
        work: &mut SearchBudget,
        find: impl FnOnce(&[u8]) -> Option<usize>,
    ) -> usize {
        match &self.0 {
            Some(known) if (known.start..=known.end).contains(&start) => known.end,
            _ => {
                let end = text.get(start..).and_then(find).map_or(text.len(), |length| start + length);
                work.spend(end.saturating_sub(start));
                self.0 = Some(start..end);
                end
            }
        }
    }
}

/// What the pass remembers of the text.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    /// To the next `@`.
    at_sign: LookAhead,
    /// To the label of a private key in a PEM block.
    private_key: LookAhead,
    /// To the end of a PEM block.
    block_end: LookAhead,
    double_quoted: LookAhead,
    single_quoted: LookAhead,
    /// To the next closing brace or bracket, and to the next `<`.
    brace: LookAhead,
    bracket: LookAhead,
    parenthesis: LookAhead,
    tag: LookAhead,
    /// The name and the value of an object in which the pass is.
    pair: markup::Pair,
    /// The quote inside of which the pass is, if any.
    quote: Option<u8>,
    /// To the end of the last line with an ACL of Redis.
    acl_end: usize,
    /// True when the text has a statement of SQL; unknown at first.
    is_sql: Option<bool>,
}

impl Stretches {
    /// Notes a quote: a single quote only where a value may begin, because an apostrophe is none.
    fn quote(&mut self, text: &[u8], at: usize) {
        let byte = text[at];
        if at > 0 && text[at - 1] == b'\\' {
            return;
        }
        match self.quote {
            Some(open) if open == byte => self.quote = None,
            Some(_) => {}
            None => {
                let before = at.checked_sub(1).map(|before| text[before]);
                let opens = before.is_none_or(|before| {
                    before.is_ascii_whitespace()
                        || matches!(before, b'=' | b'(' | b',' | b':' | b'[' | b'{' | b';' | b'@')
                });
                // `N'…'` and `E'…'` of SQL.
                let opens = opens
                    || matches!(before, Some(b'N' | b'E' | b'n' | b'e' | b'B' | b'X'))
                        && at.checked_sub(2).is_some_and(|two| !text[two].is_ascii_alphanumeric());
                if byte == b'"' || opens {
                    self.quote = Some(byte);
                }
            }
        }
    }

    /// Returns the next `quote` from `start` on that no backslash escapes.
    fn closing(&mut self, text: &[u8], start: usize, quote: u8, work: &mut SearchBudget) -> usize {
        let stretch = if quote == b'"' { &mut self.double_quoted } else { &mut self.single_quoted };
        stretch.find(text, start, work, |rest| memchr::memchr(quote, rest))
    }
}
