//! Decides if a value can be a secret at all.

use super::name::SecretName;
use super::rules::NamePower;
use super::{TOKEN_START, UNSEEN, starts_with_ignore_ascii_case};

/// Values that switch something, or ask for the secret.
const SWITCHES: [&str; 22] = [
    "",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "none",
    "null",
    "nil",
    "prompt",
    "ask",
    "-",
    "auto",
    "enabled",
    "disabled",
    "enable",
    "disable",
    "required",
    "optional",
    "default",
    "undefined",
];
/// Ways to log in: values of names like `SMTP_AUTH`.
const MODES: [&str; 24] = [
    "plain",
    "login",
    "cram-md5",
    "digest-md5",
    "ntlm",
    "gssapi",
    "xoauth2",
    "oauth2",
    "oauthbearer",
    "scram-sha-1",
    "scram-sha-256",
    "scram-sha-512",
    "basic",
    "digest",
    "bearer",
    "ldap",
    "pam",
    "md5",
    "trust",
    "peer",
    "mtls",
    "tls",
    "sha256",
    "oidc",
];
/// Beginnings of a reference to the place of a secret.
const REFERENCES: [&str; 17] = [
    "file:/",
    "file:.",
    "fd:",
    "prompt:",
    "op://",
    "arn:aws",
    "ref+",
    "secretref:",
    "awssm://",
    "gcpsm://",
    "vault://",
    "keychain:",
    "pkcs11:",
    "azurekms://",
    "awskms://",
    "gcpkms://",
    "keyvault://",
];
/// Folders in which the file of a secret is.
const FOLDERS: [&str; 27] = [
    "bin",
    "boot",
    "app",
    "certs",
    "config",
    "data",
    "dev",
    "etc",
    "home",
    "lib",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "secrets",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
    "vault",
    "workspace",
    "Users",
    "conf",
    "keys",
];
/// Ends of the name of a file.
const FILES: [&str; 24] = [
    "pem", "key", "crt", "cer", "p12", "pfx", "jks", "json", "txt", "yml", "yaml", "conf", "cfg", "ini", "env",
    "token", "pub", "der", "gpg", "asc", "keytab", "kdbx", "secret", "toml",
];

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In an argument: a shell has replaced every `$NAME` already.
    Argument,
    /// In an argument with blanks, which may be a string for a shell.
    Text,
    /// In a string for a shell.
    Shell,
}

/// True for a value that is no secret under any name: a switch, a reference to the place of a secret, a placeholder, or
/// a token of this module.
pub(super) fn is_harmless(value: &[u8], place: Place) -> bool {
    let is_one_of = |known: &[&str]| known.iter().any(|known| value.eq_ignore_ascii_case(known.as_bytes()));
    if value.len() <= 9 && is_one_of(&SWITCHES) {
        return true;
    }
    let Some(&first) = value.first() else { return true };
    match first {
        b'$' => is_reference(value, place),
        b'@' => matches!(value, b"@-") || is_path(&value[1..]),
        b'/' | b'.' | b'~' => is_path(value) || value.starts_with(b".*"),
        b'<' => value.len() > 2 && value.ends_with(b">") && value[1..value.len() - 1].iter().all(is_placeholder_byte),
        b'{' => value.starts_with(b"{{") && value.ends_with(b"}}") && value.len() < 128,
        b'%' => matches!(value, b"%s" | b"%d") || value.starts_with(b"%(") && value.ends_with(b")s"),
        b'*' | b'x' | b'X' if value.len() >= 3 && value.iter().all(|byte| *byte == first) => true,
        _ if value.starts_with(TOKEN_START.as_bytes()) || value == UNSEEN.as_bytes() => true,
        b'a' | b'f' | b'g' | b'k' | b'o' | b'p' | b'r' | b's' | b'v' | b'F' => {
            value == b"stdin"
                || REFERENCES.iter().any(|start| starts_with_ignore_ascii_case(value, start))
                || value.starts_with(b"projects/") && value.windows(9).any(|part| part == b"/secrets/")
        }
        b'e' => value.strip_prefix(b"env:").is_some_and(is_variable),
        _ => false,
    }
}

/// True when `value` cannot be the secret that `name` names.
pub(super) fn is_harmless_for(name: SecretName, value: &[u8], place: Place) -> bool {
    if is_harmless(value, place) {
        return true;
    }
    let is_number = value.iter().all(u8::is_ascii_digit);
    if name.may_count && is_number && value.len() <= 6 {
        return true;
    }
    if !name.is_password && is_file_name(value) {
        return true;
    }
    match name.power {
        NamePower::Strong => false,
        NamePower::Weak | NamePower::Variable => !looks_like_a_secret(value),
        NamePower::Pin => value.len() < 4,
        NamePower::Plain => true,
    }
}

/// True for `$NAME`, `${NAME}`, `$(command)` in a shell's string. In an argument only for names that are written like
/// the name of a variable with a secret: there `$ecret` is a secret.
fn is_reference(value: &[u8], place: Place) -> bool {
    let inner = match value {
        [b'$', b'{', inner @ .., b'}'] | [b'$', b'(', inner @ .., b')'] => {
            return place != Place::Argument
                || inner.iter().all(|byte| is_variable_byte(*byte) || b":-?./".contains(byte));
        }
        [b'$', inner @ ..] => inner,
        _ => return false,
    };
    match place {
        Place::Shell => {
            is_variable(inner) || matches!(inner, [digit] if digit.is_ascii_digit() || b"@*#?".contains(digit))
        }
        Place::Text if inner.len() >= 2 && is_variable(inner) && !inner.iter().any(u8::is_ascii_lowercase) => true,
        Place::Argument | Place::Text => {
            const NAMED: [&str; 7] = ["PASSWORD", "PASS", "PASSWD", "TOKEN", "SECRET", "KEY", "PWD"];
            let is_upper = inner.iter().all(|byte| is_variable_byte(*byte) && !byte.is_ascii_lowercase());
            is_upper && NAMED.iter().any(|end| inner.ends_with(end.as_bytes()))
        }
    }
}

fn is_variable_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_variable(name: &[u8]) -> bool {
    name.first().is_some_and(|first| !first.is_ascii_digit()) && name.iter().all(|byte| is_variable_byte(*byte))
}

fn is_placeholder_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' ')
}

fn is_path_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'@' | b'+' | b'%' | b'{' | b'}')
}

/// True for a path: below a usual folder, or relative to a folder.
pub(super) fn is_path(value: &[u8]) -> bool {
    if !value.iter().all(is_path_byte) {
        return false;
    }
    match value {
        b"/" => true,
        [b'/', rest @ ..] => {
            let folder = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
            FOLDERS.iter().any(|known| folder == known.as_bytes())
        }
        [b'.', b'/', ..] | [b'.', b'.', b'/', ..] | [b'~', b'/', ..] => true,
        _ => false,
    }
}

/// True for the name of a file with a usual end.
pub(super) fn is_file_name(value: &[u8]) -> bool {
    let Some(dot) = value.iter().rposition(|byte| *byte == b'.') else { return false };
    let end = &value[dot + 1..];
    dot > 0
        && value.iter().all(|byte| is_path_byte(byte) || *byte == b'~')
        && FILES.iter().any(|known| end.eq_ignore_ascii_case(known.as_bytes()))
}

/// True for six bytes or more with a digit, with letters of both cases, or with a symbol; and for long words.
fn looks_like_a_secret(value: &[u8]) -> bool {
    if value.len() < 6 || MODES.iter().any(|mode| value.eq_ignore_ascii_case(mode.as_bytes())) {
        return false;
    }
    let has = |such: fn(&u8) -> bool| value.iter().any(such);
    let is_separator: fn(&u8) -> bool = |byte| matches!(byte, b'-' | b'_' | b'.' | b'/' | b':');
    if value.iter().all(|byte| byte.is_ascii_alphabetic() || is_separator(byte)) {
        let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && value.len() >= 12;
        return !has(is_separator) && (value.len() >= 20 || is_mixed);
    }
    has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) || value.len() >= 8 && !has(u8::is_ascii_whitespace)
}
