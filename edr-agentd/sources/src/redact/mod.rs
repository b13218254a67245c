//! Redaction: replaces secrets in command lines before the snapshot leaves the host.
//!
//! Promises: argument boundaries stay, and every byte outside a secret stays. Under one key the same secret always
//! gives the same token, so that equal secrets on several hosts are recognizable as equal. The token reveals nothing
//! else of the secret.
//!
//! Pure: bytes in, bytes out. In doubt the search replaces. The search cannot find every secret: a secret in an unknown
//! form passes. The tests of this module list the known forms. The work is linear in the length of the command line and
//! has a budget; arguments beyond the budget are replaced whole without a search.
//!
//! - [`name`]: decides if a name (`--db-password`, `AWS_SECRET_ACCESS_KEY`) names a secret.
//! - [`program`]: options with a secret only for some programs (`mysql -pX`, `curl -u user:X`).
//! - [`text`]: secrets inside a text: URLs, headers, JSON, connection strings, keys of a known form.
//! - [`work`]: the budget of the search.
//! - this file: the search over words and arguments.

mod name;
mod program;
mod text;
mod work;

use std::ops::Range;

use edr_wire::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use self::name::names_a_secret;
use self::program::{ProgramOptions, SecretOption};
use self::work::SearchBudget;

/// Start and end of a token: `‹redacted:0123456789abcdef›`.
const TOKEN_START: &str = "‹redacted:";
const TOKEN_END: &str = "›";
/// Replacement of an unsearched argument.
const UNSEEN: &str = "‹redacted›";

/// Nesting depth of searched command lines: a string (`sh -c`, `ssh host '…'`), and a string inside that string.
const DEPTH_MAX: usize = 2;
/// Budget for one command line: a few milliseconds. Only a command line of 64 KiB with a secret every six bytes uses
/// the budget up.
const WORK_MAX: u64 = 12 << 20;

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
    /// Returns a redactor with this key. With one key for a fleet, the same secret has the same token on all hosts of
    /// the fleet. The key is itself a secret: with the key, guesses can be tested against a token.
    pub fn new(key: &[u8]) -> Self {
        let mac =
            Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
        Self { mac }
    }

    /// Returns a redactor with a random key, so that tokens are comparable until the agent restarts. `None` when the
    /// kernel has no random numbers.
    pub fn with_random_key() -> Option<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok()?;
        Some(Self::new(&key))
    }

    /// Replaces every secret in a command line. Arguments beyond the budget are replaced whole.
    pub fn redact(&self, argv: &mut [Bytes]) {
        self.redact_within(argv, WORK_MAX);
    }

    fn redact_within(&self, argv: &mut [Bytes], work_max: u64) {
        let words: Vec<Word<'_>> =
            argv.iter().enumerate().map(|(argument, bytes)| Word { bytes: &bytes.0, argument, start: 0 }).collect();
        let mut search = SecretSearch::new(work_max);
        let seen = search.command(&words, 0);
        self.replace(&mut argv[..seen], search.secrets());
        for argument in argv[seen..].iter_mut().filter(|argument| !argument.is_empty()) {
            argument.0 = UNSEEN.into();
        }
    }

    /// Replaces `secrets`, which are sorted and do not overlap. Secrets in arguments beyond `argv` are ignored.
    fn replace(&self, argv: &mut [Bytes], secrets: Vec<SecretPlace>) {
        for of_one in secrets.chunk_by(|first, second| first.argument == second.argument) {
            let Some(Bytes(argument)) = of_one.first().and_then(|secret| argv.get_mut(secret.argument)) else { return };
            let mut redacted = Vec::with_capacity(argument.len());
            let mut copied = 0;
            for SecretPlace { range, .. } in of_one {
                redacted.extend_from_slice(&argument[copied..range.start]);
                redacted.extend_from_slice(self.token(&argument[range.clone()]).as_bytes());
                copied = range.end;
            }
            redacted.extend_from_slice(&argument[copied..]);
            *argument = redacted;
        }
    }

    fn token(&self, secret: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(secret);
        let mac = mac.finalize().into_bytes();
        let digits = hex::encode(&mac[..8]);
        format!("{TOKEN_START}{digits}{TOKEN_END}")
    }
}

/// A word of a command line: an argument, or a part of an argument with the syntax of a command line.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    bytes: &'a [u8],
    argument: usize,
    /// Offset of the word in the argument.
    start: usize,
}

/// The place of a secret: index of the argument, and range of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SecretPlace {
    argument: usize,
    range: Range<usize>,
}

/// The search for secrets in a command line.
#[derive(Debug)]
struct SecretSearch {
    found: Vec<SecretPlace>,
    work: SearchBudget,
}

impl SecretSearch {
    fn new(work_max: u64) -> Self {
        Self { found: Vec::new(), work: SearchBudget::up_to(work_max) }
    }

    /// Returns the found secrets, sorted and without overlaps.
    fn secrets(self) -> Vec<SecretPlace> {
        let mut found = self.found;
        found.sort_unstable_by_key(|secret| (secret.argument, secret.range.start));
        // Overlapping findings of two rules are merged into one secret.
        found.dedup_by(|later, earlier| {
            let overlap = later.argument == earlier.argument && later.range.start < earlier.range.end;
            if overlap {
                earlier.range.end = earlier.range.end.max(later.range.end);
            }
            overlap
        });
        found
    }

    /// Adds a range of `word` as a secret, unless the bytes are harmless.
    fn add(&mut self, word: Word<'_>, range: Range<usize>) {
        if is_harmless(&word.bytes[range.clone()]) {
            return;
        }
        let range = word.start + range.start..word.start + range.end;
        let is_in_last = self.found.last().is_some_and(|last| {
            last.argument == word.argument && last.range.start <= range.start && range.end <= last.range.end
        });
        if !is_in_last {
            self.work.spend(work::TOKEN);
            self.found.push(SecretPlace { argument: word.argument, range });
        }
    }

    /// Searches the words of one command. Returns the number of completely searched words.
    fn command(&mut self, words: &[Word<'_>], depth: usize) -> usize {
        let mut program = ProgramOptions::default();
        let mut carried = None;
        for (index, &word) in words.iter().enumerate() {
            self.word(word, words, index, &mut program, &mut carried, depth);
            if self.work.is_spent() {
                return index;
            }
        }
        words.len()
    }

    fn word(
        &mut self,
        word: Word<'_>,
        words: &[Word<'_>],
        index: usize,
        program: &mut ProgramOptions,
        carried: &mut Option<NextWordSecret>,
        depth: usize,
    ) {
        let bytes = word.bytes;
        self.work.spend(work::WORD + bytes.len());
        match carried.take() {
            Some(NextWordSecret::All) if !looks_like_option(bytes) => return self.add(word, 0..bytes.len()),
            Some(NextWordSecret::After(separator)) if !looks_like_option(bytes) => {
                return self.add_after(word, 0, separator);
            }
            _ => {}
        }
        if let Some(named) = ProgramOptions::named(bytes) {
            *program = named;
        } else if let Some(option) = program.option(bytes) {
            match option {
                SecretOption::Here { start, after: None } => self.add(word, start..bytes.len()),
                SecretOption::Here { start, after: Some(separator) } => self.add_after(word, start, separator),
                SecretOption::Next { after: None } => *carried = Some(NextWordSecret::All),
                SecretOption::Next { after: Some(separator) } => *carried = Some(NextWordSecret::After(separator)),
                SecretOption::NotSecret => {}
            }
            return;
        } else if index + 1 == words.len() && program.last_is_secret(words.iter().map(|word| word.bytes)) {
            return self.add(word, 0..bytes.len());
        }
        match named_value(bytes) {
            NamedValue::Here(range) => return self.add(word, range),
            NamedValue::Next => {
                *carried = Some(NextWordSecret::All);
                return;
            }
            NamedValue::None => {}
        }
        text::secrets(word, self);
        if depth < DEPTH_MAX && bytes.iter().any(u8::is_ascii_whitespace) {
            self.inner_commands(word, depth + 1);
        }
    }

    /// Adds the bytes after the first `separator` behind `start`.
    fn add_after(&mut self, word: Word<'_>, start: usize, separator: u8) {
        if let Some(at) = word.bytes[start..].iter().position(|&b| b == separator) {
            self.add(word, start + at + 1..word.bytes.len());
        }
    }

    /// Searches a string with the syntax of a command line: its words are searched like arguments.
    fn inner_commands(&mut self, string: Word<'_>, depth: usize) {
        self.work.spend(string.bytes.len());
        let mut words = Vec::new();
        text::each_command(string.bytes, |command| {
            words.clear();
            words.extend(command.iter().map(|range| Word {
                bytes: &string.bytes[range.clone()],
                start: string.start + range.start,
                ..string
            }));
            self.command(&words, depth);
            !self.work.is_spent()
        });
    }
}

/// The secret part of the next word: the whole word, or the part after the user's name and this separator.
#[derive(Debug)]
enum NextWordSecret {
    All,
    After(u8),
}

/// The place of a value whose name is in the same word.
enum NamedValue {
    Here(Range<usize>),
    Next,
    None,
}

/// Finds the value of a secret name: `--name=value`, `name=value`, `/name:value`, `--name` with the value in the next
/// word, `some_name` with the value in the next word.
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
        // `Authorization: Bearer …`, `https://…`: left to the rules in `text`.
        Some(_) => NamedValue::None,
        // A bare word may be anything (`man passwd`); a name in the form of an option, a variable or a setting is no
        // accident.
        None if name.starts_with(b"-") || name.iter().any(|b| matches!(b, b'_' | b'.')) => NamedValue::Next,
        None => NamedValue::None,
    }
}

/// True for `-x` or `--long-name`: then the previous option has no value. Other words with a dash may be passwords.
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

/// True for a value that is no secret under any name: a switch, a reference to the place of a secret, or a token of
/// this module.
fn is_harmless(value: &[u8]) -> bool {
    const SWITCHES: [&[u8]; 12] =
        [b"", b"true", b"false", b"yes", b"no", b"on", b"off", b"none", b"null", b"prompt", b"ask", b"-"];
    const REFERENCES: [&[u8]; 5] = [b"file:", b"env:", b"fd:", b"stdin", b"prompt:"];
    SWITCHES.iter().any(|switch| value.eq_ignore_ascii_case(switch))
        || matches!(value, [b'$' | b'@', ..])
        || REFERENCES.iter().any(|prefix| starts_with_ignore_ascii_case(value, prefix))
        || value.starts_with(TOKEN_START.as_bytes())
        || value == UNSEEN.as_bytes()
}

fn starts_with_ignore_ascii_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests;
