//! Secrets that a shell's string or a script gives to the standard input of a program.

use super::places::is_in_cluster;
use super::rules::RuleId;
use super::search::SecretSearch;
use super::word::{Because, Word};

/// Words of a command that are searched for a program that reads a secret.
const WORDS_MAX: usize = 16;

/// The rule when a command reads a secret from its standard input: `sudo -S`, `docker login --password-stdin`.
pub(super) fn reads_secret(words: &[Word<'_>], search: &SecretSearch<'_>) -> Option<RuleId> {
    let words = &words[..words.len().min(WORDS_MAX)];
    let rules = search.rules;
    let of = |stdin: &[(Vec<Vec<u8>>, RuleId)]| {
        let has = |wanted: &Vec<u8>| {
            words.iter().any(|word| {
                // `-S` in `-nS`, `password_stdin` in a list.
                word.bytes.starts_with(wanted)
                    || is_in_cluster(word.bytes, wanted)
                    || wanted.contains(&b'_') && memchr::memmem::find(word.bytes, wanted).is_some()
            })
        };
        stdin.iter().find(|(wanted, _)| wanted.iter().all(has)).map(|(_, rule)| *rule)
    };
    if words.iter().any(|word| word.bytes.starts_with(b"--"))
        && let Some(rule) = rules.any_program().and_then(|any| of(&any.stdin))
    {
        return Some(rule);
    }
    words.iter().filter(|word| !word.bytes.starts_with(b"-")).find_map(|word| {
        let known = rules.program(word.bytes);
        known.programs(rules).find_map(|program| of(&program.stdin))
    })
}

/// The words that `echo` or `printf` prints.
pub(super) fn printed<'w, 'a>(words: &'w [Word<'a>]) -> Option<&'w [Word<'a>]> {
    let (program, rest) = words.split_first()?;
    let name = program.bytes.rsplit(|byte| *byte == b'/').next()?;
    let flags = rest.iter().take_while(|word| matches!(word.bytes, b"-n" | b"-e" | b"-E" | b"-ne" | b"-en" | b"--"));
    let rest = &rest[flags.count()..];
    match name {
        b"echo" => Some(rest),
        // The format is shown when words follow.
        b"printf" if rest.len() > 1 => Some(&rest[1..]),
        b"printf" => Some(rest),
        _ => None,
    }
}

/// Adds the input of a program. `user:secret` is how chpasswd(8) and newusers(8) take it.
pub(super) fn input(word: Word<'_>, rule: RuleId, search: &mut SecretSearch<'_>) {
    let bytes = word.bytes;
    let because = Because::Rule(rule);
    if search.rules.text(rule).0.contains(" chpasswd")
        && let Some(colon) = bytes.iter().position(|byte| *byte == b':')
    {
        return search.add(word, colon + 1..bytes.len(), because);
    }
    search.add(word, 0..bytes.len(), because);
}

/// A script for expect(1): the text sent after a prompt for a password is a secret.
pub(super) fn expect(word: Word<'_>, search: &mut SecretSearch<'_>) {
    const ASKED: [&[u8]; 8] =
        [b"assword", b"assphrase", b"asscode", b"oken", b"erification", b"PIN", b"ecret", b"asswd"];
    search.work.spend(2 * word.bytes.len());
    let mut asked = false;
    let mut sends = false;
    for (start, end) in tokens(word.bytes) {
        let token = &word.bytes[start..end];
        if sends && !matches!(token, b"--" | b"-h" | b"-s" | b"-raw") {
            sends = false;
            if asked {
                search.add(word, start..end - ending(token), Because::Structure("expect: text sent for a password"));
                asked = false;
            }
        } else if matches!(token, b"send" | b"exp_send" | b"send_user") {
            sends = token != b"send_user";
        } else if ASKED.iter().any(|asked| token.windows(asked.len()).any(|part| part == *asked)) {
            asked = true;
        }
    }
}

/// Bytes of `\r`, `\n` at the end of a text.
fn ending(token: &[u8]) -> usize {
    let mut bytes = 0;
    while token.len() > bytes + 2 && matches!(&token[..token.len() - bytes], [.., b'\\', b'r' | b'n']) {
        bytes += 2;
    }
    bytes
}

/// The words of a Tcl script, without braces and quotes.
fn tokens(script: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < script.len() {
        match script[at] {
            b'"' => {
                let mut end = at + 1;
                while end < script.len() && script[end] != b'"' {
                    end += 1 + usize::from(script[end] == b'\\');
                }
                let end = end.min(script.len());
                found.push((at + 1, end));
                at = end + 1;
            }
            byte if byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b'[' | b']' | b';') => at += 1,
            _ => {
                let rest = &script[at..];
                let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b'[' | b']' | b';');
                let end = at + rest.iter().position(ends).unwrap_or(rest.len());
                found.push((at, end));
                at = end;
            }
        }
    }
    found
}
