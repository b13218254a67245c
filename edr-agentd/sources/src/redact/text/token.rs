//! Secrets by their form.

use std::sync::LazyLock;

use memchr::memmem;

use super::super::rules::{ByteClass, Rules, is_word_byte};
use super::super::search::SecretSearch;
use super::super::word::{Because, Word};
use super::Stretches;

/// Bytes of the header of a JSON web token that are decoded.
const HEADER_BYTES_MAX: usize = 1_024;

/// True for the first byte of a known form, of the built-in rules or of JSON web tokens.
pub(super) fn may_start(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'$' | b'{' | b'_')
}

/// Finds the end of a secret of a known form that starts at `at`.
pub(super) fn known(word: Word<'_>, at: usize, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    let rest = &text[at..];
    if rest[0] == b'e'
        && matches!(rest[1], b'y' | b'w')
        && let Some(end) = web_token(rest, search)
    {
        search.add(word, at..at + end, Because::Structure("JSON web token"));
        return Some(at + end);
    }
    let rules: &Rules = search.rules;
    let forms = rules.forms(rest[0]);
    let form = forms.iter().find(|form| {
        rest.len() >= form.prefix.len() + form.more && rest[1] == form.prefix[1] && rest.starts_with(&form.prefix)
    })?;
    let tail = &rest[form.prefix.len()..];
    let length = tail.iter().take_while(|&&byte| form.class.has(byte)).count();
    search.work.spend(length);
    let body = &tail[..length];
    let needs_digit =
        form.class.is_mixed() || form.class != ByteClass::Upper && form.prefix.iter().all(u8::is_ascii_alphanumeric);
    if length < form.more || needs_digit && !body.iter().any(u8::is_ascii_digit) {
        return None;
    }
    if form.class.is_mixed() && !body.iter().any(u8::is_ascii_alphabetic) {
        return None;
    }
    let further = tail[length..].iter().take_while(|&&byte| is_word_byte(byte)).count();
    search.work.spend(further);
    let end = at + form.prefix.len() + length + further;
    // A sentence's full stop is no part of the secret.
    let dots = text[at..end].iter().rev().take_while(|byte| **byte == b'.').count();
    search.add(word, at..end - dots, Because::Rule(form.rule));
    Some(end - dots)
}

/// The length of a JSON web token (RFC 7515, RFC 7516): three or five parts, of which the first is an object.
fn web_token(rest: &[u8], search: &mut SecretSearch<'_>) -> Option<usize> {
    let is_part = |byte: &&u8| is_word_byte(**byte);
    let header = rest.iter().take_while(is_part).count();
    search.work.spend(header);
    if header < 12 || !is_object(&rest[..header.min(HEADER_BYTES_MAX)]) {
        return None;
    }
    // A token that was cut, or whose header alone is long.
    let mut end = header;
    let mut parts = 1;
    while parts < 5 && rest.get(end) == Some(&b'.') {
        let part = rest[end + 1..].iter().take_while(is_part).count();
        search.work.spend(part);
        parts += 1;
        end += 1 + part;
    }
    (parts >= 3 || rest.starts_with(b"eyJhbGciOi") && end >= 30).then_some(end)
}

/// True for base64url of the beginning of a JSON object: a brace, and a name in quotes.
fn is_object(text: &[u8]) -> bool {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut decoded = [0_u8; 12];
    let mut length = 0;
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded[length] = (bits >> count & 0xff) as u8;
            length += 1;
            if length == decoded.len() {
                break;
            }
        }
    }
    let decoded = decoded[..length].trim_ascii();
    let inner = decoded.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| inner.starts_with(b"\"") && inner.get(1).is_some_and(u8::is_ascii_alphabetic))
}

/// Finds the end of `-----BEGIN … PRIVATE KEY-----`, which starts at `at`.
pub(super) fn private_key(
    word: Word<'_>,
    at: usize,
    ahead: &mut Stretches,
    search: &mut SecretSearch<'_>,
) -> Option<usize> {
    static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("PRIVATE KEY"));
    let text = word.bytes;
    if !text[at..].starts_with(b"-----BEGIN ") {
        return None;
    }
    let work = &mut search.work;
    let label_end = ahead.private_key.find(text, at, work, |rest| FINDER.find(rest));
    let label = text.get(at + 11..label_end).filter(|_| label_end < text.len())?;
    // At most up to the next block.
    let other_block = memmem::find(label, b"-----");
    work.spend(other_block.unwrap_or(label.len()));
    if other_block.is_some() {
        return None;
    }
    let end = ahead.block_end.find(text, label_end, work, |rest| memmem::find(rest, b"-----END"));
    let end = match memmem::find(text.get(end + 5..).unwrap_or_default(), b"-----") {
        Some(close) => end + 5 + close + 5,
        None => text.len(),
    };
    search.add(word, at..end, Because::Structure("private key (PEM)"));
    Some(end)
}

/// Finds the end of an address whose last part is a secret. `at` is the first `/` behind the host.
pub(super) fn hook(word: Word<'_>, at: usize, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let mut length = 0;
    while length < at && length < 64 && is_host(&text[at - length - 1]) {
        length += 1;
    }
    let host = &text[at - length..];
    if length < 8 || !host[..length].contains(&b'.') {
        return None;
    }
    search.work.spend(length);
    let (bytes, rule) = search.rules.hook(host).or_else(|| {
        // `tenant.webhook.office.com` has a name of its own.
        let dots = host[..length].iter().enumerate().filter(|(_, byte)| **byte == b'.');
        dots.take(3).find_map(|(dot, _)| {
            let (bytes, rule) = search.rules.hook(&host[dot..])?;
            Some((dot + bytes, rule))
        })
    })?;
    let start = at - length + bytes;
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>');
    let end = text[start..].iter().position(ends).map_or(text.len(), |length| start + length);
    search.work.spend(end - start);
    search.add(word, start..end, Because::Rule(rule));
    Some(end)
}
