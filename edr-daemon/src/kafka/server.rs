//! The certificate of a broker. librdkafka reports only that a handshake failed; this module finds the cause, with
//! names and dates.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::{X509Ref, X509VerifyResult};
use parking_lot::Mutex;

use super::Tls;
use super::certificate::{Validity, name};

/// Time limit for connection and handshake together.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Limit of the shown names of a certificate.
const NAMES_MAX: usize = 8;
/// `X509_V_ERR_CERT_NOT_YET_VALID`, `X509_V_ERR_CERT_HAS_EXPIRED` and `X509_V_ERR_HOSTNAME_MISMATCH`,
/// `X509_V_ERR_IP_ADDRESS_MISMATCH` of x509_vfy.h.
const NOT_YET_VALID: i32 = 9;
const EXPIRED: i32 = 10;
const OTHER_NAME: [i32; 2] = [62, 64];

/// A broker's certificate, with the result of its verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerCertificate {
    /// Subject and period of validity.
    pub validity: Validity,
    /// Names and addresses for which the certificate is valid.
    pub names: Vec<String>,
    /// Name of the issuer.
    pub issuer: String,
    /// Result of the verification.
    pub verdict: CertificateVerdict,
}

/// Result of the verification of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateVerdict {
    /// Valid.
    Good,
    /// The certificate, or a certificate of its issuers, has expired; holds the expired certificate.
    Expired(Validity),
    /// The certificate, or a certificate of its issuers, is not valid yet; holds that certificate.
    NotYetValid(Validity),
    /// The certificate is for other names.
    OtherName,
    /// No trusted authority signed the certificate, or the signature is wrong; holds OpenSSL's message.
    Untrusted(String),
}

/// Makes a TLS handshake with `address` (`host:port`) as a client with `tls` would, and reads the certificate. No data
/// is sent.
///
/// # Errors
/// When the handshake fails: the broker does not answer, or does not use TLS. The error is a text.
pub fn ask(address: &str, tls: &Tls) -> Result<BrokerCertificate, String> {
    let deadline = Instant::now() + ANSWER_MAX;
    let stream = connect(address).map_err(|error| format!("connect to {address}: {error}"))?;
    let wrong = Arc::new(Mutex::new(None));
    let stack = |error: openssl::error::ErrorStack| error.to_string();
    let mut connector = SslConnector::builder(SslMethod::tls_client()).map_err(stack)?;
    if let Some(ca) = &tls.ca {
        connector.set_ca_file(ca).map_err(stack)?;
    }
    if let Some(own) = &tls.identity {
        connector.set_certificate_chain_file(&own.certificate).map_err(stack)?;
        connector.set_private_key_file(own.key.path(), SslFiletype::PEM).map_err(stack)?;
    }
    let first = Arc::clone(&wrong);
    // No data is sent over this connection, so the handshake may continue with a wrong certificate.
    connector.set_verify_callback(SslVerifyMode::PEER, move |is_good, context| {
        if !is_good {
            let validity = context.current_cert().map(Validity::of);
            let mut first = first.lock();
            first.get_or_insert((context.error(), validity));
        }
        true
    });
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let session = connector
        .build()
        .connect(host, DeadlineStream { stream, deadline })
        .map_err(|error| format!("{address} does not shake hands: {error}"))?;
    let certificate = session.ssl().peer_certificate().ok_or_else(|| format!("{address} shows no certificate"))?;
    let wrong = wrong.lock().take();
    let validity = Validity::of(&certificate);
    let verdict = match wrong {
        None => CertificateVerdict::Good,
        Some((error, whose)) => verdict(error, whose.unwrap_or_else(|| validity.clone())),
    };
    Ok(BrokerCertificate { names: names(&certificate), issuer: name(certificate.issuer_name()), validity, verdict })
}

fn verdict(error: X509VerifyResult, whose: Validity) -> CertificateVerdict {
    match error.as_raw() {
        EXPIRED => CertificateVerdict::Expired(whose),
        NOT_YET_VALID => CertificateVerdict::NotYetValid(whose),
        code if OTHER_NAME.contains(&code) => CertificateVerdict::OtherName,
        _ => CertificateVerdict::Untrusted(error.error_string().to_owned()),
    }
}

fn names(certificate: &X509Ref) -> Vec<String> {
    let Some(names) = certificate.subject_alt_names() else { return vec![name(certificate.subject_name())] };
    let text = |name: &openssl::x509::GeneralNameRef| {
        let address = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| std::net::IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::IpAddr::from(bytes).to_string()),
            _ => None,
        };
        let dns = name.dnsname().map(|name| edr_wire::visible(name.as_bytes()).chars().take(100).collect());
        dns.or_else(|| name.ipaddress().and_then(address))
    };
    names.iter().filter_map(text).take(NAMES_MAX).collect()
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()?.take(2) {
        match TcpStream::connect_timeout(&address, ANSWER_MAX / 4) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection with a deadline, which holds however slowly the peer sends.
#[derive(Debug)]
struct DeadlineStream {
    stream: TcpStream,
    deadline: Instant,
}

impl DeadlineStream {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buf)
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl BrokerCertificate {
    /// Explains the fault of the certificate, with a remedy; `None` without a fault. `address` is the address in
    /// `kafka.brokers`, `now` the time of this host.
    pub fn in_words(&self, address: &str, tls: &Tls, now: Timestamp) -> Option<String> {
        let Self { validity, names, issuer, verdict } = self;
        let second = |time: Option<Timestamp>| {
            let whole = time.and_then(|time| Timestamp::from_second(time.as_second()).ok());
            whole.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
        };
        let now = second(Some(now));
        let whose = |other: &Validity| {
            if other.subject == validity.subject {
                String::new()
            } else {
                format!(" of {}, which signed it,", other.subject)
            }
        };
        Some(match verdict {
            CertificateVerdict::Good => return None,
            CertificateVerdict::Expired(other) => format!(
                "the certificate{} that broker {address} shows expired at {}: renew it on the broker, or set the clock \
                of \
                 this host, which says {now}",
                whose(other),
                second(other.not_after)
            ),
            CertificateVerdict::NotYetValid(other) => format!(
                "the certificate{} that broker {address} shows is valid from {} on: set the clock of this host, which \
                says \
                 {now}, or that of the authority",
                whose(other),
                second(other.not_before)
            ),
            CertificateVerdict::OtherName => format!(
                "broker {address} shows a certificate for {} and not for this name: write a name of the certificate \
                into \
                 kafka.brokers and advertised.listeners, or give the broker a certificate with its name",
                names.join(", ")
            ),
            CertificateVerdict::Untrusted(why) => {
                let place = tls.ca.as_ref().map_or_else(
                    || "the authorities of this system (/etc/ssl/certs)".to_owned(),
                    |ca| format!("those in {}", ca.display()),
                );
                format!(
                    "broker {address} shows a certificate that {issuer} signed, none of {place} ({why}): name the file \
                    of \
                     that authority with kafka.tls.ca-file"
                )
            }
        })
    }
}
