//! Secrets inside a text, for any program.
//!
//! The search is a single pass from left to right. The results of look-ahead are cached ([`LookAhead`]), so that
//! several rules with a start in one stretch of text scan the stretch only once.

use std::ops::Range;

use memchr::memmem;

use super::name::names_a_secret;
use super::work::{self, SearchBudget};
use super::{SecretSearch, Word, starts_with_ignore_ascii_case};

/// Keys of a known form: prefix, and the least number of further bytes from `A-Za-z0-9_-`.
const KEYS: [(&[u8], usize); 32] = [
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"ghp_", 20),
    (b"gho_", 20),
    (b"ghu_", 20),
    (b"ghs_", 20),
    (b"ghr_", 20),
    (b"github_pat_", 20),
    (b"glpat-", 16),
    (b"glrt-", 16),
    (b"xoxb-", 16),
    (b"xoxp-", 16),
    (b"xoxa-", 16),
    (b"xoxr-", 16),
    (b"xapp-", 16),
    (b"AIza", 30),
    (b"ya29.", 20),
    (b"sk_live_", 16),
    (b"rk_live_", 16),
    (b"sk-", 20),
    (b"SG.", 20),
    (b"npm_", 30),
    (b"pypi-", 16),
    (b"hf_", 20),
    (b"dop_v1_", 20),
    (b"hvs.", 20),
    (b"hvb.", 20),
    (b"dckr_pat_", 16),
    (b"shpat_", 16),
    (b"key-", 32),
    (b"AGE-SECRET-KEY-", 20),
    (b"eyJhbGciOi", 20),
];
/// Addresses whose last part is a secret.
const HOOKS: [&[u8]; 4] =
    [b"hooks.slack.com/services/", b"discord.com/api/webhooks/", b"api.telegram.org/bot", b"webhook.office.com/"];
/// Words before the secret in `Authorization: Bearer …`.
const SCHEMES: [&[u8]; 6] = [b"bearer ", b"basic ", b"token ", b"digest ", b"apikey ", b"negotiate "];

/// Finds the secrets in `word`, until the budget is used up.
pub(super) fn secrets(word: Word<'_>, search: &mut SecretSearch) {
    let text = word.bytes;
    search.work.spend(text.len());
    let mut ahead = Stretches::default();
    let mut at = 0;
    while at < text.len() && !search.work.is_spent() {
        match text[at] {
            b':' if text[at..].starts_with(b"://") => user_info(word, at + 3, search),
            b'=' | b':' => named(word, at, &mut ahead, search),
            b'-' if text[at..].starts_with(b"-----BEGIN ") => {
                if let Some(end) = private_key(text, at, &mut ahead, &mut search.work) {
                    search.add(word, at..end);
                    at = end;
                    continue;
                }
            }
            _ => {}
        }
        let is_start = at == 0 || !is_key_byte(text[at - 1]);
        if is_start && let Some(end) = known_key(text, at, &mut search.work) {
            search.add(word, at..end);
            at = end;
            continue;
        }
        if let Some(hook) = HOOKS.iter().find(|hook| hook[0] == text[at] && text[at..].starts_with(hook)) {
            let start = at + hook.len();
            let end = ahead.hook.end(text, start, &mut search.work, ends_hook);
            search.add(word, start..end);
        }
        at += 1;
    }
    account_at_host(word, search);
}

/// A cached look-ahead: the stretch of text from a start to the first match.
#[derive(Debug, Default)]
pub(super) struct LookAhead(Option<Range<usize>>);

impl LookAhead {
    /// Returns the first match of `find` from `start` on, or the end of the text. `find` must be the same for every
    /// call.
    fn find(
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

    /// Returns the first byte from `start` on that satisfies `is_end`, or the end of the text. `is_end` must be the
    /// same for every call.
    pub(super) fn end(&mut self, text: &[u8], start: usize, work: &mut SearchBudget, is_end: fn(&u8) -> bool) -> usize {
        self.find(text, start, work, |rest| rest.iter().position(is_end))
    }
}

/// The cached look-ahead of each rule.
#[derive(Debug, Default)]
struct Stretches {
    /// To the end of an address whose last part is a secret.
    hook: LookAhead,
    /// To the end of a value without quotes.
    value: LookAhead,
    /// To the end of all cookies of a header.
    cookies: LookAhead,
    double_quoted: LookAhead,
    single_quoted: LookAhead,
    /// To the label of a private key in a PEM block.
    private_key: LookAhead,
}

fn ends_hook(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'')
}

fn ends_value(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'&' | b';' | b',' | b'"' | b'\'' | b'}' | b')')
}

fn ends_cookies(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b'"' | b'\'')
}

fn ends_user_info(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>')
}

/// Finds `scheme://user:SECRET@host`, `scheme://SECRET@host`.
///
/// The user info ends at a `/` at the latest, and the next `://` contains one. So no byte is scanned for two URLs.
fn user_info(word: Word<'_>, start: usize, search: &mut SecretSearch) {
    let rest = &word.bytes[start..];
    let user_info = &rest[..rest.iter().position(ends_user_info).unwrap_or(rest.len())];
    search.work.spend(user_info.len());
    let Some(at) = user_info.iter().rposition(|&b| b == b'@') else { return };
    let user_info = &user_info[..at];
    match user_info.iter().position(|&b| b == b':') {
        Some(colon) => search.add(word, start + colon + 1..start + at),
        // A name has no 16 bytes with digits; a token has.
        None if user_info.len() >= 16 && user_info.iter().any(u8::is_ascii_digit) => {
            search.add(word, start..start + at);
        }
        None => {}
    }
}

/// Finds `name=SECRET`, `"name": "SECRET"`, `Name: scheme SECRET`, with the separator at `at`.
fn named(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch) {
    let text = word.bytes;
    // Both scans go back at most to the previous separator.
    let name = before(&text[..at], |b| matches!(b, b' ' | b'"' | b'\'' | b'\\'));
    let name = &name[before(name, is_name_byte).len()..];
    search.work.spend(work::NAME + name.len());
    if !names_a_secret(name) {
        return;
    }
    let mut start = at + 1;
    while text.get(start).is_some_and(|b| matches!(b, b' ' | b'\t')) {
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
    if let Some(scheme) = SCHEMES.iter().find(|scheme| starts_with_ignore_ascii_case(&text[start..], scheme)) {
        start += scheme.len();
        while text.get(start) == Some(&b' ') {
            start += 1;
        }
    }
    let work = &mut search.work;
    let end = match quote {
        Some(quote) => {
            let stretch = if quote == b'"' { &mut ahead.double_quoted } else { &mut ahead.single_quoted };
            let end = stretch.find(text, start, work, |rest| memchr::memchr(quote, rest));
            // In `\"…\"` the closing quote is escaped too, and its backslash ends the value.
            if end > start && text[end - 1] == b'\\' { end - 1 } else { end }
        }
        // One header can hold several cookies, or an unknown scheme before its token.
        None if text[at] == b':' && is_whole_header(name) => ahead.cookies.end(text, start, work, ends_cookies),
        None => ahead.value.end(text, start, work, ends_value),
    };
    if start < end {
        search.add(word, start..end);
    }
}

/// True for headers with an entirely secret value.
fn is_whole_header(name: &[u8]) -> bool {
    [&b"cookie"[..], b"authorization", b"proxy-authorization"].iter().any(|header| name.eq_ignore_ascii_case(header))
}

/// Returns `text` without the trailing bytes that satisfy `such`.
fn before(text: &[u8], such: impl Fn(u8) -> bool) -> &[u8] {
    &text[..text.iter().rposition(|&b| !such(b)).map_or(0, |last| last + 1)]
}

/// Finds the end of `-----BEGIN … PRIVATE KEY-----`, which starts at `at`.
fn private_key(text: &[u8], at: usize, ahead: &mut Stretches, work: &mut SearchBudget) -> Option<usize> {
    let label_end = ahead.private_key.find(text, at, work, |rest| memmem::find(rest, b"PRIVATE KEY"));
    let label = text.get(at + 11..label_end).filter(|_| label_end < text.len())?;
    // At most up to the next block.
    let other_block = memmem::find(label, b"-----");
    work.spend(other_block.unwrap_or(label.len()));
    if other_block.is_some() {
        return None;
    }
    let end = memmem::find(&text[label_end..], b"-----END").map(|end| label_end + end + 5);
    let end = end.and_then(|end| memmem::find(&text[end..], b"-----").map(|close| end + close + 5));
    Some(end.unwrap_or(text.len()))
}

fn known_key(text: &[u8], at: usize, work: &mut SearchBudget) -> Option<usize> {
    let rest = &text[at..];
    let (prefix, more) = KEYS.iter().find(|(prefix, _)| prefix[0] == rest[0] && rest.starts_with(prefix))?;
    // A JWT has three parts, separated by dots.
    let is_dotted = prefix.starts_with(b"eyJ") || prefix.ends_with(b".");
    let length = rest.iter().take_while(|&&b| is_key_byte(b) || is_dotted && b == b'.').count();
    work.spend(length);
    (length >= prefix.len() + more).then_some(at + length)
}

/// Finds `user:SECRET@host.domain` and `domain/user:SECRET@host.domain`, as the whole text.
fn account_at_host(word: Word<'_>, search: &mut SecretSearch) {
    let text = word.bytes;
    let Some(at) = text.iter().rposition(|&b| b == b'@') else { return };
    let host = &text[at + 1..];
    let is_host = !host.is_empty()
        && host.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        && (host.contains(&b'.') || host == b"localhost");
    let Some(colon) = text[..at].iter().position(|&b| b == b':') else { return };
    let is_user = colon > 0
        && text[..colon].iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'\\'));
    let is_secret = colon + 1 < at && !text[colon + 1..at].iter().any(|b| b.is_ascii_whitespace() || *b == b'/');
    if is_host && is_user && is_secret {
        search.add(word, colon + 1..at);
    }
}

/// Calls `take` with the words of each command in a shell's string, until `take` returns false. Words are split at
/// white space outside of quotes, commands at `;`, `|`, `&` and newlines. Quotes around a whole word are left out.
pub(super) fn each_command(string: &[u8], mut take: impl FnMut(&[Range<usize>]) -> bool) {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let unquoted = |range: Range<usize>| match &string[range.clone()] {
        [open @ (b'"' | b'\''), .., close] if open == close => range.start + 1..range.end - 1,
        _ => range,
    };
    for (at, &byte) in string.iter().enumerate() {
        if let Some(open) = quote {
            if byte == open {
                quote = None;
            }
            continue;
        }
        let ends_command = matches!(byte, b';' | b'|' | b'&' | b'\n');
        if byte.is_ascii_whitespace() || ends_command {
            words.extend(start.take().map(|start| unquoted(start..at)));
            if ends_command && !words.is_empty() {
                if !take(&words) {
                    return;
                }
                words.clear();
            }
            continue;
        }
        if matches!(byte, b'"' | b'\'') {
            quote = Some(byte);
        }
        start.get_or_insert(at);
    }
    words.extend(start.map(|start| unquoted(start..string.len())));
    if !words.is_empty() {
        take(&words);
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
