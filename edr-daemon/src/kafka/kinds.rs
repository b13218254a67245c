//! The kinds of values of the keys `kafka.tls.*` and `kafka.sasl.*`.

use super::Mechanism;
use crate::config::{Refusal, ShownValue, Value, ValueKind, quoted};

/// The name of a credential: systemd accepts file names (systemd.exec(5)).
pub(super) struct CredentialName {
    /// A name for the documents.
    pub(super) example: &'static str,
}

impl ValueKind for CredentialName {
    type Value = String;

    fn check(&self, raw: &Value) -> Result<String, Refusal> {
        match raw {
            Value::Text(name)
                if (1..=255).contains(&name.len())
                    && !name.starts_with('.')
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) =>
            {
                Ok(name.clone())
            }
            _ => Err(Refusal {
                rule: "must be the name of a credential: letters, digits, '.', '_' and '-'".to_owned(),
                remedy: "write the name that LoadCredential= of the unit has before its colon".to_owned(),
            }),
        }
    }

    fn write(&self, value: &String) -> String {
        quoted(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Example(quoted(self.example))
    }
}

/// The kind of a login.
pub(super) struct MechanismName;

impl ValueKind for MechanismName {
    type Value = Mechanism;

    fn check(&self, raw: &Value) -> Result<Mechanism, Refusal> {
        let found = match raw {
            Value::Text(text) => Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == text),
            _ => None,
        };
        found.ok_or_else(|| Refusal {
            rule: "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512".to_owned(),
            remedy: "write the one that the brokers have this user under".to_owned(),
        })
    }

    fn write(&self, value: &Mechanism) -> String {
        quoted(value.name())
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Example(quoted(Mechanism::ScramSha512.name()))
    }
}

/// The name of a user on the brokers.
pub(super) struct Username;

impl ValueKind for Username {
    type Value = String;

    fn check(&self, raw: &Value) -> Result<String, Refusal> {
        match raw {
            Value::Text(text) if (1..=255).contains(&text.len()) && !text.contains(char::is_control) => {
                Ok(text.clone())
            }
            _ => Err(Refusal {
                rule: "must be text of 1 to 255 bytes".to_owned(),
                remedy: "write the name of the user on the brokers".to_owned(),
            }),
        }
    }

    fn write(&self, value: &String) -> String {
        quoted(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Example(quoted("{daemon}"))
    }
}
