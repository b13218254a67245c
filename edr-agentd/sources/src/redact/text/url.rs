//! Logins in addresses: `scheme://user:SECRET@host`, `user:SECRET@host`, `user/SECRET@database`.

use std::ops::Range;

use memchr::memchr;

use super::super::search::SecretSearch;
use super::super::word::{Because, Word};
use super::Stretches;

/// Length of a user part without a colon from which on the part is a token.
const TOKEN_BYTES_MIN: usize = 20;
/// The same for a part with digits.
const TOKEN_WITH_DIGITS_MIN: usize = 16;

const IN_ADDRESS: Because = Because::Structure("login in an address");

fn ends_authority(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>')
}

/// Finds `scheme://user:SECRET@host` and `scheme://SECRET@host`. `start` is the place behind `://`. The secret ends at
/// the last `@` before the host, whatever else it holds.
pub(super) fn user_info(
    word: Word<'_>,
    start: usize,
    ahead: &mut Stretches,
    search: &mut SecretSearch<'_>,
) -> Option<usize> {
    let text = word.bytes;
    let rest = &text[start..];
    let authority = rest.iter().position(ends_authority).unwrap_or(rest.len());
    search.work.spend(authority);
    let user = rest[..authority].iter().position(|byte| matches!(byte, b':' | b'@')).unwrap_or(authority);
    let separator = rest.get(user).filter(|_| user < authority);
    match separator {
        Some(b'@') => {
            let is_token =
                user >= TOKEN_BYTES_MIN || user >= TOKEN_WITH_DIGITS_MIN && rest[..user].iter().any(u8::is_ascii_digit);
            if is_token && !is_login_scheme(&text[..start]) {
                search.add(word, start..start + user, Because::Structure("token in an address"));
            }
            return Some(start + user);
        }
        Some(_) => {}
        None => return None,
    }
    let secret = start + user + 1;
    let in_authority = rest[..authority].iter().rposition(|byte| *byte == b'@');
    let mut end = match in_authority {
        Some(at) => start + at,
        None => {
            // `host:8080/path`: a port.
            let digits = text[secret..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let after = text.get(secret + digits);
            if (1..=5).contains(&digits)
                && after.is_none_or(|byte| !(byte.is_ascii_alphanumeric() || b"_-.!%+~".contains(byte)))
            {
                return None;
            }
            let work = &mut search.work;
            let at = ahead.at_sign.find(text, secret, work, |rest| memchr(b'@', rest));
            // Inside of quotes the address ends with the quotes; a blank is part of a secret in an argument.
            if at >= text.len() || !is_host(&text[at + 1..]) || is_of_other_text(&text[secret..at], ahead.quote) {
                return None;
            }
            if text[secret..at].iter().any(u8::is_ascii_whitespace) && !begins_a_value(&text[..start - 3]) {
                return None;
            }
            at
        }
    };
    // `p@ss/word@host.example`: the first `@` is no end when a better host follows.
    while !has_domain(&text[end + 1..]) {
        let next = ahead.at_sign.find(text, end + 1, &mut search.work, |rest| memchr(b'@', rest));
        let between = text.get(end + 1..next).unwrap_or_default();
        search.work.spend(between.len().min(256));
        let is_other =
            |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'?' | b'&' | b'=' | b'"' | b'\'' | b',');
        if next >= text.len() || between.len() > 256 || between.iter().any(is_other) || between.ends_with(b"/") {
            break;
        }
        if !has_domain(&text[next + 1..]) {
            break;
        }
        end = next;
    }
    search.add(word, secret..end, IN_ADDRESS);
    Some(end)
}

/// True when the scheme at the end of `before` is the beginning of an argument or of a value.
fn begins_a_value(before: &[u8]) -> bool {
    let scheme = before.iter().rev().take(32).take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = &before[..before.len() - scheme.count()];
    matches!(rest, [] | [.., b'=' | b'"' | b'\''])
}

/// Schemes where a long name before the `@` is the name of a user.
fn is_login_scheme(before: &[u8]) -> bool {
    [&b"ssh://"[..], b"sftp://", b"rsync://", b"scp://", b"mailto://", b"sip://"]
        .iter()
        .any(|end| before.ends_with(end))
}

/// True when bytes between a colon and an `@` belong to another text than the address.
fn is_of_other_text(between: &[u8], quote: Option<u8>) -> bool {
    quote.is_some_and(|quote| between.contains(&quote))
        || between.contains(&b'\n')
        || between.windows(3).any(|w| w == b"://")
}

fn host_length(text: &[u8]) -> usize {
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') || *byte >= 0x80;
    match text.first() {
        Some(b'[') => text.iter().take(64).position(|byte| *byte == b']').map_or(0, |end| end + 1),
        _ => text.iter().take(255).take_while(|byte| is_host(byte)).count(),
    }
}

fn is_host(text: &[u8]) -> bool {
    let length = host_length(text);
    let ends = |byte: &u8| {
        byte.is_ascii_whitespace()
            || matches!(byte, b':' | b'/' | b'?' | b'#' | b'"' | b'\'' | b',' | b')' | b';' | b'&' | b'\\' | b'<')
    };
    length > 0 && text.get(length).is_none_or(ends)
}

/// True for a host with a domain, an address, a port, or the local host.
fn has_domain(text: &[u8]) -> bool {
    let length = host_length(text);
    let host = &text[..length];
    host.contains(&b'.') || host == b"localhost" || host.starts_with(b"[") || text.get(length) == Some(&b':')
}

/// Words before a colon that are a kind of address, not a user.
const KINDS: [&str; 42] = [
    "mailto",
    "sip",
    "sips",
    "acct",
    "from",
    "to",
    "cc",
    "bcc",
    "xmpp",
    "tel",
    "im",
    "jabber",
    "npm",
    "workspace",
    "file",
    "link",
    "portal",
    "patch",
    "git",
    "github",
    "gitlab",
    "bitbucket",
    "pkg",
    "docker",
    "oci",
    "user",
    "email",
    "mail",
    "author",
    "skype",
    "callto",
    "h323",
    "iax2",
    "stun",
    "news",
    "nntp",
    "did",
    "go",
    "pypi",
    "crate",
    "reply-to",
    "subject",
];
/// Names of digests in the place of a host.
const DIGESTS: [&str; 5] = ["sha256", "sha512", "sha1", "md5", "sha384"];
/// Ends in the place of a host: coordinates of packages.
const VERSIONS: [&str; 11] = ["latest", "next", "jar", "aar", "pom", "war", "zip", "canary", "beta", "alpha", "head"];

/// Finds `user:SECRET@host` without a scheme, as the whole text, or behind `name=`.
pub(super) fn account_at_host(word: Word<'_>, search: &mut SecretSearch<'_>) {
    let text = word.bytes;
    if !text.contains(&b'@') {
        return;
    }
    search.work.spend(text.len());
    let is_break = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
    let mut from = 0;
    for part in text.split(is_break) {
        let range = from..from + part.len();
        from = range.end + 1;
        if search.work.is_spent() {
            return;
        }
        if part.contains(&b'@') && part.contains(&b':') {
            account(word, range, search);
        }
    }
}

fn account(word: Word<'_>, range: Range<usize>, search: &mut SecretSearch<'_>) {
    let part = &word.bytes[range.clone()];
    search.work.spend(2 * part.len());
    // `--option=`, `NAME=`, and `:pserver:` of cvs.
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let mut start = match part.iter().position(|byte| !is_name(byte)) {
        Some(equals) if part[equals] == b'=' => equals + 1,
        _ => 0,
    };
    if part[start..].starts_with(b":")
        && let Some(colon) = part[start + 1..].iter().position(|byte| *byte == b':')
        && part[start + 1..start + 1 + colon].iter().all(u8::is_ascii_alphabetic)
    {
        start += colon + 2;
    }
    let text = &part[start..];
    let Some(colon) = text.iter().position(|byte| *byte == b':') else { return };
    let user = &text[..colon];
    let is_user = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/' | b'\\' | b'+' | b'%' | b'$')
    };
    if user.is_empty()
        || !user.iter().all(is_user)
        || is_one_of(&KINDS, user)
        || !user.iter().any(u8::is_ascii_alphabetic)
    {
        return;
    }
    let Some(at) = last_at(&text[colon + 1..]) else { return };
    let (secret, host) = (&text[colon + 1..colon + 1 + at], &text[colon + 2 + at..]);
    let strong = is_network(host);
    let length = host_length(host);
    let name = &host[..length];
    if secret.is_empty() || secret.starts_with(b"/") || secret.contains(&b'/') && !strong {
        return;
    }
    if !strong && (is_one_of(&DIGESTS, name) || is_one_of(&VERSIONS, name) || is_version(name)) {
        return;
    }
    let has_dots = user.contains(&b'.') && secret.iter().all(u8::is_ascii_digit);
    // `DOMAIN/user:SECRET@host` is a login, `registry/image:tag@…` is none.
    let is_image = user.contains(&b'/')
        && !strong
        && (user.iter().filter(|byte| **byte == b'/').count() > 1 || is_version(secret));
    if has_dots || is_image {
        return;
    }
    let begin = range.start + start + colon + 1;
    search.add(word, begin..begin + at, Because::Structure("user:SECRET@host"));
}

/// The last `@` before something that can be a host.
fn last_at(text: &[u8]) -> Option<usize> {
    let fits = |at: &usize| {
        let host = &text[at + 1..];
        let length = host_length(host);
        let after = &host[length..];
        let port = || {
            after.strip_prefix(b":").is_some_and(|port| port.first().is_some_and(|b| b.is_ascii_digit() || *b == b'/'))
        };
        is_network(host) || length > 0 && (after.is_empty() || matches!(after[0], b'/' | b'?' | b',')) || port()
    };
    let mut candidates = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'@').map(|(at, _)| at).take(8);
    candidates.find(fits)
}

/// True for `tcp(host:port)`, `unix(/path)`, `(host)` of Go's MySQL driver.
fn is_network(host: &[u8]) -> bool {
    let name = host.iter().take(16).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    host.get(name) == Some(&b'(') && host[name..].contains(&b')')
}

fn is_version(name: &[u8]) -> bool {
    let number = name.strip_prefix(b"v").or(name.strip_prefix(b"^")).unwrap_or(name);
    let parts = number.split(|byte| *byte == b'.').count();
    number.first().is_some_and(u8::is_ascii_digit)
        && !(parts == 4 && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'))
        && number.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-') || byte.is_ascii_lowercase())
        && (parts < 4 && number.iter().filter(|byte| byte.is_ascii_alphabetic()).count() < 8)
        && number.iter().filter(|byte| byte.is_ascii_digit()).count() > 0
        && !number.iter().any(u8::is_ascii_uppercase)
}

fn is_one_of(known: &[&str], word: &[u8]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

/// The secret in an operand of Oracle's programs: `user/SECRET`, `user/SECRET@database`, `userid=user/SECRET`.
pub(in crate::redact) fn login(operand: &[u8]) -> Option<Range<usize>> {
    let begin = match operand.iter().position(|byte| *byte == b'=') {
        Some(equals) if operand[..equals].iter().all(u8::is_ascii_alphabetic) => {
            let name = &operand[..equals];
            let is_login = ["userid", "target", "catalog", "auxiliary", "connect", "rcvcat"];
            is_one_of(&is_login, name).then_some(equals + 1)?
        }
        _ => 0,
    };
    login_in(&operand[begin..]).map(|range| begin + range.start..begin + range.end)
}

/// `user/SECRET@database`; the secret may be in double quotes.
fn login_in(text: &[u8]) -> Option<Range<usize>> {
    let slash = text.iter().position(|byte| *byte == b'/')?;
    let user = &text[..slash];
    let is_user =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'#' | b'[' | b']' | b'"' | b'-');
    if user.is_empty() || !user.iter().all(is_user) {
        return None;
    }
    let rest = &text[slash + 1..];
    let end = match rest.first() {
        Some(b'"') => rest[1..].iter().position(|byte| *byte == b'"').map_or(rest.len(), |end| end + 2),
        // The database has no `@`, but a secret may.
        _ => rest.iter().rposition(|byte| *byte == b'@').unwrap_or(rest.len()),
    };
    (end > 0).then_some(slash + 1..slash + 1 + end)
}

/// Finds `jdbc:oracle:thin:user/SECRET@…` with the end of the name at `at`, and `user/SECRET@//host`.
pub(super) fn oracle(word: Word<'_>, start: usize, search: &mut SecretSearch<'_>) -> Option<usize> {
    let rest = &word.bytes[start..];
    let end =
        rest.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'\'' | b';')).unwrap_or(rest.len());
    search.work.spend(end);
    let range = login_in(&rest[..end]).filter(|range| rest.get(range.end) == Some(&b'@'))?;
    search.add(word, start + range.start..start + range.end, Because::Structure("login of Oracle"));
    Some(start + range.end)
}
