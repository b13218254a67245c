//! Certificates for tests: an authority, and certificates signed by the authority.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

const DAY_SECONDS: i64 = 86_400;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
    dir: PathBuf,
    /// The authority's certificate as a PEM file.
    pub file: PathBuf,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key, readable only for its owner.
    pub key: PathBuf,
    /// Certificate and key in one file, the form needed by Kafka.
    pub both: PathBuf,
}

impl Authority {
    /// Makes a new authority with its files in `dir`.
    ///
    /// # Errors
    /// When OpenSSL fails, or when a file cannot be written.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let key = key()?;
        let mut builder = begin(name, (-1, 3650))?;
        builder.set_pubkey(&key)?;
        let own = X509NameBuilder::new().and_then(|mut own| {
            own.append_entry_by_nid(Nid::COMMONNAME, name)?;
            Ok(own.build())
        })?;
        builder.set_issuer_name(&own)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, certificate.to_pem()?).context("write an authority's certificate")?;
        Ok(Self { certificate, key, dir: dir.to_owned(), file })
    }

    /// Makes a certificate for `host`. `days` are the first and the last day of validity, counted from now.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn sign(&self, name: &str, host: &str, days: (i64, i64)) -> Result<Signed> {
        let key = key()?;
        let mut builder = begin(name, days)?;
        builder.set_pubkey(&key)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        let names =
            SubjectAlternativeName::new().dns(host).build(&builder.x509v3_context(Some(&self.certificate), None))?;
        builder.append_extension(names)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        let certificate = builder.build().to_pem()?;
        let key = key.private_key_to_pem_pkcs8()?;
        let write = |ending: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = self.dir.join(format!("{name}.{ending}"));
            std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            Ok(path)
        };
        Ok(Signed {
            certificate: write("crt", &certificate)?,
            key: write("key", &key)?,
            both: write("both", &[key, certificate].concat())?,
        })
    }
}

fn key() -> Result<PKey<Private>> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&curve)?)?)
}

fn begin(name: &str, (from, until): (i64, i64)) -> Result<X509Builder> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let at = |days: i64| Asn1Time::from_unix(i64::try_from(now).unwrap_or(0) + days * DAY_SECONDS);
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(127, openssl::bn::MsbOption::MAYBE_ZERO, false)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&subject.build())?;
    builder.set_not_before(at(from)?.as_ref())?;
    builder.set_not_after(at(until)?.as_ref())?;
    Ok(builder)
}
