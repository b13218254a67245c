//! Secrets by their place among the operands of a command.

use super::assignment::looks_like_option;
use super::name::secret_name;
use super::rules::{PlacePart, PlaceRule, Program};
use super::search::{Command, SecretSearch};
use super::value;
use super::word::{Because, Word};

/// Words of a command line searched for the options of a rule.
const WORDS_MAX: usize = 64;

/// Applies the rules about operands.
pub(super) fn operands(program: &Program, command: &Command<'_>, words: &[Word<'_>], search: &mut SecretSearch<'_>) {
    for rule in &program.places {
        if !rule.options.iter().all(|option| has_option(&words[command.begin.min(words.len())..], option)) {
            continue;
        }
        search.work.spend(command.operands.len());
        let places = matched(rule, &command.operands, words, search);
        for (index, after) in places {
            let Some(&word) = words.get(index) else { continue };
            // `key=value` is a setting of its own.
            if looks_like_option(word.bytes) || is_setting(word.bytes) {
                continue;
            }
            match after {
                None => search.add(word, 0..word.bytes.len(), Because::Rule(rule.rule)),
                Some(separator) => search.add_after(word, 0, separator, Because::Rule(rule.rule)),
            }
        }
    }
}

fn has_option(words: &[Word<'_>], option: &[u8]) -> bool {
    words.iter().take(WORDS_MAX).any(|word| word.bytes == option || is_in_cluster(word.bytes, option))
}

/// True for `-b` in `-cb`.
pub(super) fn is_in_cluster(word: &[u8], option: &[u8]) -> bool {
    let (&[b'-', letter], [b'-', letters @ ..]) = (option, word) else { return false };
    letters.len() < 6 && !letters.starts_with(b"-") && letters.contains(&letter)
}

/// The operands at the places of the secrets.
fn matched(
    rule: &PlaceRule,
    operands: &[usize],
    words: &[Word<'_>],
    search: &SecretSearch<'_>,
) -> Vec<(usize, Option<u8>)> {
    let is_word = |part: &PlacePart, index: usize| {
        let bytes = words.get(index).map_or(&b""[..], |word| word.bytes);
        match part {
            PlacePart::Word(known) => match known.strip_suffix(b"*") {
                Some(start) => bytes.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
                None => known.split(|byte| *byte == b'|').any(|known| bytes.eq_ignore_ascii_case(known)),
            },
            PlacePart::Name => secret_name(bytes, search.rules).is_some(),
            _ => true,
        }
    };
    let literals = rule.parts.iter().take_while(|part| matches!(part, PlacePart::Word(_))).count();
    let begins = |from: usize| {
        let operands = operands.get(from..from + literals);
        operands.is_some_and(|operands| operands.iter().zip(&rule.parts).all(|(index, part)| is_word(part, *index)))
    };
    let last = operands.len().saturating_sub(literals);
    let Some(mut at) = (0..=if literals == 0 { 0 } else { last }).find(|from| begins(*from)) else { return Vec::new() };
    let mut found = Vec::new();
    for (number, part) in rule.parts.iter().enumerate() {
        if *part == PlacePart::Rest {
            let left = rule.parts.len() - number - 1;
            at = at.max(operands.len().saturating_sub(left));
            continue;
        }
        let Some(&index) = operands.get(at) else { return Vec::new() };
        if !is_word(part, index) {
            return Vec::new();
        }
        if let PlacePart::Secret(after) = part {
            found.push((index, *after));
        }
        at += 1;
    }
    found
}

fn is_setting(word: &[u8]) -> bool {
    let end = word.iter().position(|byte| *byte == b'=').unwrap_or(0);
    (2..=24).contains(&end)
        && end + 1 < word.len()
        && word[..end].iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_' || *byte == b'-')
}

/// Applies the rules about two options: the value of the second is a secret when the first names one.
pub(super) fn pairs(program: &Program, command: &Command<'_>, words: &[Word<'_>], search: &mut SecretSearch<'_>) {
    for rule in &program.pairs {
        let words = words.get(command.begin..).unwrap_or_default();
        let value_of = |options: &[Vec<u8>]| {
            words.iter().enumerate().take(WORDS_MAX).find_map(|(index, word)| {
                options.iter().find_map(|option| match word.bytes.strip_prefix(option.as_slice())? {
                    [] => words.get(index + 1).map(|next| (*next, 0)),
                    [b'=', ..] => Some((*word, option.len() + 1)),
                    _ => None,
                })
            })
        };
        search.work.spend(words.len().min(WORDS_MAX));
        let Some((name, start)) = value_of(&rule.name) else { continue };
        if secret_name(&name.bytes[start..], search.rules).is_some()
            && let Some((word, start)) = value_of(&rule.value)
        {
            search.add(word, start..word.bytes.len(), Because::Rule(rule.rule));
        }
    }
}

/// The value of a field of `a=x,p=SECRET`.
pub(super) fn dsn_field(operand: &[u8], field: u8) -> Option<std::ops::Range<usize>> {
    let mut from = 0;
    for part in operand.split(|byte| *byte == b',') {
        if matches!(part, [name, b'=', ..] if *name == field) {
            return Some(from + 2..from + part.len());
        }
        from += part.len() + 1;
    }
    None
}

/// True when the value of `-p` may be a password rather than a port, a path or a mapping.
pub(super) fn may_be_password(value: &[u8]) -> bool {
    let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b':' | b'-' | b',' | b'.' | b'/');
    !(value.iter().all(is_number) || value.starts_with(b"/") || value::is_path(value) || value::is_file_name(value))
}
