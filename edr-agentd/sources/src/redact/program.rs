//! Options whose meaning depends on the program: `-p` is a password for `mysql` and a port for `ssh`.

/// The place of a secret in an option: in the same word from `start` on, or in the next word. With `after`, only the
/// part behind the user's name and that separator is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretOption {
    Here {
        start: usize,
        after: Option<u8>,
    },
    Next {
        after: Option<u8>,
    },
    /// The option asks for the secret or names its source, so the word holds no secret.
    NotSecret,
}

/// A program with known options; empty for an unknown program.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProgramOptions(Option<&'static ProgramRules>);

/// The options of a program that take a secret.
#[derive(Debug)]
struct ProgramRules {
    /// Program names; a name that ends with `*` is a prefix.
    names: &'static [&'static str],
    options: &'static [(&'static str, Carries)],
}

/// The forms in which an option takes a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// `-pVALUE`, `-p VALUE`; for a long option `--name=VALUE`, `--name VALUE`.
    Value,
    /// Only `-pVALUE`: without a value the program asks for the secret.
    Joined,
    /// Only `-pass VALUE`: with more letters the word is another option.
    Next,
    /// As `Value`, with the user's name and this separator before the secret.
    User(u8),
}

use Carries::{Joined, Next, User, Value};

const KNOWN: &[ProgramRules] = &[
    ProgramRules { names: &["mysql*", "mariadb*"], options: &[("-p", Joined), ("--password", Joined)] },
    ProgramRules { names: &["sshpass"], options: &[("-p", Value)] },
    ProgramRules {
        names: &["curl"],
        options: &[
            ("-u", User(b':')),
            ("--user", User(b':')),
            ("-U", User(b':')),
            ("--proxy-user", User(b':')),
            ("--oauth2-bearer", Value),
            ("--pass", Value),
            ("--proxy-pass", Value),
            ("-b", Value),
        ],
    },
    ProgramRules {
        names: &["redis-*", "valkey-*"],
        options: &[("-a", Next), ("--requirepass", Next), ("--masterauth", Next)],
    },
    ProgramRules { names: &["mongo*"], options: &[("-p", Value)] },
    ProgramRules { names: &["ldap*"], options: &[("-w", Value)] },
    ProgramRules {
        names: &["smbclient", "rpcclient", "net", "smbget"],
        options: &[("-U", User(b'%')), ("--user", User(b'%'))],
    },
    ProgramRules { names: &["7z", "7za", "7zr", "7zz"], options: &[("-p", Joined)] },
    ProgramRules { names: &["rar", "unrar"], options: &[("-hp", Joined), ("-p", Joined)] },
    ProgramRules { names: &["zip", "unzip"], options: &[("-P", Value)] },
    ProgramRules {
        names: &["openssl"],
        options: &[("-k", Next), ("-K", Next), ("-pass", Next), ("-passin", Next), ("-passout", Next), ("-hmac", Next)],
    },
    ProgramRules {
        names: &["docker", "podman", "nerdctl", "helm", "skopeo", "buildah", "crane", "oras"],
        options: &[("-p", Next), ("--creds", User(b':')), ("--src-creds", User(b':')), ("--dest-creds", User(b':'))],
    },
    ProgramRules { names: &["sqlcmd", "bcp", "osql", "tsql"], options: &[("-P", Value)] },
    ProgramRules { names: &["ipmitool"], options: &[("-P", Value)] },
    ProgramRules { names: &["rdesktop", "xfreerdp*", "wlfreerdp"], options: &[("/p:", Joined), ("-p", Value)] },
    ProgramRules { names: &["snmp*"], options: &[("-c", Value), ("-A", Value), ("-X", Value)] },
    ProgramRules { names: &["lftp"], options: &[("-u", User(b',')), ("--user", User(b','))] },
    ProgramRules { names: &["ncftp*"], options: &[("-p", Value)] },
    ProgramRules { names: &["http", "https", "xh"], options: &[("-a", User(b':')), ("--auth", User(b':'))] },
    ProgramRules { names: &["kubectl", "oc"], options: &[("--from-literal", User(b'='))] },
    ProgramRules { names: &["useradd", "usermod"], options: &[("-p", Value)] },
    ProgramRules { names: &["htpasswd"], options: &[] },
    // Listed without options: their similar options carry no secrets.
    ProgramRules {
        names: &[
            "ssh", "scp", "sftp", "rsync", "nmap", "nc", "ncat", "telnet", "ping", "psql", "mkdir", "cp", "tar", "ps",
            "python*", "perl", "ruby", "node", "java", "php*", "sh", "bash", "dash", "zsh", "ksh",
        ],
        options: &[],
    },
];

impl ProgramOptions {
    /// Finds the program by the last part of its path; `None` for an unknown program.
    pub(super) fn named(path: &[u8]) -> Option<Self> {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let first = name.first()?;
        // The first letter rules out most words.
        let is_it = |known: &str| {
            known.as_bytes().first() == Some(first)
                && match known.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning.as_bytes()) && is_plain(name),
                    None => name == known.as_bytes(),
                }
        };
        KNOWN.iter().find(|known| known.names.iter().any(|known| is_it(known))).map(|known| Self(Some(known)))
    }

    /// The place of the secret in this word, as an option of the program.
    pub(super) fn option(self, word: &[u8]) -> Option<SecretOption> {
        self.0?
            .options
            .iter()
            .find_map(|&(option, carries)| {
                let rest = word.strip_prefix(option.as_bytes())?;
                let after = match carries {
                    User(separator) => Some(separator),
                    _ => None,
                };
                match (rest, carries) {
                    (b"", Joined) => Some(SecretOption::NotSecret),
                    (b"", _) => Some(SecretOption::Next { after }),
                    ([b'=', ..], _) if option.starts_with("--") => {
                        Some(SecretOption::Here { start: option.len() + 1, after })
                    }
                    (_, Next) => None,
                    (_, _) if option.starts_with("--") => None,
                    (_, _) => Some(SecretOption::Here { start: option.len(), after }),
                }
            })
            .or_else(|| self.cluster(word))
    }

    /// `curl -sSu user:secret`: several letters in one word; the last takes the value.
    fn cluster(self, word: &[u8]) -> Option<SecretOption> {
        let is_cluster = self.is("curl") && word.len() <= 8 && word.starts_with(b"-") && !word.starts_with(b"--");
        let letters = word.get(1..).filter(|letters| is_cluster && letters.iter().all(u8::is_ascii_alphabetic))?;
        matches!(letters.last(), Some(b'u' | b'U')).then_some(SecretOption::Next { after: Some(b':') })
    }

    /// True when the position makes the last word a secret: `htpasswd -b FILE USER PASSWORD`.
    pub(super) fn last_is_secret<'a>(self, mut words: impl Iterator<Item = &'a [u8]>) -> bool {
        let has_b = |word: &[u8]| word.starts_with(b"-") && !word.starts_with(b"--") && word.contains(&b'b');
        self.is("htpasswd") && words.any(has_b)
    }

    fn is(self, name: &str) -> bool {
        self.0.is_some_and(|known| known.names.contains(&name))
    }
}

fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
}
