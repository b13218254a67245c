//! Redaction: replaces secrets in command lines before the snapshot leaves the host.
//!
//! Promises: argument boundaries stay, and every byte outside a secret stays. Under one key the same secret always
//! gives the same token, so that equal secrets on several hosts are recognizable as equal. The token reveals nothing
//! else of the secret.
//!
//! Pure: bytes in, bytes out. The search cannot find every secret: a secret in an unknown form passes. A table of rules
//! ([`rules`]) says what is known; the corpus of `tests/fixtures/secrets` measures how much is missed, and how many
//! harmless words are hidden. The work is linear in the length of the command line and has a budget; arguments beyond
//! the budget are replaced whole without a search.
//!
//! - [`rules`]: the table: names, programs, headers, forms, each with its source.
//! - [`name`]: decides if a name (`--db-password`, `AWS_SECRET_ACCESS_KEY`) names a secret.
//! - [`value`]: decides if a value can be a secret.
//! - [`assignment`]: a word with a name and its value.
//! - [`search`]: the search over the words of a command: program, options ([`options`]), operands ([`places`]).
//! - [`shell`]: splits a string for a shell into commands; [`scripts`]: what such a string gives to a program's input.
//! - [`text`]: secrets inside a text: addresses, headers, JSON, statements, connection strings, keys of a known form.
//! - [`work`]: the budget of the search.

mod assignment;
mod name;
mod options;
mod places;
mod rules;
mod scripts;
mod search;
mod shell;
mod text;
mod value;
mod word;
mod work;

use std::ops::Range;
use std::sync::Arc;

use edr_wire::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use self::rules::RuleFault;
use self::rules::Rules;
use self::search::SecretSearch;
use self::word::{Because, SecretPlace};

/// Start and end of a token: `‹redacted:0123456789abcdef›`.
const TOKEN_START: &str = "‹redacted:";
const TOKEN_END: &str = "›";
/// Replacement of an unsearched argument.
const UNSEEN: &str = "‹redacted›";

/// Budget for one command line: a few milliseconds. Only a command line of 64 KiB with a secret every six bytes uses
/// the budget up.
const WORK_MAX: u64 = 12 << 20;

/// Replaces secrets by keyed tokens.
#[derive(Clone)]
pub struct Redactor {
    mac: Hmac<Sha256>,
    rules: Arc<Rules>,
}

/// A replaced secret, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Index of the argument.
    pub argument: usize,
    /// The bytes of the argument that were replaced.
    pub range: Range<usize>,
    /// The rule, or the structure that the search knows.
    pub rule: String,
    /// Where the rule comes from; empty for a structure.
    pub source: String,
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
        Self { mac, rules: Rules::built_in() }
    }

    /// Returns a redactor with a random key, so that tokens are comparable until the agent restarts. `None` when the
    /// kernel has no random numbers.
    pub fn with_random_key() -> Option<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok()?;
        Some(Self::new(&key))
    }

    /// Adds the operator's rules, one a text, in the language of docs/redaction.md.
    ///
    /// # Errors
    /// The first text that is no rule.
    pub fn with_rules(self, own: &[String]) -> Result<Self, RuleFault> {
        if own.is_empty() {
            return Ok(self);
        }
        Ok(Self { rules: Arc::new(Rules::with(own)?), ..self })
    }

    /// Replaces every secret in a command line. Arguments beyond the budget are replaced whole.
    pub fn redact(&self, argv: &mut [Bytes]) {
        self.redact_within(argv, WORK_MAX);
    }

    /// As [`Redactor::redact`], and returns what was replaced and why.
    pub fn explain(&self, argv: &mut [Bytes]) -> Vec<Finding> {
        let places = self.redact_within(argv, WORK_MAX);
        let finding = |place: SecretPlace| {
            let (rule, source) = match place.because {
                Because::Rule(rule) => self.rules.text(rule),
                Because::Structure(name) => (name, ""),
            };
            Finding { argument: place.argument, range: place.range, rule: rule.to_owned(), source: source.to_owned() }
        };
        places.into_iter().map(finding).collect()
    }

    fn redact_within(&self, argv: &mut [Bytes], work_max: u64) -> Vec<SecretPlace> {
        let words = word::arguments(argv);
        let mut search = SecretSearch::new(&self.rules, work_max);
        let seen = search.command(&words, 0);
        let mut places = search.secrets();
        places.retain(|place| place.argument < seen);
        self.replace(&mut argv[..seen], &places);
        for (at, argument) in argv[seen..].iter_mut().enumerate().filter(|(_, argument)| !argument.is_empty()) {
            let range = 0..argument.0.len();
            places.push(SecretPlace { argument: seen + at, range, because: Because::Structure("no budget left") });
            argument.0 = UNSEEN.into();
        }
        places
    }

    /// Replaces `secrets`, which are sorted and do not overlap.
    fn replace(&self, argv: &mut [Bytes], secrets: &[SecretPlace]) {
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

fn starts_with_ignore_ascii_case(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests;
