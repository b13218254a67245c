//! Certificates and private keys in PEM files, with their period of validity.

use std::path::Path;

use jiff::Timestamp;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameRef, X509Ref};

use crate::secret::Fault;

/// The certificates of a file, never empty.
pub(super) struct Pem(Vec<X509>);

impl Pem {
    /// Reads the certificates from the bytes of a file.
    pub(super) fn certificates(path: &Path, bytes: &[u8]) -> Result<Self, Fault> {
        let certificates = X509::stack_from_pem(bytes).unwrap_or_default();
        if certificates.is_empty() {
            return Err(Fault {
                rule: format!("{} holds no certificate in PEM", path.display()),
                remedy: "write it as -----BEGIN CERTIFICATE----- …; DER becomes that by: openssl x509 -inform DER"
                    .to_owned(),
            });
        }
        Ok(Self(certificates))
    }

    /// True when `key` is the key of the first certificate.
    pub(super) fn belongs_to(&self, key: &PKey<Private>) -> bool {
        let own = self.0.first().and_then(|first| first.public_key().ok());
        own.is_some_and(|own| own.public_eq(key))
    }

    pub(super) fn validities(&self) -> Vec<Validity> {
        self.0.iter().map(|certificate| Validity::of(certificate)).collect()
    }
}

/// Reads a private key. An encrypted key is refused: there is no password prompt.
pub(super) fn private_key(path: &Path, bytes: &[u8]) -> Result<PKey<Private>, Fault> {
    PKey::private_key_from_pem_callback(bytes, |_| Ok(0)).map_err(|_| Fault {
        rule: format!("{} holds no private key in PEM that is not encrypted", path.display()),
        remedy: "write it as -----BEGIN PRIVATE KEY----- …; decrypt it by: openssl pkey -in OLD -out NEW".to_owned(),
    })
}

/// The subject of a certificate and its period of validity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// The common name, or the organizational unit or organization instead.
    pub subject: String,
    /// Start of validity; `None` when unreadable.
    pub not_before: Option<Timestamp>,
    /// End of validity; `None` when unreadable.
    pub not_after: Option<Timestamp>,
}

impl Validity {
    pub(super) fn of(certificate: &X509Ref) -> Self {
        Self {
            subject: name(certificate.subject_name()),
            not_before: moment(certificate.not_before()),
            not_after: moment(certificate.not_after()),
        }
    }
}

/// The common name, or the organizational unit or organization instead; `no name` without any of the three.
pub(super) fn name(name: &X509NameRef) -> String {
    let text = |nid| {
        let entry = name.entries_by_nid(nid).next()?;
        entry.data().to_string().ok().map(|text| text.to_string())
    };
    let found = [Nid::COMMONNAME, Nid::ORGANIZATIONALUNITNAME, Nid::ORGANIZATIONNAME].into_iter().find_map(text);
    // A peer controls the name, so control characters are made visible.
    let shown = edr_wire::visible(found.unwrap_or_else(|| "no name".to_owned()).as_bytes());
    shown.chars().take(100).collect()
}

pub(super) fn moment(time: &Asn1TimeRef) -> Option<Timestamp> {
    let since = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    Timestamp::from_second(i64::from(since.days) * 86_400 + i64::from(since.secs)).ok()
}
