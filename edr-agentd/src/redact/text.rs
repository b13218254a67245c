//! Secrets inside a text, whatever program it is for.

use std::ops::Range;

use super::name::names_a_secret;

/// Keys known by their form: beginning, and how many more bytes of `A-Za-z0-9_-` it needs at least.
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
/// Addresses whose last part is the secret.
const HOOKS: [&[u8]; 4] =
    [b"hooks.slack.com/services/", b"discord.com/api/webhooks/", b"api.telegram.org/bot", b"webhook.office.com/"];
/// Words before the secret in `Authorization: Bearer …`.
const SCHEMES: [&[u8]; 6] = [b"bearer ", b"basic ", b"token ", b"digest ", b"apikey ", b"negotiate "];

/// Calls `add` with each place of a secret.
pub(super) fn secrets(text: &[u8], add: &mut impl FnMut(Range<usize>)) {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b':' if text[at..].starts_with(b"://") => user_info(text, at + 3, add),
            b'=' | b':' => named(text, at, add),
            b'-' if text[at..].starts_with(b"-----BEGIN ") => {
                if let Some(end) = private_key(text, at) {
                    add(at..end);
                    at = end;
                    continue;
                }
            }
            _ => {}
        }
        let is_start = at == 0 || !is_key_byte(text[at - 1]);
        if let Some(end) = known_key(text, at).filter(|_| is_start) {
            add(at..end);
            at = end;
            continue;
        }
        for hook in HOOKS {
            if text[at..].starts_with(hook) {
                let start = at + hook.len();
                add(start..until(text, start, |b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'')));
            }
        }
        at += 1;
    }
    account_at_host(text, add);
}

/// `scheme://user:SECRET@host`, `scheme://SECRET@host`.
fn user_info(text: &[u8], start: usize, add: &mut impl FnMut(Range<usize>)) {
    let end =
        until(text, start, |b| b.is_ascii_whitespace() || matches!(b, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>'));
    let Some(at) = text[start..end].iter().rposition(|&b| b == b'@') else { return };
    let user_info = &text[start..start + at];
    match user_info.iter().position(|&b| b == b':') {
        Some(colon) => add(start + colon + 1..start + at),
        // A name has no 16 bytes with digits in it; a token has.
        None if user_info.len() >= 16 && user_info.iter().any(u8::is_ascii_digit) => add(start..start + at),
        None => {}
    }
}

/// `name=SECRET`, `"name": "SECRET"`, `Name: scheme SECRET`, with the separator at `at`.
fn named(text: &[u8], at: usize, add: &mut impl FnMut(Range<usize>)) {
    let mut name_end = at;
    while name_end > 0 && matches!(text[name_end - 1], b' ' | b'"' | b'\'' | b'\\') {
        name_end -= 1;
    }
    let name_start = text[..name_end].iter().rposition(|&b| !is_name_byte(b)).map_or(0, |before| before + 1);
    let name = &text[name_start..name_end];
    if !names_a_secret(name) || text[at..].starts_with(b"://") {
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
    let lower = |length: usize| text[start..text.len().min(start + length)].to_ascii_lowercase();
    if let Some(scheme) = SCHEMES.iter().find(|scheme| lower(scheme.len()) == **scheme) {
        start += scheme.len();
    }
    let end = match quote {
        Some(quote) => quoted_end(text, start, quote),
        // Several cookies stand in one header.
        None if text[at] == b':' && name.eq_ignore_ascii_case(b"cookie") => {
            until(text, start, |b| matches!(b, b'\n' | b'\r' | b'"' | b'\''))
        }
        None => until(text, start, |b| {
            b.is_ascii_whitespace() || matches!(b, b'&' | b';' | b',' | b'"' | b'\'' | b'}' | b')')
        }),
    };
    if start < end {
        add(start..end);
    }
}

fn quoted_end(text: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start;
    while at < text.len() && text[at] != quote {
        // In `\"…\"` the quote itself is escaped, and ends it.
        at += if text[at] == b'\\' && text.get(at + 1) != Some(&quote) { 2 } else { 1 };
    }
    let at = at.min(text.len());
    if at > start && text[at - 1] == b'\\' { at - 1 } else { at }
}

/// `-----BEGIN … PRIVATE KEY-----` to its end.
fn private_key(text: &[u8], at: usize) -> Option<usize> {
    let label_end = at + find(&text[at..], b"PRIVATE KEY")?;
    if find(&text[at + 11..label_end], b"-----").is_some() {
        return None; // of another block
    }
    let end = find(&text[label_end..], b"-----END").map(|end| label_end + end);
    Some(end.map_or(text.len(), |end| {
        let close = find(&text[end + 5..], b"-----").map_or(text.len(), |close| end + 5 + close + 5);
        close.min(text.len())
    }))
}

fn known_key(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let (prefix, more) = KEYS.iter().find(|(prefix, _)| rest.starts_with(prefix))?;
    // A JWT has three parts.
    let is_dotted = prefix.starts_with(b"eyJ") || prefix.ends_with(b".");
    let length = rest.iter().take_while(|&&b| is_key_byte(b) || is_dotted && b == b'.').count();
    (length >= prefix.len() + more).then_some(at + length)
}

/// `user:SECRET@host.domain`, `domain/user:SECRET@host.domain`, `user/SECRET@database`, as the whole text.
fn account_at_host(text: &[u8], add: &mut impl FnMut(Range<usize>)) {
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
        add(colon + 1..at);
    }
}

/// The words of each command of a shell's string: split at white space outside of quotes, commands at `;`, `|`, `&` and
/// newlines. Quotes around a whole word are left out.
pub(super) fn commands(string: &[u8]) -> Vec<Vec<Range<usize>>> {
    let mut commands = vec![Vec::new()];
    let mut start = None;
    let mut quote = None;
    let push = |commands: &mut Vec<Vec<Range<usize>>>, range: Range<usize>| {
        let word = &string[range.clone()];
        let is_quoted = word.len() >= 2 && matches!(word[0], b'"' | b'\'') && word.last() == Some(&word[0]);
        let range = if is_quoted { range.start + 1..range.end - 1 } else { range };
        if let Some(command) = commands.last_mut() {
            command.push(range);
        }
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
            if let Some(start) = start.take() {
                push(&mut commands, start..at);
            }
            if ends_command {
                commands.push(Vec::new());
            }
            continue;
        }
        if matches!(byte, b'"' | b'\'') {
            quote = Some(byte);
        }
        start.get_or_insert(at);
    }
    if let Some(start) = start {
        push(&mut commands, start..string.len());
    }
    commands.retain(|command| !command.is_empty());
    commands
}

fn until(text: &[u8], start: usize, is_end: impl Fn(u8) -> bool) -> usize {
    let start = start.min(text.len());
    text[start..].iter().position(|&b| is_end(b)).map_or(text.len(), |length| start + length)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
