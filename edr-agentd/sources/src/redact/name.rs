//! Decides if a name names a secret.

use super::rules::{NamePower, RuleId, Rules};

/// Bytes considered at the end of a name: the last words decide.
const NAME_BYTES_MAX: usize = 64;
/// Words considered at the end of a name.
const WORDS_MAX: usize = 4;

/// The name of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecretName {
    pub(super) power: NamePower,
    pub(super) rule: RuleId,
    /// True for the names of passwords, false for keys, tokens and credentials, which may be given as a file.
    pub(super) is_password: bool,
    /// True for a name that ends with `tokens`, or is `pass`: a short number is a count.
    pub(super) may_count: bool,
}

/// Returns how `name` (an option with its dashes, a variable, a field) names a secret. The last words decide, so that
/// `--password-file` and `TOKEN_URL` name none.
pub(super) fn secret_name(name: &[u8], rules: &Rules) -> Option<SecretName> {
    let name = &name[name.len().saturating_sub(NAME_BYTES_MAX)..];
    let mut lower = [0; NAME_BYTES_MAX];
    let mut starts = [0_usize; WORDS_MAX + 1];
    // The words without separators at the end of `lower`, from the last to the first.
    let (mut at, mut end, mut count) = (NAME_BYTES_MAX, name.len(), 0);
    let mut rest = name;
    while count < WORDS_MAX
        && let Some((before, word)) = split_last_word(rest)
    {
        rest = before;
        let digits = word.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let bare = &word[..word.len() - digits];
        if count == 0 {
            // Without letters, or a word that changes nothing, as long as there is a word before.
            let has_more = split_last_word(before).is_some();
            let mut small = [0; NAME_BYTES_MAX];
            let small = &mut small[..bare.len()];
            small.copy_from_slice(bare);
            small.make_ascii_lowercase();
            if has_more && (bare.is_empty() || rules.is_tail(small)) {
                continue;
            }
            end = NAME_BYTES_MAX;
        }
        let word = if count == 0 { bare } else { word };
        at -= word.len();
        lower[at..at + word.len()].copy_from_slice(word);
        lower[at..at + word.len()].make_ascii_lowercase();
        starts[count] = at;
        count += 1;
    }
    if count == 0 || end != NAME_BYTES_MAX {
        return None;
    }
    let last = &lower[starts[0]..];
    let (power, rule) = (0..count)
        .rev()
        .find_map(|words| rules.name(&lower[starts[words]..]))
        .or_else(|| (count > 1 && last == b"key").then(|| rules.name_end(b"-key")).flatten())
        .or_else(|| rules.name_end(last))?;
    let may_count = last.ends_with(b"tokens") || last == b"pass" && count == 1;
    let is_password = !["key", "token", "tokens", "secret", "secrets", "credentials", "credential", "creds", "cookie"]
        .iter()
        .any(|end| last.ends_with(end.as_bytes()));
    (power != NamePower::Plain).then_some(SecretName { power, rule, is_password, may_count })
}

/// Splits a name before its last word: `--clientSecret`, `CLIENT_SECRET` and `client.secret` consist of `client` and
/// `secret`, in any case.
fn split_last_word(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80;
    let end = name.iter().rposition(is_letter)? + 1;
    let starts = |at: usize| match name[at - 1] {
        before if before.is_ascii_lowercase() || before.is_ascii_digit() => name[at].is_ascii_uppercase(),
        before => !is_letter(&before),
    };
    let start = (1..end).rev().find(|&at| starts(at)).unwrap_or(0);
    Some((&name[..start], &name[start..end]))
}

/// Bytes of a name in a text.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') || byte >= 0x80
}
