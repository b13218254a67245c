//! Whether a name names a secret.

/// Words that name a secret when a name ends with them.
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
/// Words that make a following `key` one.
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
/// Ends of one written word (`PGPASSWORD`, `mysqlpwd`).
const ENDS: [&str; 8] = ["password", "passwd", "passphrase", "secret", "apikey", "token", "pwd", "secretkey"];
/// Words that end like that and are none.
const NOT: [&str; 5] = ["bypass", "compass", "encompass", "trespass", "surpass"];
/// Words after the secret's name that change nothing.
const TRAILING: [&str; 6] = ["value", "string", "text", "plain", "plaintext", "base64"];
/// No name is longer.
const NAME_BYTES_MAX: usize = 64;

/// Whether `name` (an option with its dashes, a variable, a field) names a secret: by its last words, so that
/// `--password-file` and `TOKEN_URL` do not.
pub(super) fn names_a_secret(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return false;
    }
    let words = words(name);
    let mut rest = words.as_slice();
    while let [before @ .., last] = rest {
        if !before.is_empty() && (TRAILING.contains(&last.as_str()) || last.bytes().all(|b| b.is_ascii_digit())) {
            rest = before;
            continue;
        }
        let last = last.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_key = |word: &String| KEYS.contains(&word.as_str());
        return SECRETS.contains(&last)
            || last == "key" && before.last().is_some_and(is_key)
            || last == "pass" && !before.is_empty()
            || !NOT.contains(&last) && (ENDS.iter().any(|end| last.ends_with(end)) || is_joined_pass(last));
    }
    false
}

/// `dbpass`, `sshpass`, `storepass`, `keypass`.
fn is_joined_pass(word: &str) -> bool {
    word.strip_suffix("pass").is_some_and(|before| {
        matches!(
            before,
            "db" | "ssh"
                | "store"
                | "key"
                | "user"
                | "my"
                | "root"
                | "admin"
                | "smtp"
                | "ftp"
                | "http"
                | "bind"
                | "ldap"
                | "src"
                | "dest"
        )
    })
}

/// Lower-case words: `--clientSecret`, `CLIENT_SECRET` and `client.secret` are `client`, `secret`.
fn words(name: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before_is_lower = false;
    for &byte in name {
        let is_new = byte.is_ascii_uppercase() && before_is_lower;
        if (is_new || !byte.is_ascii_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if byte.is_ascii_alphanumeric() {
            word.push(char::from(byte.to_ascii_lowercase()));
        }
        before_is_lower = byte.is_ascii_lowercase() || byte.is_ascii_digit();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
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
