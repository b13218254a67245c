//! The rules in memory, as the search looks them up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A rule by its number, for explanations.
pub(in crate::redact) type RuleId = u16;

/// All rules.
#[derive(Debug, Default)]
pub(in crate::redact) struct Rules {
    /// The text and the source of each rule.
    pub(super) texts: Vec<(String, String)>,
    /// Last words of names, joined, in lower case.
    pub(super) names: Map<(NamePower, RuleId)>,
    /// Ends of the last word of a name, with the length of the longest first.
    pub(super) name_ends: Vec<(Vec<u8>, NamePower, RuleId)>,
    /// Words after the name of a secret without a change of the meaning.
    pub(super) tails: Map<()>,
    pub(super) programs: Vec<Program>,
    pub(super) program_names: Map<usize>,
    /// Beginnings of program names, by the first byte.
    pub(super) program_beginnings: Vec<(Vec<u8>, usize)>,
    pub(super) headers: Map<(bool, RuleId)>,
    pub(super) header_ends: Vec<(Vec<u8>, bool, RuleId)>,
    /// Parameters of an address that are a key to the content.
    pub(super) queries: Map<RuleId>,
    /// Forms by the first byte of the prefix.
    pub(super) forms: Vec<Vec<SecretForm>>,
    pub(super) hooks: Vec<(Vec<u8>, RuleId)>,
}

pub(super) type Map<V> = HashMap<Vec<u8>, V, BuildHasherDefault<Fnv>>;

/// FNV-1a: the keys are short, and no key comes from a host.
#[derive(Debug)]
pub(in crate::redact) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How sure a name says that its value is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redact) enum NamePower {
    Strong,
    /// Only with a value that looks like a secret.
    Weak,
    /// Only with a value of four bytes or more.
    Pin,
    /// As `Weak`, and only for `NAME=VALUE`.
    Variable,
    /// No secret.
    Plain,
}

/// The rules of one program name.
#[derive(Debug, Default)]
pub(in crate::redact) struct Program {
    pub(in crate::redact) options: Vec<OptionRule>,
    pub(in crate::redact) places: Vec<PlaceRule>,
    pub(in crate::redact) pairs: Vec<PairRule>,
    pub(in crate::redact) plain: Vec<PlainOption>,
    /// Options with a value in the next word.
    pub(in crate::redact) takes: Vec<Vec<u8>>,
    pub(in crate::redact) flags: Vec<u8>,
    pub(in crate::redact) runs: Option<Runs>,
    /// The words with which the program reads a secret from standard input.
    pub(in crate::redact) stdin: Vec<(Vec<Vec<u8>>, RuleId)>,
    pub(in crate::redact) bare: Option<RuleId>,
    /// Operands are logins of the form `user/SECRET@database`.
    pub(in crate::redact) login: Option<RuleId>,
    /// The field of an operand `a=x,p=SECRET` that is a secret.
    pub(in crate::redact) dsn: Option<(u8, RuleId)>,
    /// Words with blanks are no commands.
    pub(in crate::redact) is_prose: bool,
}

/// How a program runs another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redact) enum Runs {
    /// After this many operands.
    After(usize),
    /// A known program after any operand, behind one of these words when there are any.
    Within(Vec<Vec<u8>>),
}

/// An option without a secret.
#[derive(Debug, Clone)]
pub(in crate::redact) struct PlainOption {
    /// Words that must be in the command line.
    pub(in crate::redact) when: Vec<Vec<u8>>,
    pub(in crate::redact) name: Vec<u8>,
    /// The harmless values; all values when empty.
    pub(in crate::redact) values: Vec<Vec<u8>>,
}

/// An option with a secret.
#[derive(Debug, Clone)]
pub(in crate::redact) struct OptionRule {
    /// `-p`, `--password=` with the joining byte left out.
    pub(in crate::redact) name: Vec<u8>,
    /// The secret may be in the same word.
    pub(in crate::redact) joined: bool,
    /// The secret may be the next word.
    pub(in crate::redact) next: bool,
    /// In the same word there is no `=` before the secret.
    pub(in crate::redact) glued: bool,
    /// Only the bytes after this separator are secret.
    pub(in crate::redact) after: Option<u8>,
    /// Words that must be in the command line.
    pub(in crate::redact) when: Vec<Vec<u8>>,
    pub(in crate::redact) rule: RuleId,
}

/// The place of a secret among the operands.
#[derive(Debug, Clone)]
pub(in crate::redact) struct PlaceRule {
    /// Options that must be in the command line.
    pub(in crate::redact) options: Vec<Vec<u8>>,
    pub(in crate::redact) parts: Vec<PlacePart>,
    pub(in crate::redact) rule: RuleId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redact) enum PlacePart {
    Word(Vec<u8>),
    Any,
    /// A word that names a secret.
    Name,
    /// Any number of words.
    Rest,
    /// The secret, or its part after a separator.
    Secret(Option<u8>),
}

#[derive(Debug, Clone)]
pub(in crate::redact) struct PairRule {
    pub(in crate::redact) name: Vec<Vec<u8>>,
    pub(in crate::redact) value: Vec<Vec<u8>>,
    pub(in crate::redact) rule: RuleId,
}

/// A secret by its form.
#[derive(Debug, Clone)]
pub(in crate::redact) struct SecretForm {
    pub(in crate::redact) prefix: Vec<u8>,
    pub(in crate::redact) class: ByteClass,
    /// Least number of bytes after the prefix.
    pub(in crate::redact) more: usize,
    pub(in crate::redact) rule: RuleId,
}

/// The bytes of a secret of a known form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redact) enum ByteClass {
    Digits,
    /// `0-9a-fA-F`.
    Hex,
    /// `A-Z0-9`.
    Upper,
    /// `A-Za-z0-9`.
    Alnum,
    /// `A-Za-z0-9_-`.
    Word,
    /// As `Word`, with a digit and a letter.
    Mixed,
    /// As `Word`, and dots.
    Dotted,
    /// As `Word`, and `+/=.~$`, with a digit and a letter.
    Any,
}

impl ByteClass {
    pub(in crate::redact) fn has(self, byte: u8) -> bool {
        match self {
            Self::Digits => byte.is_ascii_digit(),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word | Self::Mixed => is_word_byte(byte),
            Self::Dotted => is_word_byte(byte) || byte == b'.',
            Self::Any => is_word_byte(byte) || matches!(byte, b'+' | b'/' | b'=' | b'.' | b'~' | b'$'),
        }
    }

    /// True for a class with a digit and a letter.
    pub(in crate::redact) fn is_mixed(self) -> bool {
        matches!(self, Self::Mixed | Self::Any)
    }
}

pub(in crate::redact) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The rules for a program's name: the rules of the name itself, and of the patterns that it matches.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redact) struct Known {
    found: [Option<u16>; Known::MAX],
}

impl Program {
    /// True for a program with rules about secrets.
    pub(in crate::redact) fn has_secrets(&self) -> bool {
        !self.options.is_empty() || !self.places.is_empty() || self.login.is_some() || self.runs.is_some()
    }
}

impl Known {
    const MAX: usize = 4;

    pub(in crate::redact) fn is_known(&self) -> bool {
        self.found[0].is_some()
    }

    /// The rules, the most exact first.
    pub(in crate::redact) fn programs<'r>(&self, rules: &'r Rules) -> impl Iterator<Item = &'r Program> + use<'r> {
        self.found.into_iter().flatten().filter_map(move |at| rules.programs.get(usize::from(at)))
    }
}

impl Rules {
    /// Returns the rules of a program by the last part of its path.
    pub(in crate::redact) fn program(&self, path: &[u8]) -> Known {
        let mut name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        // A login shell is called `-bash`.
        name = name.strip_prefix(b"-").unwrap_or(name);
        let mut known = Known::default();
        let Some(first) = name.first().filter(|_| name.len() <= 64) else { return known };
        let mut exact = self.program_names.get(name);
        if exact.is_none() && name.iter().any(u8::is_ascii_uppercase) {
            exact = self.program_names.get(&name.to_ascii_lowercase());
        }
        let mut count = 0;
        let mut add = |at: usize| {
            if let Some(place) = known.found.get_mut(count) {
                *place = u16::try_from(at).ok();
                count += 1;
            }
        };
        if let Some(&at) = exact {
            add(at);
        }
        let is_plain = || name.iter().all(|&b| is_word_byte(b) || matches!(b, b'.' | b'+'));
        for (beginning, at) in &self.program_beginnings {
            if beginning[0] == *first && name.starts_with(beginning) && is_plain() {
                add(*at);
            }
        }
        known
    }

    /// The rules that hold for every program.
    pub(in crate::redact) fn any_program(&self) -> Option<&Program> {
        self.program_names.get(b"*".as_slice()).and_then(|&at| self.programs.get(at))
    }

    /// Returns what the last words of a name, joined and in lower case, say.
    pub(in crate::redact) fn name(&self, words: &[u8]) -> Option<(NamePower, RuleId)> {
        self.names.get(words).copied()
    }

    /// Returns what the end of the last word of a name says.
    pub(in crate::redact) fn name_end(&self, word: &[u8]) -> Option<(NamePower, RuleId)> {
        let last = word.last()?;
        self.name_ends
            .iter()
            .find(|(end, ..)| end.last() == Some(last) && word.len() > end.len() && word.ends_with(end))
            .map(|&(_, power, rule)| (power, rule))
    }

    pub(in crate::redact) fn is_tail(&self, word: &[u8]) -> bool {
        self.tails.contains_key(word)
    }

    /// Returns the rule when a header (in lower case) holds a secret, and `Some(None)` when it certainly holds none.
    pub(in crate::redact) fn header(&self, name: &[u8]) -> Option<Option<RuleId>> {
        let told = self.headers.get(name).copied().or_else(|| {
            let end = self.header_ends.iter().find(|(end, ..)| name.ends_with(end));
            end.map(|&(_, secret, rule)| (secret, rule))
        });
        told.map(|(secret, rule)| secret.then_some(rule))
    }

    /// Returns the rule for a parameter of an address, in lower case.
    pub(in crate::redact) fn query(&self, name: &[u8]) -> Option<RuleId> {
        self.queries.get(name).copied()
    }

    pub(in crate::redact) fn forms(&self, first: u8) -> &[SecretForm] {
        self.forms.get(usize::from(first)).map_or(&[], Vec::as_slice)
    }

    pub(in crate::redact) fn hook(&self, text: &[u8]) -> Option<(usize, RuleId)> {
        let found = self.hooks.iter().find(|(hook, _)| text.starts_with(hook));
        found.map(|(hook, rule)| (hook.len(), *rule))
    }

    /// The text and the source of a rule.
    pub(in crate::redact) fn text(&self, rule: RuleId) -> (&str, &str) {
        self.texts.get(usize::from(rule)).map_or(("", ""), |(text, source)| (text, source))
    }

    /// Puts the longest ends first.
    pub(super) fn finish(&mut self) {
        self.name_ends.sort_by_key(|(end, ..)| std::cmp::Reverse(end.len()));
        self.header_ends.sort_by_key(|(end, ..)| std::cmp::Reverse(end.len()));
        self.forms.iter_mut().for_each(|forms| forms.sort_by_key(|form| std::cmp::Reverse(form.prefix.len())));
    }
}
