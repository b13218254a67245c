//! The operator's view of `[kafka.tls]` and `[kafka.sasl]`: tests of the report for keys that contradict each other and
//! for unusable files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use edr_daemon::config::{Effective, Keys, Report};
use edr_daemon::kafka::{self, Security};
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::{X509, X509NameBuilder};

fn load(dir: &Path, text: &str) -> Result<Security, Report> {
    let path = dir.join("daemon.toml");
    fs::write(&path, format!("[kafka]\n{text}")).unwrap();
    let mut keys = Keys::load(&path, kafka::KEYS);
    let security = Security::take(&mut keys, "edr-daemon");
    security.look(&mut keys);
    keys.finish().map(|()| security)
}

fn refused(dir: &Path, text: &str) -> String {
    load(dir, text).unwrap_err().to_string()
}

fn key() -> PKey<Private> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap()
}

/// Returns a self-signed certificate, valid until 2030-01-02T03:04:05Z.
fn certificate(key: &PKey<Private>) -> Vec<u8> {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "evil\u{202e}\x1b[31m").unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&name.build()).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(1_893_553_445).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build().to_pem().unwrap()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_file_that_does_not_do_is_in_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write(&path("ca"), b"no certificate", 0o644);
    write(&path("crt"), &certificate(&key()), 0o644);
    write(&path("key"), &key().private_key_to_pem_pkcs8().unwrap(), 0o600);
    write(&path("open"), &key().private_key_to_pem_pkcs8().unwrap(), 0o644);
    write(&path("password"), b"hunter2\n", 0o604);
    let text = |key: &str| {
        format!(
            "tls.enabled = true\ntls.ca-file = {:?}\ntls.certificate-file = {:?}\ntls.key-file = {:?}\n\
             sasl.mechanism = \"PLAIN\"\nsasl.username = \"u\"\nsasl.password-file = {:?}\n",
            path("ca"),
            path("crt"),
            path(key),
            path("password")
        )
    };
    let shown = |name: &str| path(name).display().to_string();
    let report = refused(dir.path(), &text("key"));
    for wanted in [
        format!("kafka.tls.ca-file: {} holds no certificate in PEM", shown("ca")),
        format!("kafka.tls.key-file: is not the key of the first certificate in {}", shown("crt")),
        format!("kafka.sasl.password-file: {} is open to everybody, mode 604; run: chmod o= {0}", shown("password")),
    ] {
        assert!(report.contains(&wanted), "{wanted}\nis not in\n{report}");
    }
    assert!(report.starts_with("configuration: 3 problems"), "{report}");
    assert!(!report.contains("hunter2"), "{report}");
    let report = refused(dir.path(), &text("open"));
    assert!(report.contains(&format!("kafka.tls.key-file: {} is open to everybody", shown("open"))), "{report}");
}

#[test]
fn keys_that_do_not_fit_together_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    write(&password, b"hunter2\r\n", 0o600);
    let login = format!("sasl.username = \"u\"\nsasl.password-file = {password:?}\n");
    for (text, wanted) in [
        ("tls.ca-file = \"/x\"\n".to_owned(), "kafka.tls.ca-file: has no effect while kafka.tls.enabled is false"),
        ("tls.enabled = true\ntls.certificate-file = \"/x\"\n".to_owned(), "is without its private key"),
        ("tls.enabled = true\ntls.key-credential = \"/x\"\n".to_owned(), "must be the name of a credential"),
        (login.clone(), "kafka.sasl.username: has no effect without kafka.sasl.mechanism"),
        (format!("sasl.mechanism = \"GSSAPI\"\n{login}"), "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        (format!("sasl.mechanism = \"PLAIN\"\n{login}"), "everybody on the way can read and change"),
        ("tls.enabled = true\nsasl.mechanism = \"PLAIN\"\n".to_owned(), "kafka.sasl.username: is not set"),
        ("tls.enabled = true\nsasl.mechanism = \"PLAIN\"\n".to_owned(), "kafka.sasl.password-file: is not set"),
        (
            format!("tls.enabled = true\nsasl.mechanism = \"PLAIN\"\n{login}sasl.password-credential = \"p\"\n"),
            "kafka.sasl.password-credential: is set beside kafka.sasl.password-file",
        ),
        (
            "tls.enabled = true\nsasl.mechanism = \"PLAIN\"\nsasl.username = \"u\"\nsasl.password-credential = \"p\"\n"
                .to_owned(),
            "LoadCredential=p:/etc/edr-daemon/p",
        ),
    ] {
        let report = refused(dir.path(), &text);
        assert!(report.contains(wanted), "{wanted}\nis not in\n{report}");
    }
    let allowed = load(dir.path(), &format!("sasl.mechanism = \"PLAIN\"\nsasl.without-tls = true\n{login}")).unwrap();
    let mut settings = Vec::new();
    allowed.read().unwrap().each(|name, value| settings.push(format!("{name}={value}")));
    assert!(settings.contains(&"security.protocol=sasl_plaintext".to_owned()), "{settings:?}");
    assert!(settings.contains(&"sasl.password=hunter2".to_owned()), "{settings:?}");
    let mut effective = Effective::default();
    allowed.write(&mut effective);
    for shown in [format!("{:?}", allowed.read().unwrap()), format!("{allowed:?}"), effective.into_text()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let own = key();
    let path = |name: &str| dir.path().join(name);
    write(&path("crt"), &certificate(&own), 0o644);
    write(&path("key"), &own.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"password").unwrap(), 0o600);
    let text =
        format!("tls.enabled = true\ntls.certificate-file = {:?}\ntls.key-file = {:?}\n", path("crt"), path("key"));
    assert!(refused(dir.path(), &text).contains("holds no private key in PEM that is not encrypted"));
    write(&path("key"), &own.private_key_to_pem_pkcs8().unwrap(), 0o600);
    let security = load(dir.path(), &text).unwrap();
    let (key, validity) = &security.certificates()[0];
    assert_eq!(*key, "kafka.tls.certificate-file");
    assert_eq!(validity.not_after.unwrap().to_string(), "2030-01-02T03:04:05Z");
    assert!(validity.subject.starts_with("evil\\"), "{}", validity.subject);
    assert_eq!(security.stamp(), security.stamp());
    let before = security.stamp();
    write(&path("key"), b"other", 0o600);
    assert!(security.stamp() != before);
    assert_eq!(security.read().unwrap_err().len(), 1);
}
