//! Secrets in command lines, replaced on the host.
//!
//! Promises: argument boundaries stay, and every byte that is no secret stays; the same secret gives the same token
//! under the same key, so that equal secrets on many hosts can be seen to be equal, and nothing else of them.
//!
//! Pure: bytes in, bytes out. It errs on the side of replacing, and it is no proof: a secret in a form that nobody
//! thought of passes. The forms it knows are the tests of this module.
//!
//! - [`name`]: whether a name (`--db-password`, `AWS_SECRET_ACCESS_KEY`) names a secret.
//! - [`program`]: options that carry a secret only for some programs (`mysql -pX`, `curl -u user:X`).
//! - [`text`]: secrets inside a text: URLs, headers, JSON, connection strings, keys known by their form.
//! - this file: from words to arguments.

mod name;
mod program;
mod text;

use std::ops::Range;

use edr_wire::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use self::name::names_a_secret;
use self::program::{Program, SecretOption};

/// What a secret becomes: `‹redacted:0123456789abcdef›`.
const TOKEN_START: &str = "‹redacted:";
const TOKEN_END: &str = "›";

/// Command lines in a string (`sh -c`, `ssh host '…'`) are looked into; those in strings inside them once more.
const DEPTH_MAX: usize = 2;

/// Replaces secrets by keyed tokens.
#[derive(Clone)]
pub struct Redactor {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Tokens of this key. With one key for a fleet, the same secret has the same token on all its hosts. Whoever has
    /// the key can try guesses against a token, so it is a secret too.
    pub fn new(key: &[u8]) -> Self {
        let mac =
            Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
        Self { mac }
    }

    /// Tokens of a key that nobody knows: they are comparable until the agent starts again. `None` when the kernel has
    /// no random numbers.
    pub fn with_random_key() -> Option<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok()?;
        Some(Self::new(&key))
    }

    /// Replaces every secret in a command line.
    pub fn redact(&self, argv: &mut [Bytes]) {
        let words: Vec<&[u8]> = argv.iter().map(|argument| argument.0.as_slice()).collect();
        let mut found = Vec::new();
        secrets(&words, 0, &mut found);
        if found.is_empty() {
            return;
        }
        found.sort_unstable_by_key(|secret| (secret.word, secret.range.start));
        // Where two rules found parts of the same, both parts are one secret.
        found.dedup_by(|later, earlier| {
            let overlap = later.word == earlier.word && later.range.start < earlier.range.end;
            if overlap {
                earlier.range.end = earlier.range.end.max(later.range.end);
            }
            overlap
        });
        let mut redacted: Vec<Option<Vec<u8>>> = vec![None; argv.len()];
        let mut copied = vec![0; argv.len()];
        for Secret { word, range } in found {
            let bytes = &argv[word].0;
            let out = redacted[word].get_or_insert_default();
            out.extend_from_slice(&bytes[copied[word]..range.start]);
            out.extend_from_slice(self.token(&bytes[range.clone()]).as_bytes());
            copied[word] = range.end;
        }
        for ((argument, redacted), copied) in argv.iter_mut().zip(redacted).zip(copied) {
            if let Some(mut redacted) = redacted {
                redacted.extend_from_slice(&argument.0[copied..]);
                argument.0 = redacted;
            }
        }
    }

    fn token(&self, secret: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(secret);
        let mac = mac.finalize().into_bytes();
        let digits: String = mac.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{TOKEN_START}{digits}{TOKEN_END}")
    }
}

/// Where a secret is: which word, and which bytes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Secret {
    word: usize,
    range: Range<usize>,
}

/// Finds the secrets in a command line.
fn secrets(words: &[&[u8]], depth: usize, found: &mut Vec<Secret>) {
    let mut program = Program::default();
    let mut carried = None;
    for (index, &word) in words.iter().enumerate() {
        let mut add = |range: Range<usize>| {
            if !is_harmless(&word[range.clone()]) {
                found.push(Secret { word: index, range });
            }
        };
        match carried.take() {
            Some(Carried::All) if !looks_like_option(word) => {
                add(0..word.len());
                continue;
            }
            Some(Carried::After(separator)) if !looks_like_option(word) => {
                if let Some(at) = word.iter().position(|&b| b == separator) {
                    add(at + 1..word.len());
                }
                continue;
            }
            _ => {}
        }
        if let Some(named) = Program::named(word) {
            program = named;
        } else if let Some(option) = program.option(word) {
            match option {
                SecretOption::Here { start, after: None } => add(start..word.len()),
                SecretOption::Here { start, after: Some(separator) } => {
                    if let Some(at) = word[start..].iter().position(|&b| b == separator) {
                        add(start + at + 1..word.len());
                    }
                }
                SecretOption::Next { after: None } => carried = Some(Carried::All),
                SecretOption::Next { after: Some(separator) } => carried = Some(Carried::After(separator)),
                SecretOption::NotSecret => {}
            }
            continue;
        } else if program.last_is_secret(words, index) {
            add(0..word.len());
            continue;
        }
        match named_value(word) {
            NamedValue::Here(range) => {
                add(range);
                continue;
            }
            NamedValue::Next => {
                carried = Some(Carried::All);
                continue;
            }
            NamedValue::None => {}
        }
        text::secrets(word, &mut add);
        if depth < DEPTH_MAX && word.iter().any(u8::is_ascii_whitespace) {
            inner_command_lines(word, index, depth, found);
        }
    }
}

/// What of the next word is a secret: all, or what comes after the user's name and this separator.
#[derive(Debug)]
enum Carried {
    All,
    After(u8),
}

/// The value of a word that names its secret itself.
enum NamedValue {
    Here(Range<usize>),
    Next,
    None,
}

/// `--name=value`, `name=value`, `/name:value`, `--name` with the value in the next word, `some_name` likewise.
fn named_value(word: &[u8]) -> NamedValue {
    let name_end = word.iter().position(|&b| matches!(b, b'=' | b':')).unwrap_or(word.len());
    let name = &word[..name_end];
    let may_be_name = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.strip_prefix(b"/").unwrap_or(name).iter().all(may_be_name) || !names_a_secret(name) {
        return NamedValue::None;
    }
    match word.get(name_end) {
        Some(b'=') => NamedValue::Here(name_end + 1..word.len()),
        Some(_) if word.starts_with(b"/") => NamedValue::Here(name_end + 1..word.len()),
        // `Authorization: Bearer …`, `https://…`: the text knows more.
        Some(_) => NamedValue::None,
        // A bare word may be anything (`man passwd`); one like a variable or a setting is none by chance.
        None if name.starts_with(b"-") || name.iter().any(|b| matches!(b, b'_' | b'.')) => NamedValue::Next,
        None => NamedValue::None,
    }
}

/// A string that is a command line itself: its words are looked at like arguments.
fn inner_command_lines(string: &[u8], word: usize, depth: usize, found: &mut Vec<Secret>) {
    for command in text::commands(string) {
        let words: Vec<&[u8]> = command.iter().map(|range| &string[range.clone()]).collect();
        let mut inner = Vec::new();
        secrets(&words, depth + 1, &mut inner);
        found.extend(inner.into_iter().map(|secret| {
            let start = command[secret.word].start;
            Secret { word, range: start + secret.range.start..start + secret.range.end }
        }));
    }
}

/// `-x` or `--long-name`: then the option before had no value. A password may start with a dash, too.
fn looks_like_option(word: &[u8]) -> bool {
    match word {
        [b'-', b'-', name @ ..] => {
            let name = name.split(|&b| b == b'=').next().unwrap_or_default();
            !name.is_empty() && name.iter().all(|&b| b.is_ascii_lowercase() || b == b'-')
        }
        [b'-', letter] => letter.is_ascii_alphabetic(),
        _ => false,
    }
}

/// A value that is no secret whatever its name: a switch, a reference to where the secret is, a token of ours.
fn is_harmless(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    matches!(
        lower.as_slice(),
        b"" | b"true" | b"false" | b"yes" | b"no" | b"on" | b"off" | b"none" | b"null" | b"prompt" | b"ask" | b"-"
    ) || value.starts_with(b"$")
        || value.starts_with(b"@")
        || [b"file:".as_slice(), b"env:", b"fd:", b"stdin", b"prompt:"].iter().any(|prefix| lower.starts_with(prefix))
        || value.starts_with(TOKEN_START.as_bytes())
}

#[cfg(test)]
mod tests;
