//! Options whose meaning depends on the program: `-p` is a password for `mysql` and a port for `ssh`.

use super::rules::{OptionRule, PlainOption, Program, RuleId, Rules};
use super::search::Command;
use super::word::Word;

/// Words of a command line searched for the words of a condition.
const CONDITION_WORDS_MAX: usize = 32;

/// The place of a secret in an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OptionPlace {
    /// In the same word from `start` on; with `after` behind that separator.
    Here { start: usize, after: Option<u8>, rule: RuleId },
    /// In the next word.
    Next { after: Option<u8>, rule: RuleId },
    /// The option asks for the secret.
    Asks,
    /// An option without a secret; its value is in the same word from `start` on, or is
    /// the next word.
    Plain { start: usize, with_next: bool },
    /// The next word is harmless, whatever it looks like.
    Harmless,
}

/// Finds the rule for a word as an option of the program: of several the one with the most conditions, and an
/// exception before a rule of equal rank.
pub(super) fn find_option(
    rules: &Rules,
    command: &Command<'_>,
    word: Word<'_>,
    words: &[Word<'_>],
    index: usize,
) -> Option<OptionPlace> {
    let bytes = word.bytes;
    let first = *bytes.first()?;
    let is_option = first == b'-';
    if !is_option && !command.known.is_known() {
        return None;
    }
    let words = &words[command.begin.min(words.len())..];
    let has = |when: &[Vec<u8>]| {
        when.iter().all(|wanted| {
            let mut words = words.iter().take(CONDITION_WORDS_MAX);
            words.any(|word| wanted.split(|byte| *byte == b'|').any(|one| word.bytes.eq_ignore_ascii_case(one)))
        })
    };
    let mut best: Option<((usize, usize), OptionPlace)> = None;
    let any = rules.any_program().filter(|_| is_option);
    for program in command.known.programs(rules).chain(any) {
        for option in program.options.iter().filter(|option| option.name.first() == Some(&first)) {
            let rank = (option.when.len(), option.name.len());
            if let Some(place) = place_of(option, bytes)
                && best.is_none_or(|(best, _)| rank > best)
                && has(&option.when)
            {
                best = Some((rank, place));
            }
        }
        if best.is_none() && is_option {
            best = cluster(program, bytes).map(|place| ((0, 0), place));
        }
    }
    if !is_option {
        return best.map(|(_, place)| place);
    }
    for program in command.known.programs(rules).chain(any) {
        for PlainOption { when, name: option, values } in &program.plain {
            let Some(rest) = bytes.strip_prefix(option.as_slice()) else { continue };
            if best.is_some_and(|(rank, _)| when.len() < rank.0) || !has(when) {
                continue;
            }
            let is_long = option.len() > 2;
            let inline = match rest {
                [] => None,
                [b'=', rest @ ..] => Some(rest),
                rest if !is_long => Some(rest),
                _ => continue,
            };
            if values.first().is_some_and(|value| value == b"-") {
                return Some(OptionPlace::Plain { start: bytes.len(), with_next: false });
            }
            let next = words.get(index + 1 - command.begin.min(index)).map(|word| word.bytes);
            let Some(value) = inline.or(next) else {
                return Some(OptionPlace::Plain { start: bytes.len(), with_next: false });
            };
            if values.is_empty() {
                let with_next = inline.is_none() && !value.starts_with(b"-");
                let start = bytes.len() - inline.map_or(0, <[u8]>::len);
                return Some(OptionPlace::Plain { start, with_next });
            }
            if values.iter().any(|known| value.eq_ignore_ascii_case(known)) {
                return Some(if inline.is_none() { OptionPlace::Harmless } else { OptionPlace::Asks });
            }
        }
    }
    best.map(|(_, place)| place)
}

fn place_of(option: &OptionRule, word: &[u8]) -> Option<OptionPlace> {
    let rest = word.strip_prefix(option.name.as_slice())?;
    let &OptionRule { after, rule, .. } = option;
    match rest {
        [] if option.next => Some(OptionPlace::Next { after, rule }),
        [] => Some(OptionPlace::Asks),
        _ if option.glued => Some(OptionPlace::Here { start: option.name.len(), after, rule }),
        // `-pass=VALUE` and `-pass VALUE` are the same for most parsers.
        [b'=', ..] if option.joined || option.name.len() > 2 => {
            Some(OptionPlace::Here { start: option.name.len() + 1, after, rule })
        }
        _ => None,
    }
}

/// `curl -sSu user:secret`: several letters in one word; the last takes the value.
fn cluster(program: &Program, word: &[u8]) -> Option<OptionPlace> {
    if program.flags.is_empty() || word.starts_with(b"--") || word.len() < 3 {
        return None;
    }
    let flags = word[1..].iter().take_while(|letter| program.flags.contains(letter)).count();
    let (letter, rest) = word.get(1 + flags..).and_then(<[u8]>::split_first).filter(|_| flags > 0)?;
    let is_it = |option: &&OptionRule| matches!(option.name.as_slice(), [b'-', known] if known == letter);
    let option = program.options.iter().filter(|option| option.when.is_empty()).find(is_it)?;
    let &OptionRule { after, rule, joined, next, .. } = option;
    match rest {
        [] if next => Some(OptionPlace::Next { after, rule }),
        [] => Some(OptionPlace::Asks),
        _ if joined => Some(OptionPlace::Here { start: 2 + flags, after, rule }),
        _ => None,
    }
}
