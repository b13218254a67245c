//! A word with a name and its value: `--name=value`, `NAME=value`.

use super::name::{SecretName, is_name_byte, secret_name};
use super::rules::Rules;

/// The place of a value whose name is in the same word.
#[derive(Debug)]
pub(super) enum NamedValue {
    Here(usize, SecretName),
    Next(SecretName),
    None,
}

/// Finds the value of a secret name: `--name=value`, `name=value`, `/name:value`, or a name with the value in the next
/// word.
pub(super) fn named_value(word: &[u8], rules: &Rules) -> NamedValue {
    let name_end = word.iter().position(|&b| !is_name_byte(b) && b != b'/').unwrap_or(word.len());
    let name = &word[..name_end];
    let separator = word.get(name_end);
    if !matches!(separator, None | Some(b'=' | b':')) || name.len() > 128 {
        return NamedValue::None;
    }
    let Some(secret) = secret_name(name, rules) else { return NamedValue::None };
    match separator {
        // A path may end with such a word.
        // `auth=('user', 'SECRET')`: left to the rules in `text`.
        Some(b'=') if !word.starts_with(b"-") && matches!(word.get(name_end + 1), Some(b'(' | b'[')) => {
            NamedValue::None
        }
        Some(b'=') => NamedValue::Here(name_end + 1, secret),
        Some(_) if word.starts_with(b"/") => NamedValue::Here(name_end + 1, secret),
        // `Authorization: Bearer …`, `https://…`: left to the rules in `text`.
        Some(_) => NamedValue::None,
        None => NamedValue::Next(secret),
    }
}

/// A range without quotes or braces around the whole.
pub(super) fn unquoted(bytes: &[u8], range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    match &bytes[range.clone()] {
        [b'"', _, .., b'"'] | [b'\'', _, .., b'\''] | [b'{', _, .., b'}'] => range.start + 1..range.end - 1,
        _ => range,
    }
}

/// True for `NAME=VALUE` before a program.
pub(super) fn is_assignment(word: &[u8]) -> bool {
    let end = word.iter().position(|byte| *byte == b'=').unwrap_or(0);
    end > 0 && !word[0].is_ascii_digit() && word[..end].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// True for `-x` or `--long-name`: then the previous option has no value. Other words with a dash may be passwords.
pub(super) fn looks_like_option(word: &[u8]) -> bool {
    match word {
        [b'-', b'-', name @ ..] => {
            let name = name.split(|&b| b == b'=').next().unwrap_or_default();
            !name.is_empty() && name.iter().all(|&b| b.is_ascii_lowercase() || b == b'-')
        }
        [b'-', letter] => letter.is_ascii_alphabetic(),
        _ => false,
    }
}

/// True when `NAME=value …` is a command of a shell's string rather than one value with blanks.
pub(super) fn is_string(word: &[u8], start: usize, before: &[u8]) -> bool {
    word[start..].iter().any(u8::is_ascii_whitespace)
        && (before.starts_with(b"-") && before.ends_with(b"c") || before == b"eval" || before == b"--")
}
