//! A secret whose name stands beside it: `<password>SECRET</password>`, `"name": "password", "value": "SECRET"`.

use std::ops::Range;

use super::super::name::{SecretName, secret_name};
use super::super::search::SecretSearch;
use super::super::word::Word;
use super::Stretches;

/// Fields with the name of a value.
const NAMES: [&str; 16] = [
    "name",
    "key",
    "id",
    "field",
    "variable",
    "var",
    "param",
    "parameter",
    "parametername",
    "parameterkey",
    "property",
    "option",
    "setting",
    "k",
    "n",
    "optionname",
];
/// Fields with the value of a name.
const VALUES: [&str; 13] = [
    "value",
    "val",
    "v",
    "content",
    "text",
    "data",
    "default",
    "parametervalue",
    "stringvalue",
    "secretvalue",
    "body",
    "plaintext",
    "fieldvalue",
];
/// Longest name in a field, and longest tag.
const NAME_BYTES_MAX: usize = 96;
const TAG_BYTES_MAX: usize = 512;

/// The name and the value of an object.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// The secret that a name of the object names.
    name: Option<SecretName>,
    /// A value in quotes that came before the name.
    value: Option<Range<usize>>,
}

/// Notes the fields of an object: a field with a name, and a field with a value. Returns the end of a secret value.
pub(super) fn field(
    word: Word<'_>,
    name: &[u8],
    at: usize,
    ahead: &mut Stretches,
    search: &mut SecretSearch<'_>,
) -> Option<usize> {
    let text = word.bytes;
    let is_name = is_one_of(&NAMES, name);
    if !is_name && !is_one_of(&VALUES, name) {
        return None;
    }
    let mut start = at + 1;
    while text.get(start).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        start += 1;
    }
    let quote = match text.get(start..) {
        Some([b'\\', quote @ (b'"' | b'\''), ..]) => {
            start += 2;
            Some(*quote)
        }
        Some([quote @ (b'"' | b'\''), ..]) => {
            start += 1;
            Some(*quote)
        }
        _ => None,
    };
    if is_name {
        let rest = text.get(start..).unwrap_or_default();
        let ends = |byte: &u8| match quote {
            Some(quote) => *byte == quote || *byte == b'\\',
            None => byte.is_ascii_whitespace() || matches!(byte, b',' | b';' | b'&' | b'}' | b'"' | b'\''),
        };
        let length = rest.iter().take(NAME_BYTES_MAX).position(ends).unwrap_or(rest.len().min(NAME_BYTES_MAX));
        search.work.spend(length);
        ahead.pair.name = secret_name(&rest[..length], search.rules);
        if let Some(secret) = ahead.pair.name
            && let Some(value) = ahead.pair.value.take()
        {
            search.add_named(word, value, secret);
        }
        return None;
    }
    let end = match quote {
        Some(quote) => {
            let end = ahead.closing(text, start, quote, &mut search.work);
            if end > start && text[end - 1] == b'\\' { end - 1 } else { end }
        }
        None if ahead.pair.name.is_some() => {
            let rest = text.get(start..).unwrap_or_default();
            let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b'"' | b'\'');
            start + rest.iter().position(ends).unwrap_or(rest.len())
        }
        None => return None,
    };
    match ahead.pair.name.take() {
        Some(secret) => {
            search.work.spend(end - start);
            search.add_named(word, start..end, secret);
            Some(end)
        }
        None => {
            ahead.pair.value = Some(start..end);
            None
        }
    }
}

/// Finds the content of an element whose name, or whose attribute `name`, names a secret. `at` is the `<`.
pub(super) fn tag(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    ahead.pair = Pair::default();
    let rest = &text[at + 1..];
    if !rest.first().is_some_and(u8::is_ascii_alphabetic) {
        return None;
    }
    let close = rest.iter().take(TAG_BYTES_MAX).position(|byte| *byte == b'>')?;
    search.work.spend(close);
    let inside = &rest[..close];
    if inside.ends_with(b"/") || inside.contains(&b'<') {
        return None;
    }
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-' | b'.');
    let name = &inside[..inside.iter().position(|byte| !is_name(byte)).unwrap_or(close)];
    let name = name.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    let content = at + 1 + close + 1;
    let end = |from: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>| {
        ahead.tag.find(text, from, &mut search.work, |rest| memchr::memchr(b'<', rest))
    };
    let secret = secret_name(name, search.rules).or_else(|| attribute(inside, search));
    if let Some(secret) = secret {
        let (from, to) = match text[content..].strip_prefix(b"<![CDATA[") {
            Some(data) => {
                let from = content + 9;
                let length = memchr::memmem::find(data, b"]]>").unwrap_or(data.len());
                search.work.spend(length);
                (from, from + length)
            }
            None => (content, end(content, ahead, search)),
        };
        if !text[from..to].trim_ascii().is_empty() {
            search.add_named(word, from..to, secret);
            return Some(to);
        }
        return None;
    }
    // `<key>Password</key><string>SECRET</string>` of a property list.
    if is_one_of(&NAMES, name) {
        let to = end(content, ahead, search);
        let label = text.get(content..to).filter(|label| label.len() <= NAME_BYTES_MAX)?;
        let secret = secret_name(label.trim_ascii(), search.rules)?;
        let tags = text[to..].iter().take(TAG_BYTES_MAX).enumerate().filter(|(_, byte)| **byte == b'>');
        let second = tags.map(|(at, _)| at).nth(1)?;
        let from = to + second + 1;
        let to = end(from, ahead, search);
        if from < to {
            search.add_named(word, from..to, secret);
        }
    }
    None
}

/// The secret that an attribute `name="…"` or `key="…"` names, of an element without an attribute for the value.
fn attribute(inside: &[u8], search: &SecretSearch<'_>) -> Option<SecretName> {
    let mut rest = inside;
    let mut found = None;
    while let Some(equals) = rest.iter().position(|byte| *byte == b'=') {
        let name = rest[..equals].rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
        let quote = *rest.get(equals + 1)?;
        let value = &rest[equals + 2..];
        let length = value.iter().position(|byte| *byte == quote)?;
        if is_one_of(&NAMES, name) {
            found = secret_name(&value[..length], search.rules);
        } else if is_one_of(&VALUES, name) {
            return None;
        }
        rest = &value[length + 1..];
    }
    found
}

/// The strings in quotes in a range of a text.
pub(super) fn strings(text: &[u8], range: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end.min(text.len()) {
        let quote = text[at];
        if matches!(quote, b'"' | b'\'') {
            let rest = &text[at + 1..range.end];
            let Some(length) = rest.iter().position(|byte| *byte == quote) else { break };
            let escaped = usize::from(length > 0 && rest[length - 1] == b'\\');
            found.push(at + 1..at + 1 + length - escaped);
            at += length + 1;
        }
        at += 1;
    }
    found
}

fn is_one_of(known: &[&str], name: &[u8]) -> bool {
    known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}
