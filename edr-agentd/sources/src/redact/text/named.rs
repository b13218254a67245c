//! `name=SECRET`, `"name": "SECRET"`, `Name: scheme SECRET`, with the value's end by the rules of the text around it.

use super::super::name::{SecretName, is_name_byte, secret_name};
use super::super::rules::NamePower;
use super::super::search::SecretSearch;
use super::super::starts_with_ignore_ascii_case;
use super::super::value::Place;
use super::super::word::{Because, Word};
use super::super::work::{self, SearchBudget};
use super::{Stretches, markup, secrets, url};

/// Words before the secret in `Authorization: Bearer …`.
const SCHEMES: [&str; 7] = ["bearer ", "basic ", "token ", "digest ", "apikey ", "negotiate ", "ntlm "];
/// Least length of the value of a parameter of a signed address.
const SIGNATURE_BYTES_MIN: usize = 10;
/// Longest name of a header or of a parameter.
const NAME_BYTES_MAX: usize = 64;

/// The rules for the end of a value without quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `a=b;c=d` (ADO, ODBC, JDBC): only `;` ends a value.
    Statement,
    /// `a=b&c=d` of an address.
    Query,
    /// `a=b,c=d`.
    List,
    /// `a=b c=d` (libpq): white space ends a value, a backslash keeps it.
    Blank,
}

/// Finds the value of a name whose separator is at `at`. Returns the end of the value when the value is a secret.
pub(super) fn named(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    let separator = text[at];
    // `:=`, `==`, `!=`, `::`: the second byte decides, or nothing.
    if separator == b':' && matches!(text.get(at + 1), Some(b'=' | b':' | b'/')) {
        return None;
    }
    let name = name_before(&text[..at])?;
    let (name_start, name) = (name.start, &text[name]);
    search.work.spend(work::NAME + name.len());
    if separator == b':' && matches!(name, b"thin" | b"oci" | b"THIN") && text[..name_start].ends_with(b"oracle:") {
        return url::oracle(word, at + 1, search);
    }
    let before = name_start.checked_sub(1).map(|before| text[before]);
    let is_parameter = matches!(before, Some(b'?' | b'&')) || text[..name_start].ends_with(b"&amp;");
    if separator == b'='
        && is_parameter
        && let Some(end) = signature(word, name, at + 1, search)
    {
        return Some(end);
    }
    let secret = secret_name(name, search.rules)
        .filter(|secret| secret.power != NamePower::Variable || !name.starts_with(b"-"))
        .or_else(|| header_name(name, &text[at..], search));
    let Some(secret) = secret else { return markup::field(word, name, at, ahead, search) };
    let mut start = at + 1;
    if separator == b'=' && matches!(text.get(start), Some(b'>' | b'=')) {
        start += 1;
    }
    while text.get(start).is_some_and(|b| matches!(b, b' ' | b'\t')) {
        start += 1;
    }
    if let Some(end) = list(word, start, secret, name, ahead, search) {
        return Some(end);
    }
    let (range, end) = value(word, name_start, at, start, name, ahead, &mut search.work);
    // `NAME=$(command)`: the end of the command is unknown here.
    if word.place != Place::Argument && text.get(range.start..).is_some_and(|value| value.starts_with(b"$(")) {
        return None;
    }
    if range.start >= range.end || is_prose(text, &range, separator, name_start) {
        return None;
    }
    let found = search.found_len();
    search.add_named(word, range, secret);
    (search.found_len() > found).then_some(end)
}

/// The name before a separator: `name`, `"name"`, `\"name\"`, `['name']`, `name `.
fn name_before(text: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut end = text.len();
    let mut skipped = 0;
    while end > 0 && skipped < 8 && matches!(text[end - 1], b' ' | b'"' | b'\'' | b'\\' | b']' | b'}' | b':') {
        end -= 1;
        skipped += 1;
    }
    let start = text[..end].iter().rev().take(NAME_BYTES_MAX * 2).take_while(|byte| is_name_byte(**byte)).count();
    (start > 0).then_some(end - start..end)
}

/// A header with a secret by the agreement of vendors: `X-Insert-Key: …`.
fn header_name(name: &[u8], rest: &[u8], search: &SecretSearch<'_>) -> Option<SecretName> {
    // `image-api:latest` is no header.
    if !matches!(rest, [b':', b' ' | b'"', ..])
        || !name.contains(&b'-')
        || name.starts_with(b"-")
        || name.len() > NAME_BYTES_MAX
    {
        return None;
    }
    let rule = search.rules.header(&name.to_ascii_lowercase())??;
    Some(SecretName { power: NamePower::Strong, rule, is_password: true, may_count: false })
}

/// The value of a parameter of a signed address.
fn signature(word: Word<'_>, name: &[u8], start: usize, search: &mut SecretSearch<'_>) -> Option<usize> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let rule = search.rules.query(&name.to_ascii_lowercase())?;
    let text = word.bytes;
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'&' | b'#' | b'"' | b'\'' | b'<' | b'>');
    let end = text[start..].iter().position(ends).map_or(text.len(), |length| start + length);
    search.work.spend(end - start);
    if end - start < SIGNATURE_BYTES_MIN {
        return None;
    }
    search.add(word, start..end, Because::Rule(rule));
    Some(end)
}

/// `"auth": ["user", "SECRET"]`, `auth=('user', 'SECRET')`, `"tokens": ["SECRET", "SECRET"]`.
fn list(
    word: Word<'_>,
    start: usize,
    secret: SecretName,
    name: &[u8],
    ahead: &mut Stretches,
    search: &mut SecretSearch<'_>,
) -> Option<usize> {
    let text = word.bytes;
    let work = &mut search.work;
    let end = match text.get(start)? {
        b'[' => ahead.bracket.find(text, start, work, |rest| memchr::memchr(b']', rest)),
        b'(' => ahead.parenthesis.find(text, start, work, |rest| memchr::memchr(b')', rest)),
        _ => return None,
    };
    let strings = markup::strings(text, start + 1..end);
    if name.to_ascii_lowercase().ends_with(b"auth") {
        if strings.len() >= 2
            && let Some(last) = strings.last().cloned()
        {
            search.add(word, last, Because::Rule(secret.rule));
        }
        return Some(start + 1);
    }
    if strings.is_empty() {
        return None;
    }
    strings.into_iter().for_each(|string| search.add_named(word, string, secret));
    Some(end)
}

/// The range of the value, and the place behind the value.
fn value(
    word: Word<'_>,
    name_start: usize,
    at: usize,
    start: usize,
    name: &[u8],
    ahead: &mut Stretches,
    work: &mut SearchBudget,
) -> (std::ops::Range<usize>, usize) {
    let text = word.bytes;
    let (quote, is_escaped, start) = match &text[start.min(text.len())..] {
        [b'\\', quote @ (b'"' | b'\''), ..] => (Some(*quote), true, start + 2),
        [quote @ (b'"' | b'\''), ..] => (Some(*quote), false, start + 1),
        [b'N' | b'E', quote @ b'\'', ..] => (Some(*quote), false, start + 2),
        _ => (None, false, start),
    };
    let scheme =
        SCHEMES.iter().find(|scheme| starts_with_ignore_ascii_case(text.get(start..).unwrap_or_default(), scheme));
    let mut from = start + scheme.map_or(0, |scheme| scheme.len());
    while scheme.is_some() && text.get(from) == Some(&b' ') {
        from += 1;
    }
    if let Some(quote) = quote {
        let end = quoted_end(text, from, quote, is_escaped, ahead, work);
        return (from..end, end);
    }
    if text[at] == b'=' && text.get(from) == Some(&b'{') && !text[from..].starts_with(b"{{") {
        let mut end = ahead.brace.find(text, from, work, |rest| memchr::memchr(b'}', rest));
        // `}}` is one brace of the secret.
        while text.get(end + 1) == Some(&b'}') {
            end = ahead.brace.find(text, end + 2, work, |rest| memchr::memchr(b'}', rest));
        }
        return (from + 1..end.max(from + 1), end);
    }
    let limit = match ahead.quote {
        Some(quote) => ahead.closing(text, from, quote, work),
        None => text.len(),
    };
    let limit = if limit > from && text.get(limit - 1) == Some(&b'\\') { limit - 1 } else { limit };
    let end = if text[at] == b':' && is_whole_header(name) {
        let rest = &text[from.min(limit)..limit];
        from + rest.iter().position(|byte| matches!(byte, b'\n' | b'\r' | b'"' | b'\'')).unwrap_or(rest.len())
    } else {
        let before = name_start.checked_sub(1).map(|before| text[before]);
        plain_end(text, before, text[at], from.min(limit), limit)
    };
    work.spend(2 * end.saturating_sub(from));
    (from..end, end)
}

/// The end of a value in quotes: a doubled quote and a quote behind a backslash belong to the value.
fn quoted_end(
    text: &[u8],
    from: usize,
    quote: u8,
    is_escaped: bool,
    ahead: &mut Stretches,
    work: &mut SearchBudget,
) -> usize {
    let mut end = ahead.closing(text, from, quote, work);
    if is_escaped {
        // In `\"…\"` the closing quote is escaped too, and its backslash ends the value.
        return if end > from && text[end - 1] == b'\\' { end - 1 } else { end };
    }
    while end < text.len() {
        if end > from && text[end - 1] == b'\\' && !(end > from + 1 && text[end - 2] == b'\\') {
            end = ahead.closing(text, end + 1, quote, work);
        } else if text.get(end + 1) == Some(&quote) && end > from {
            end = ahead.closing(text, end + 2, quote, work);
        } else {
            break;
        }
    }
    end.min(text.len())
}

/// The end of a value without quotes.
fn plain_end(text: &[u8], before: Option<u8>, separator: u8, start: usize, limit: usize) -> usize {
    let rest = &text[start..limit];
    let position = |ends: &dyn Fn(u8) -> bool| rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
    let style = match before {
        Some(b';') => Style::Statement,
        Some(b'?' | b'&') => Style::Query,
        Some(b',') => Style::List,
        _ if separator == b':' => {
            let length =
                position(&|byte| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']' | b'"' | b'\''));
            return start + length;
        }
        _ => style_of(rest),
    };
    let length = match style {
        Style::Statement => position(&|byte| matches!(byte, b';' | b'\n')),
        Style::Query => position(&|byte| byte.is_ascii_whitespace() || matches!(byte, b'&' | b'#' | b'"' | b'\'')),
        Style::List => position(&|byte| byte.is_ascii_whitespace() || byte == b','),
        Style::Blank => {
            let mut escaped = false;
            let ends = |byte: &u8| {
                let ends = byte.is_ascii_whitespace() && !escaped;
                escaped = *byte == b'\\' && !escaped;
                ends
            };
            let length = rest.iter().position(ends).unwrap_or(rest.len());
            let is_closing =
                |byte: &&u8| matches!(**byte, b';' | b',' | b')' | b'}' | b']' | b'`' | b'"' | b'\'' | b'&' | b'|');
            let closing = rest[..length].iter().rev().take_while(is_closing).count();
            if closing < length { length - closing } else { length }
        }
    };
    start + length
}

/// The style of a text by the first separator that a further name follows.
fn style_of(rest: &[u8]) -> Style {
    for (at, &byte) in rest.iter().enumerate() {
        let style = match byte {
            b';' => Style::Statement,
            b'&' => Style::Query,
            b',' => Style::List,
            _ if byte.is_ascii_whitespace() => return Style::Blank,
            _ => continue,
        };
        let next = rest[at + 1..].iter().take(NAME_BYTES_MAX);
        let name = next.take_while(|byte| is_name_byte(**byte) || **byte == b' ').count();
        if name > 0 && matches!(rest.get(at + 1 + name), Some(b'=')) {
            return style;
        }
    }
    Style::Blank
}

/// True for `word: next word` in a sentence, and for `image:tag`.
fn is_prose(text: &[u8], range: &std::ops::Range<usize>, separator: u8, name_start: usize) -> bool {
    if separator != b':' || name_start == 0 {
        return false;
    }
    let value = &text[range.clone()];
    match text[range.start - 1] {
        b' ' => {
            value.iter().all(u8::is_ascii_lowercase)
                && matches!(text.get(range.end..), Some([b' ', next, ..]) if next.is_ascii_alphabetic())
        }
        b':' => {
            let is_tag = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
            text[name_start - 1] == b'/' || value.len() <= 8 && value.iter().all(is_tag)
        }
        _ => false,
    }
}

/// True for headers with an entirely secret value.
fn is_whole_header(name: &[u8]) -> bool {
    [&b"cookie"[..], b"authorization", b"proxy-authorization", b"set-cookie"]
        .iter()
        .any(|header| name.eq_ignore_ascii_case(header))
}

/// Searches `Name: value` behind an option for headers. Returns false when the word is no header.
pub(in crate::redact) fn header(word: Word<'_>, start: usize, search: &mut SecretSearch<'_>) -> bool {
    let text = &word.bytes[start..];
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let colon = text.iter().position(|byte| !is_name(byte)).unwrap_or(text.len());
    if text.get(colon) != Some(&b':') || colon == 0 || colon > NAME_BYTES_MAX || text[colon..].starts_with(b"://") {
        return false;
    }
    search.work.spend(work::NAME + text.len());
    let name = text[..colon].to_ascii_lowercase();
    let blanks = text[colon + 1..].iter().take_while(|byte| **byte == b' ').count();
    let mut from = start + colon + 1 + blanks;
    match search.rules.header(&name) {
        Some(Some(rule)) => {
            let rest = &word.bytes[from..];
            if let Some(scheme) = SCHEMES.iter().find(|scheme| starts_with_ignore_ascii_case(rest, scheme)) {
                from += scheme.len();
                from += word.bytes[from..].iter().take_while(|byte| **byte == b' ').count();
            }
            search.add(word, from..word.bytes.len(), Because::Rule(rule));
            true
        }
        Some(None) => {
            secrets(word.part(from..word.bytes.len()), search);
            true
        }
        None => false,
    }
}
