//! Security of the connection to Kafka: TLS, mutual TLS, SASL. Defines the keys `kafka.tls.*` and `kafka.sasl.*` of
//! both daemons, translates them to settings of librdkafka, and explains connection errors.
//!
//! Promises:
//! - A broker's certificate is always verified, including its name. No switch disables the verification.
//! - The configuration holds the places of secrets, never the secrets. Secrets are read when a client is made
//!   ([`Security::read`]), and read again when their files changed ([`Security::stamp`]).
//! - A password is sent over an unencrypted connection only when the configuration explicitly allows it
//!   (`kafka.sasl.without-tls`).

mod certificate;
mod connection;
mod kinds;
mod reason;
mod scram;
mod server;
mod topic;

use std::path::PathBuf;

use self::certificate::Pem;
pub use self::certificate::Validity;
pub use self::connection::{Api, BrokerAnswer, BrokerConnection, put_text, take_i16, take_i32, take_i64};
use self::kinds::{CredentialName, MechanismName, Username};
pub use self::reason::{Cause, cause, endpoint, in_words};
pub use self::server::{BrokerCertificate, CertificateVerdict, ask};
pub use self::topic::{BATCH_BYTES_MAX, RecordBytes, judge, judge_security};
use crate::config::kinds::{OptionalPath, Switch};
use crate::config::{Declared, Effective, Key, Keys};
use crate::secret::{Fault, Secret, Source, Stamp, read_public};

static TLS_ENABLED: Key<Switch> = Key {
    name: "kafka.tls.enabled",
    doc: "Whether the brokers' port speaks TLS. A broker's certificate is then always verified, with its name.",
    kind: Switch { default: false },
};
static CA_FILE: Key<OptionalPath> = Key {
    name: "kafka.tls.ca-file",
    doc: "Certificates, in PEM, of the authorities that may sign a broker's certificate. Without this key the \
          authorities of the system count.",
    kind: OptionalPath { example: "/etc/{daemon}/kafka-ca.pem" },
};
static CERTIFICATE_FILE: Key<OptionalPath> = Key {
    name: "kafka.tls.certificate-file",
    doc: "For brokers that ask for a certificate (mutual TLS): the certificate, then the certificates between it and \
          the authority, in PEM.",
    kind: OptionalPath { example: "/etc/{daemon}/kafka.crt" },
};
static KEY_FILE: Key<OptionalPath> = Key {
    name: "kafka.tls.key-file",
    doc: "The certificate's private key, not encrypted, in a file that not everybody may read: chmod 640, \
          chgrp {daemon}.",
    kind: OptionalPath { example: "/etc/{daemon}/kafka.key" },
};
static KEY_CREDENTIAL: Key<CredentialName> = Key {
    name: "kafka.tls.key-credential",
    doc: "Or the key as a credential of the unit, LoadCredential=kafka.key:… (systemd.exec(5)), in place of key-file.",
    kind: CredentialName { example: "kafka.key" },
};
static MECHANISM: Key<MechanismName> = Key {
    name: "kafka.sasl.mechanism",
    doc: "The kind of login: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, as the brokers have this user. Without this key \
          there is no login.",
    kind: MechanismName,
};
static USERNAME: Key<Username> =
    Key { name: "kafka.sasl.username", doc: "The name of the user on the brokers.", kind: Username };
static PASSWORD_FILE: Key<OptionalPath> = Key {
    name: "kafka.sasl.password-file",
    doc: "The password, one line in a file that not everybody may read: chmod 640, chgrp {daemon}. When the file \
          changes, the next connection uses the new password, without a restart.",
    kind: OptionalPath { example: "/etc/{daemon}/kafka.password" },
};
static PASSWORD_CREDENTIAL: Key<CredentialName> = Key {
    name: "kafka.sasl.password-credential",
    doc: "Or the password as a credential of the unit, LoadCredential=kafka.password:…, in place of password-file. \
          Another credential needs a restart, which loses nothing.",
    kind: CredentialName { example: "kafka.password" },
};
static WITHOUT_TLS: Key<Switch> = Key {
    name: "kafka.sasl.without-tls",
    doc: "Whether to log in without TLS, where everybody on the way can read and change the traffic: for a way that is \
          protected by other means.",
    kind: Switch { default: false },
};

/// The keys of this module, in the order of the documents.
pub const KEYS: &[&'static dyn Declared] = &[
    &TLS_ENABLED,
    &CA_FILE,
    &CERTIFICATE_FILE,
    &KEY_FILE,
    &KEY_CREDENTIAL,
    &MECHANISM,
    &USERNAME,
    &PASSWORD_FILE,
    &PASSWORD_CREDENTIAL,
    &WITHOUT_TLS,
];

/// The security settings of a Kafka client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// `[kafka.tls]`; `None` for unencrypted connections.
    pub tls: Option<Tls>,
    /// `[kafka.sasl]`; `None` for no login.
    pub sasl: Option<Sasl>,
}

/// The trusted authorities, and the client's own certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ca-file`: certificates of the authorities that may sign a broker's certificate; without this key the
    /// authorities of the system.
    pub ca: Option<PathBuf>,
    /// `certificate-file` and its key, for brokers that demand a certificate (mutual TLS).
    pub identity: Option<Identity>,
}

/// A certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `certificate-file`: the certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// `key-file` or `key-credential`: the private key, not encrypted.
    pub key: Source,
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `mechanism`.
    pub mechanism: Mechanism,
    /// `username`.
    pub username: String,
    /// `password-file` or `password-credential`.
    pub password: Source,
}

/// The SASL mechanism, by which a client proves its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself is sent (RFC 4616).
    Plain,
    /// Challenge and response (RFC 7677).
    ScramSha256,
    /// Challenge and response, with SHA-512.
    ScramSha512,
}

impl Mechanism {
    const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// The registered name of the SASL mechanism.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// An unusable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// The key that names the file.
    pub key: &'static str,
    /// Fault and remedy.
    pub fault: Fault,
}

impl std::fmt::Display for FileFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.fault.rule, self.fault.remedy)
    }
}

/// Settings for librdkafka, some of them secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    settings: Vec<(&'static str, String)>,
    password: Option<Secret>,
}

impl Settings {
    /// Passes each setting to `set`. The caller must not log the values.
    pub fn each(&self, mut set: impl FnMut(&str, &str)) {
        self.settings.iter().for_each(|(name, value)| set(name, value));
        if let Some(password) = &self.password {
            // The password was checked to be UTF-8 when it was read.
            set("sasl.password", std::str::from_utf8(password.expose()).unwrap_or_default());
        }
    }
}

impl Security {
    /// Takes the keys. `unit` is the service whose credentials are used.
    pub fn take(keys: &mut Keys, unit: &'static str) -> Self {
        let named = first_set(keys, &[&CA_FILE, &CERTIFICATE_FILE, &KEY_FILE, &KEY_CREDENTIAL]);
        let enabled = keys.get(&TLS_ENABLED);
        let ca = keys.find(&CA_FILE);
        let certificate = keys.find(&CERTIFICATE_FILE);
        let key = source(keys, &KEY_FILE, &KEY_CREDENTIAL, unit);
        if let Some(named) = named.filter(|_| !enabled) {
            let rule = "has no effect while kafka.tls.enabled is false".to_owned();
            keys.refuse_together(named, String::new(), rule, "write enabled = true under [kafka.tls], or remove it");
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                let rule = "is without its private key".to_owned();
                let remedy = "name it with kafka.tls.key-file or kafka.tls.key-credential";
                keys.refuse_together(CERTIFICATE_FILE.name, String::new(), rule, remedy);
                None
            }
            (None, Some(_)) => {
                let rule = "is not set, but its private key is".to_owned();
                keys.refuse_together(CERTIFICATE_FILE.name, String::new(), rule, "name the certificate");
                None
            }
        };
        let sasl = Self::take_sasl(keys, unit, enabled);
        Self { tls: enabled.then_some(Tls { ca, identity }), sasl }
    }

    /// Reads the files of the configuration. Each unusable file becomes a problem of the configuration.
    pub fn look(&self, keys: &mut Keys) {
        for FileFault { key, fault } in self.read().err().unwrap_or_default() {
            keys.refuse_together(key, String::new(), fault.rule, &fault.remedy);
        }
    }

    fn take_sasl(keys: &mut Keys, unit: &'static str, tls: bool) -> Option<Sasl> {
        let named = first_set(keys, &[&USERNAME, &PASSWORD_FILE, &PASSWORD_CREDENTIAL, &WITHOUT_TLS]);
        let has_mechanism = keys.is_set(&MECHANISM);
        let mechanism = keys.find(&MECHANISM);
        let username = keys.find(&USERNAME);
        let password = source(keys, &PASSWORD_FILE, &PASSWORD_CREDENTIAL, unit);
        let without_tls = keys.get(&WITHOUT_TLS);
        if !has_mechanism {
            if let Some(named) = named.filter(|named| *named != WITHOUT_TLS.name || without_tls) {
                let rule = "has no effect without kafka.sasl.mechanism".to_owned();
                keys.refuse_together(
                    named,
                    String::new(),
                    rule,
                    "write mechanism = \"SCRAM-SHA-512\" under [kafka.sasl]",
                );
            }
            return None;
        }
        for (key, is_there, remedy) in [
            (USERNAME.name, username.is_some(), "write username = \"…\" under [kafka.sasl]"),
            (
                PASSWORD_FILE.name,
                password.is_some(),
                "name a file with the password, or a credential with kafka.sasl.password-credential",
            ),
        ] {
            if !is_there && named != Some(key) {
                let rule = "is not set, and kafka.sasl.mechanism needs it".to_owned();
                keys.refuse_together(key, String::new(), rule, remedy);
            }
        }
        if !tls && !without_tls {
            keys.refuse_together(
                MECHANISM.name,
                String::new(),
                "would log in over a connection that everybody on the way can read and change".to_owned(),
                "write enabled = true under [kafka.tls]; or without-tls = true under [kafka.sasl], where the way is \
                 protected by other means",
            );
        }
        Some(Sasl { mechanism: mechanism?, username: username?, password: password? })
    }

    /// Reads every file and returns the settings for librdkafka.
    ///
    /// # Errors
    /// All unusable files.
    pub fn read(&self) -> Result<Settings, Vec<FileFault>> {
        let (mut settings, mut faults) = (Vec::new(), Vec::new());
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        settings.push(("security.protocol", protocol.to_owned()));
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        if let Some(tls) = &self.tls {
            settings.push(("ssl.endpoint.identification.algorithm", "https".to_owned()));
            if let Some(ca) = &tls.ca {
                if let Err(fault) = read_public(ca).and_then(|bytes| Pem::certificates(ca, &bytes)) {
                    faults.push(FileFault { key: CA_FILE.name, fault });
                }
                settings.push(("ssl.ca.location", text(ca)));
            }
            if let Some(identity) = &tls.identity {
                faults.extend(identity.faults());
                settings.push(("ssl.certificate.location", text(&identity.certificate)));
                settings.push(("ssl.key.location", text(&identity.key.path())));
            }
        }
        let mut password = None;
        if let Some(sasl) = &self.sasl {
            settings.push(("sasl.mechanism", sasl.mechanism.name().to_owned()));
            settings.push(("sasl.username", sasl.username.clone()));
            match sasl.read_password() {
                Ok(secret) => password = Some(secret),
                Err(fault) => faults.push(FileFault { key: password_key(&sasl.password), fault }),
            }
        }
        if faults.is_empty() { Ok(Settings { settings, password }) } else { Err(faults) }
    }

    /// The stamp of all files used by a client. When the stamp changes, a new client is needed.
    pub fn stamp(&self) -> Stamp {
        Stamp::of(&self.files())
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Some(tls) = &self.tls {
            files.extend(tls.ca.clone());
            files.extend(tls.identity.iter().flat_map(|own| [own.certificate.clone(), own.key.path()]));
        }
        files.extend(self.sasl.iter().map(|sasl| sasl.password.path()));
        files
    }

    /// Each certificate in the files, with the key that names its file. Unreadable files are left out:
    /// [`Security::read`] reports them.
    pub fn certificates(&self) -> Vec<(&'static str, Validity)> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let own = tls.identity.as_ref().map(|own| (CERTIFICATE_FILE.name, &own.certificate));
        let files = tls.ca.as_ref().map(|ca| (CA_FILE.name, ca)).into_iter().chain(own);
        let read = |(key, path): (&'static str, &PathBuf)| {
            let pem = Pem::certificates(path, &read_public(path).ok()?).ok()?;
            Some(pem.validities().into_iter().map(move |validity| (key, validity)))
        };
        files.filter_map(read).flatten().collect()
    }

    /// A short description for people: `in the clear`, `TLS`, `mutual TLS`, `TLS, SCRAM-SHA-512 as web-01`.
    pub fn summary(&self) -> String {
        let tls = match &self.tls {
            None => "in the clear",
            Some(Tls { identity: None, .. }) => "TLS",
            Some(Tls { identity: Some(_), .. }) => "mutual TLS",
        };
        match &self.sasl {
            None => tls.to_owned(),
            Some(sasl) => format!("{tls}, {} as {}", sasl.mechanism.name(), sasl.username),
        }
    }

    /// Adds the keys with their values.
    pub fn write(&self, effective: &mut Effective) {
        effective.add(&TLS_ENABLED, &self.tls.is_some());
        if let Some(tls) = &self.tls {
            effective.add_some(&CA_FILE, tls.ca.as_ref());
            if let Some(own) = &tls.identity {
                effective.add(&CERTIFICATE_FILE, &own.certificate);
                write_source(effective, &own.key, &KEY_FILE, &KEY_CREDENTIAL);
            }
        }
        if let Some(sasl) = &self.sasl {
            effective.add(&MECHANISM, &sasl.mechanism);
            effective.add(&USERNAME, &sasl.username);
            write_source(effective, &sasl.password, &PASSWORD_FILE, &PASSWORD_CREDENTIAL);
        }
        effective.add(&WITHOUT_TLS, &(self.sasl.is_some() && self.tls.is_none()));
    }
}

impl Identity {
    fn faults(&self) -> Vec<FileFault> {
        let certificate = read_public(&self.certificate).and_then(|bytes| Pem::certificates(&self.certificate, &bytes));
        let key = self.key.read().and_then(|secret| certificate::private_key(&self.key.path(), secret.expose()));
        let key_name = match self.key {
            Source::File(_) => KEY_FILE.name,
            Source::Credential { .. } => KEY_CREDENTIAL.name,
        };
        let mut faults = Vec::new();
        match (certificate, key) {
            (Ok(certificate), Ok(key)) if !certificate.belongs_to(&key) => {
                let rule = format!("is not the key of the first certificate in {}", self.certificate.display());
                let remedy = "put the certificate of this key first, or name its own key".to_owned();
                faults.push(FileFault { key: key_name, fault: Fault { rule, remedy } });
            }
            (certificate, key) => {
                let certificate = certificate.err().map(|fault| FileFault { key: CERTIFICATE_FILE.name, fault });
                faults.extend(certificate);
                faults.extend(key.err().map(|fault| FileFault { key: key_name, fault }));
            }
        }
        faults
    }
}

impl Sasl {
    /// Reads the password: the text of the file without the final line end.
    fn read_password(&self) -> Result<Secret, Fault> {
        let secret = self.password.read()?;
        let text = std::str::from_utf8(secret.expose()).ok();
        let text = text
            .map(|text| text.strip_suffix('\n').unwrap_or(text))
            .map(|text| text.strip_suffix('\r').unwrap_or(text));
        match text {
            Some(text) if !text.contains(char::is_control) => Ok(Secret::new(text.as_bytes().to_vec())),
            _ => Err(Fault {
                rule: format!("{} is not one line of text", self.password.path().display()),
                remedy: "write the password into it and nothing else".to_owned(),
            }),
        }
    }
}

fn password_key(source: &Source) -> &'static str {
    match source {
        Source::File(_) => PASSWORD_FILE.name,
        Source::Credential { .. } => PASSWORD_CREDENTIAL.name,
    }
}

/// The name of the first of some keys that is set.
fn first_set(keys: &Keys, among: &[&dyn Declared]) -> Option<&'static str> {
    among.iter().find(|key| keys.is_set(**key)).map(|key| key.name())
}

fn source(
    keys: &mut Keys,
    file: &Key<OptionalPath>,
    credential: &Key<CredentialName>,
    unit: &'static str,
) -> Option<Source> {
    let path = keys.find(file).map(Source::File);
    let name = keys.find(credential).map(|name| Source::Credential { unit, name });
    if path.is_some() && name.is_some() {
        let rule = format!("is set beside {}", file.name);
        keys.refuse_together(credential.name, String::new(), rule, "keep one of them");
    }
    path.or(name)
}

fn write_source(
    effective: &mut Effective,
    source: &Source,
    file: &Key<OptionalPath>,
    credential: &Key<CredentialName>,
) {
    match source {
        Source::File(path) => effective.add(file, path),
        Source::Credential { name, .. } => effective.add(credential, name),
    }
}
