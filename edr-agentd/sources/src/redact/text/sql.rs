//! Passwords in statements: SQL of several databases, Redis' ACL, and calls that log in.

use super::super::name::secret_name;
use super::super::rules::NamePower;
use super::super::search::SecretSearch;
use super::super::word::{Because, Word};
use super::{Stretches, markup};

/// Words at the beginning of a statement.
const VERBS: [&str; 24] = [
    "create", "alter", "set", "grant", "change", "update", "insert", "select", "pragma", "attach", "backup", "restore",
    "open", "start", "replace", "merge", "exec", "execute", "begin", "call", "connect", "copy", "unload", "use",
];
/// Calls whose last argument is a secret.
const LOGINS: [&str; 12] = [
    "auth",
    "login",
    "authenticate",
    "httpbasicauth",
    "httpdigestauth",
    "basicauth",
    "basic_auth",
    "credentials",
    "usernamepasswordcredentials",
    "passwordauthentication",
    "set_credentials",
    "setcredentials",
];
/// Calls whose first argument names the second.
const SETTERS: [&str; 8] = ["putenv", "setenv", "setproperty", "setdefault", "set", "put", "add_header", "setheader"];
/// Bytes between the beginning of `SET PASSWORD` and its `=`.
const HEAD_BYTES_MAX: usize = 256;

const IN_STATEMENT: Because = Because::Structure("password in a statement");

/// True for a text that begins with a verb of SQL that is no command of a shell.
pub(in crate::redact) fn is_statement(text: &[u8]) -> bool {
    const CERTAIN: [&str; 9] = ["create", "alter", "grant", "change", "insert", "select", "update", "pragma", "attach"];
    let length = text.iter().take(8).take_while(|byte| byte.is_ascii_alphabetic()).count();
    text.get(length).is_some_and(u8::is_ascii_whitespace)
        && CERTAIN.iter().any(|verb| text[..length].eq_ignore_ascii_case(verb.as_bytes()))
}

/// Finds a secret behind a keyword that starts at `at`.
pub(super) fn keyword(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>) {
    let rest = &word.bytes[at..];
    let mut words = Words { text: rest, at: 0 };
    if rest.len() < 12 {
        return;
    }
    let is = |known: &str| rest.get(..known.len()).is_some_and(|word| word.eq_ignore_ascii_case(known.as_bytes()));
    if is("identified ") || is("identified\t") || is("identified\n") {
        search.work.spend(32);
        words.word();
        identified(word, at, words, search);
    } else if is("set password") {
        let head = &rest[..rest.len().min(HEAD_BYTES_MAX)];
        search.work.spend(head.len());
        if let Some(equals) = head.iter().position(|byte| matches!(byte, b'=' | b';')).filter(|at| head[*at] == b'=') {
            words.at = equals + 1;
            password(word, at, words, search);
        }
    } else if is("pragma ") {
        words.word();
        let name = words.word();
        if [&b"key"[..], b"rekey", b"hexkey", b"hexrekey", b"textkey"].iter().any(|key| name.eq_ignore_ascii_case(key))
        {
            words.skip(|byte| matches!(byte, b'=' | b'('));
            password(word, at, words, search);
        }
    } else if is("setuser ") && at >= ahead.acl_end {
        let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        search.work.spend(line);
        ahead.acl_end = at + line;
        let mut from = 0;
        for part in rest[..line].split(u8::is_ascii_whitespace) {
            let range = from + 1..from + part.len();
            from += part.len() + 1;
            if search.work.is_spent() {
                return;
            }
            if matches!(part, [b'>' | b'<' | b'#', _, ..]) {
                search.add(word, at + range.start..at + range.end, Because::Structure("password of an ACL"));
            }
        }
    }
}

/// `IDENTIFIED [WITH plugin] BY 'SECRET'`, `VIA plugin USING PASSWORD('SECRET')`.
fn identified(word: Word<'_>, at: usize, mut words: Words<'_>, search: &mut SecretSearch<'_>) {
    let mut next = words.word();
    if next.eq_ignore_ascii_case(b"with") || next.eq_ignore_ascii_case(b"via") {
        words.skip(|byte| matches!(byte, b'\'' | b'"' | b'`'));
        words.word();
        words.skip(|byte| matches!(byte, b'\'' | b'"' | b'`'));
        next = words.word();
    }
    if !["by", "using", "as"].iter().any(|known| next.eq_ignore_ascii_case(known.as_bytes())) {
        return;
    }
    password(word, at, words, search);
    let mut rest = Words { text: words.text, ..words };
    // Oracle: `IDENTIFIED BY new REPLACE old`.
    rest.value();
    if rest.word().eq_ignore_ascii_case(b"replace") {
        password(word, at, rest, search);
    }
}

/// The secret: in quotes, in `PASSWORD('…')`, behind `PASSWORD` or `VALUES`, or a plain word.
fn password(word: Word<'_>, at: usize, mut words: Words<'_>, search: &mut SecretSearch<'_>) {
    let start = words;
    let next = words.word();
    if next.eq_ignore_ascii_case(b"random") {
        return;
    }
    if ["password", "values", "old_password", "value"].iter().any(|known| next.eq_ignore_ascii_case(known.as_bytes())) {
        words.skip(|byte| byte == b'(');
    } else {
        words = start;
    }
    let Some(range) = words.value() else { return };
    search.work.spend(range.len());
    search.add(word, at + range.start..at + range.end, IN_STATEMENT);
}

/// The words of a statement.
#[derive(Debug, Clone, Copy)]
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn skip(&mut self, such: impl Fn(u8) -> bool) {
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_whitespace() || such(*byte)) {
            self.at += 1;
        }
    }

    fn word(&mut self) -> &'a [u8] {
        self.skip(|_| false);
        let rest = &self.text[self.at..];
        let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
        let length = rest.iter().take(64).take_while(is_word).count();
        self.at += length;
        &rest[..length]
    }

    /// The range of a value: inside of quotes, or up to a blank, a comma or the end of the statement.
    fn value(&mut self) -> Option<std::ops::Range<usize>> {
        self.skip(|_| false);
        let mut rest = &self.text[self.at..];
        if let [b'N' | b'E' | b'n' | b'e' | b'B' | b'X', b'\'', ..] = rest {
            self.at += 1;
            rest = &rest[1..];
        }
        let escaped = usize::from(rest.starts_with(b"\\"));
        let quote = rest.get(escaped).copied().filter(|byte| matches!(byte, b'\'' | b'"'));
        if let Some(quote) = quote {
            let start = self.at + escaped + 1;
            let mut end = start;
            while let Some(&byte) = self.text.get(end) {
                match byte {
                    b'\\' if escaped == 0 => end += 1,
                    _ if byte == quote && self.text.get(end + 1) == Some(&quote) && end > start => end += 1,
                    _ if byte == quote => break,
                    _ => {}
                }
                end += 1;
            }
            let end = end.min(self.text.len());
            self.at = (end + 1).min(self.text.len());
            return Some(start..if escaped > 0 && end > start { end - 1 } else { end });
        }
        let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b';' | b',' | b')' | b'"' | b'\'');
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        let start = self.at;
        self.at += length;
        (length > 0).then_some(start..start + length)
    }
}

/// Finds a secret in quotes whose quote is at `at`: `PASSWORD 'SECRET'`, `auth('user', 'SECRET')`,
/// `"--password", "SECRET"`. Returns the end of the secret.
pub(super) fn quoted(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    if ahead.quote != Some(text[at]) && !(at > 0 && text[at - 1] == b'\\') && ahead.quote.is_none() {
        // A closing quote.
        return None;
    }
    let mut before = &text[..at];
    let is_string = |prefix: &[u8]| prefix.len() < 2 || !prefix[prefix.len() - 2].is_ascii_alphanumeric();
    if let [head @ .., b'N' | b'E' | b'n' | b'e' | b'B' | b'X'] = before
        && is_string(before)
    {
        before = head;
    }
    if let [head @ .., b'\\'] = before {
        before = head;
    }
    let end = before.iter().rposition(|byte| !byte.is_ascii_whitespace())? + 1;
    let has_blank = end < before.len();
    before = &before[..end];
    let called = before.ends_with(b"(");
    if called {
        before = &before[..before.len() - 1];
        before = &before[..before.iter().rposition(|byte| !byte.is_ascii_whitespace())? + 1];
    }
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let length = before.iter().rev().take(64).take_while(is_name).count();
    if length == 0 || !(called || has_blank) {
        return option_in_list(word, at, ahead, search);
    }
    let name = &before[before.len() - length..];
    search.work.spend(length);
    let is_one_of = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if called && is_one_of(&LOGINS) {
        let work = &mut search.work;
        let close = ahead.parenthesis.find(text, at, work, |rest| memchr::memchr(b')', rest));
        let last = markup::strings(text, at..close).pop()?;
        search.add(word, last, Because::Structure("call that logs in"));
        return Some(close);
    }
    if called && is_one_of(&SETTERS) {
        return option_in_list(word, at, ahead, search);
    }
    let is_key = name.eq_ignore_ascii_case(b"key");
    let is_secret = is_key || secret_name(name, search.rules).is_some_and(|name| name.power == NamePower::Strong);
    if !is_secret || !is_sql(text, ahead, search) {
        return None;
    }
    let mut words = Words { text, at };
    let range = words.value()?;
    search.work.spend(range.len());
    let end = range.end;
    search.add(word, range, IN_STATEMENT);
    Some(end)
}

/// `"--password", "SECRET"` in a list, `("PASSWORD", "SECRET")` of a call.
fn option_in_list(word: Word<'_>, at: usize, ahead: &mut Stretches, search: &mut SecretSearch<'_>) -> Option<usize> {
    let text = word.bytes;
    let rest = text.get(at + 1..)?;
    let is_call = at > 0 && text[at - 1] == b'(';
    if rest.first() != Some(&b'-') && !is_call {
        return None;
    }
    let quote = text[at];
    let length = rest.iter().take(96).position(|byte| *byte == quote || *byte == b'\\')?;
    let secret = secret_name(&rest[..length], search.rules)?;
    let mut next = at + 1 + length;
    while text.get(next).is_some_and(|byte| matches!(byte, b'\\' | b'"' | b'\'' | b',') || byte.is_ascii_whitespace()) {
        if matches!(text[next], b'"' | b'\'') && next > at + 2 + length {
            break;
        }
        next += 1;
    }
    if !text.get(at + 1 + length..next).unwrap_or_default().contains(&b',') || text.get(next) != Some(&quote) {
        return None;
    }
    let end = ahead.closing(text, next + 1, quote, &mut search.work);
    let end = if end > next + 1 && text[end - 1] == b'\\' { end - 1 } else { end };
    search.add_named(word, next + 1..end, secret);
    Some(end)
}

/// True when the text has a statement: a verb at the beginning of the text, of a string or of an option's value.
fn is_sql(text: &[u8], ahead: &mut Stretches, search: &mut SecretSearch<'_>) -> bool {
    if let Some(known) = ahead.is_sql {
        return known;
    }
    search.work.spend(text.len());
    let starts = |at: usize| {
        at == 0
            || at == 2 && text[0] == b'-'
            || matches!(text[at - 1], b';' | b'"' | b'\'' | b'=' | b'(' | b'\n')
            || at > 1 && text[at - 1] == b' ' && matches!(text[at - 2], b';' | b'"' | b'\'')
    };
    let has_verb = |at: usize| {
        let rest = &text[at..];
        let length = rest.iter().take(9).take_while(|byte| byte.is_ascii_alphabetic()).count();
        rest.get(length).is_some_and(u8::is_ascii_whitespace)
            && VERBS.iter().any(|verb| rest[..length].eq_ignore_ascii_case(verb.as_bytes()))
    };
    let found = (0..text.len()).any(|at| text[at].is_ascii_alphabetic() && starts(at) && has_verb(at));
    ahead.is_sql = Some(found);
    found
}
