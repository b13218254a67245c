//! Decides if a name names a secret.

/// Words at the end of a name that name a secret.
const SECRETS: [&str; 30] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "pass",
    "pwd",
    "pw",
    "psw",
    "secret",
    "secrets",
    "token",
    "tokens",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "credential",
    "credentials",
    "bearer",
    "jwt",
    "psk",
    "pat",
    "otp",
    "authtoken",
    "sessionid",
    "cookie",
    "authorization",
    "community",
];
/// Words before `key` that make the name a secret's name.
const KEYS: [&str; 14] = [
    "api",
    "access",
    "secret",
    "private",
    "auth",
    "account",
    "shared",
    "encryption",
    "signing",
    "master",
    "storage",
    "service",
    "client",
    "session",
];
/// Ends of a name written as one word (`PGPASSWORD`, `mysqlpwd`).
const ENDS: [&str; 8] = ["password", "passwd", "passphrase", "secret", "apikey", "token", "pwd", "secretkey"];
/// Words with an ending of [`ENDS`] or `pass` that name no secret.
const NOT: [&str; 5] = ["bypass", "compass", "encompass", "trespass", "surpass"];
/// Words before `pass` in a name written as one word (`dbpass`, `storepass`).
const JOINED_PASS: [&str; 15] =
    ["db", "ssh", "store", "key", "user", "my", "root", "admin", "smtp", "ftp", "http", "bind", "ldap", "src", "dest"];
/// Words after the name of a secret without a change of the meaning.
const TRAILING: [&str; 6] = ["value", "string", "text", "plain", "plaintext", "base64"];
/// Bytes considered at the end of a name: the last words decide.
const NAME_BYTES_MAX: usize = 64;

/// True when `name` (an option with its dashes, a variable, a field) names a secret. The last words decide, so that
/// `--password-file` and `TOKEN_URL` name none.
pub(super) fn names_a_secret(name: &[u8]) -> bool {
    let mut rest = &name[name.len().saturating_sub(NAME_BYTES_MAX)..];
    while let Some((before, last)) = split_last_word(rest) {
        let word_before = split_last_word(before).map(|(_, word)| word);
        if word_before.is_some() && (is_one_of(&TRAILING, last) || last.iter().all(u8::is_ascii_digit)) {
            rest = before;
            continue;
        }
        let digits = last.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let last = &last[..last.len() - digits];
        return is_one_of(&SECRETS, last)
            || last.eq_ignore_ascii_case(b"key") && word_before.is_some_and(|word| is_one_of(&KEYS, word))
            || !is_one_of(&NOT, last)
                && (ENDS.iter().any(|end| strip_end(last, end).is_some())
                    || strip_end(last, "pass").is_some_and(|before| is_one_of(&JOINED_PASS, before)));
    }
    false
}

/// Splits a name before its last word: `--clientSecret`, `CLIENT_SECRET` and `client.secret` consist of `client` and
/// `secret`, in any case.
fn split_last_word(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = name.iter().rposition(u8::is_ascii_alphanumeric)? + 1;
    let starts = |at: usize| match name[at - 1] {
        before if before.is_ascii_lowercase() || before.is_ascii_digit() => name[at].is_ascii_uppercase(),
        before => !before.is_ascii_uppercase(),
    };
    let start = (1..end).rev().find(|&at| starts(at)).unwrap_or(0);
    Some((&name[..start], &name[start..end]))
}

fn is_one_of(known: &[&str], word: &[u8]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

/// Returns `word` without `end`, when `word` ends with `end` in any case.
fn strip_end<'a>(word: &'a [u8], end: &str) -> Option<&'a [u8]> {
    let (before, last) = word.split_at_checked(word.len().checked_sub(end.len())?)?;
    last.eq_ignore_ascii_case(end.as_bytes()).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_by_its_last_words() {
        for name in [
            "--password",
            "-password",
            "password",
            "PASSWORD",
            "--db-password",
            "PGPASSWORD",
            "MYSQL_PWD",
            "SSHPASS",
            "--clientSecret",
            "client.secret",
            "AWS_SECRET_ACCESS_KEY",
            "aws_session_token",
            "apiKey",
            "x-api-key",
            "X-Auth-Token",
            "--private-key",
            "AccountKey",
            "SharedAccessKey",
            "--passphrase",
            "GITHUB_TOKEN",
            "VAULT_TOKEN",
            "password2",
            "--token",
            "-storepass",
            "access_token",
            "secret-value",
            "admin_pass",
            "GITLAB_PAT",
            "Authorization",
            "Cookie",
            "PRIVATE-TOKEN",
        ] {
            assert!(names_a_secret(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "--",
            "--password-file",
            "TOKEN_URL",
            "--token-endpoint",
            "--passive",
            "--pass-through",
            "--bypass",
            "--tokenizer",
            "--secret-name",
            "key",
            "--key",
            "--public-key",
            "--keyboard",
            "AWS_ACCESS_KEY_ID",
            "--compass",
            "--passwords-max",
            "--password-stdin",
            "author",
            "--auth",
            "monkey",
            "--secretary",
        ] {
            assert!(!names_a_secret(name.as_bytes()), "{name}");
        }
    }
}
