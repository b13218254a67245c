//! Explanations of librdkafka's errors, with a remedy. librdkafka reports texts and few codes. The texts here are from
//! `rdkafka_broker.c`, `rdkafka_ssl.c` and `rdkafka_sasl*.c` of librdkafka 2; the end-to-end tests compare them with
//! the library.

use jiff::Timestamp;

use super::{Security, ask};

/// The cause of a failed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This side does not accept the broker's certificate.
    Certificate,
    /// The broker does not accept the client's certificate, or demands a certificate.
    OwnCertificate,
    /// The broker's port does not use TLS.
    NoTls,
    /// The broker's port uses TLS, or demands a login.
    WantsTls,
    /// The broker refuses the login.
    Login,
    /// The broker does not answer.
    Away,
}

impl Cause {
    /// True for a refusal by client or broker: waiting does not help.
    pub fn is_refusal(self) -> bool {
        self != Self::Away
    }
}

/// Returns the cause of an error text; `None` for an unknown text.
pub fn cause(reason: &str) -> Option<Cause> {
    let has = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    if has(&["certificate verify failed", "error:0A000086"]) {
        Some(Cause::Certificate)
    } else if has(&["connecting to a PLAINTEXT broker listener", "wrong version number", "packet length too long"]) {
        Some(Cause::NoTls)
    } else if has(&["alert number", "client SSL authentication might be required", "alert bad certificate"]) {
        Some(Cause::OwnCertificate)
    } else if has(&[
        "SASL authentication error",
        "SASL Handshake",
        "SASL mechanism",
        "SASL SCRAM",
        "Unsupported mechanism",
    ]) {
        Some(Cause::Login)
    } else if has(&["connecting to a SSL listener?", "might require SASL", "Invalid response size"]) {
        Some(Cause::WantsTls)
    } else if has(&[
        "Connect to ",
        "Failed to resolve",
        "Connection setup timed out",
        "Disconnected",
        "Connection refused",
    ]) {
        Some(Cause::Away)
    } else {
        None
    }
}

/// Returns the `host:port` at the start of an error text: `sasl_ssl://broker:9093/bootstrap: …`.
pub fn endpoint(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("://")?;
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    let address = rest[..end].trim_end_matches(':');
    address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()).map(|_| address)
}

/// Explains an error text in one sentence, with a remedy; `None` when the transport is not the cause. For a certificate
/// error this function connects to the broker and reads the certificate, which takes at most 4 s and the time of the
/// name lookup.
pub fn in_words(reason: &str, security: &Security) -> Option<String> {
    let broker = endpoint(reason).map_or_else(|| "a broker".to_owned(), |address| format!("broker {address}"));
    let user = security.sasl.as_ref().map(|sasl| (sasl.username.as_str(), sasl.mechanism.name()));
    match cause(reason)? {
        Cause::Certificate => {
            let tls = security.tls.as_ref()?;
            let address = endpoint(reason)?;
            let words = match ask(address, tls) {
                Ok(shown) => shown.in_words(address, tls, Timestamp::now()),
                Err(error) => Some(error),
            };
            Some(words.unwrap_or_else(|| format!("{broker} showed a certificate that was not accepted: {reason}")))
        }
        Cause::NoTls => Some(format!(
            "{broker} does not speak TLS on this port: name the port of its TLS listener in kafka.brokers, or write \
             enabled = false under [kafka.tls]"
        )),
        Cause::OwnCertificate => Some(match security.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            None => format!(
                "{broker} wants a certificate of this client: name one with kafka.tls.certificate-file and \
                 kafka.tls.key-file ({reason})"
            ),
            Some(own) => format!(
                "{broker} does not accept the certificate in {}: it is to be signed by an authority of its \
                 ssl.truststore, and not be expired ({reason})",
                own.certificate.display()
            ),
        }),
        Cause::Login => Some(match user {
            None => format!("{broker} wants a login: set kafka.sasl.mechanism, username and password ({reason})"),
            Some((user, mechanism)) => format!(
                "{broker} refuses user {user} with {mechanism}: look at kafka.sasl.username, the password behind {} \
                and the \
                 mechanism, or make the user on the brokers (kafka-configs.sh --alter --entity-type users)",
                security.sasl.as_ref().map_or(super::PASSWORD_FILE.name, |sasl| super::password_key(&sasl.password)),
            ),
        }),
        Cause::WantsTls => Some(format!(
            "{broker} ends connections that speak {}: it may want TLS (kafka.tls.enabled) or a login (kafka.sasl), or \
            be no \
             broker",
            security.summary()
        )),
        Cause::Away => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Tls;

    #[test]
    fn texts_of_librdkafka_have_their_cause() {
        for (reason, wanted) in [
            (
                "ssl://b:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified",
                Some(Cause::Certificate),
            ),
            (
                "ssl://b:9092/bootstrap: SSL handshake failed: Disconnected: connection closed by peer: connecting to \
                a \
                 PLAINTEXT broker listener? (after 3ms in state SSL_HANDSHAKE)",
                Some(Cause::NoTls),
            ),
            (
                "sasl_ssl://b:9094/bootstrap: SASL authentication error: Authentication failed during authentication \
                due to \
                 invalid credentials with SASL mechanism SCRAM-SHA-256",
                Some(Cause::Login),
            ),
            ("b:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused", Some(Cause::Away)),
            ("something new", None),
        ] {
            assert_eq!(cause(reason), wanted, "{reason}");
        }
    }

    #[test]
    fn a_reason_names_its_broker() {
        for (reason, wanted) in [
            ("ssl://kafka-1.example.org:9093/bootstrap: SSL", Some("kafka-1.example.org:9093")),
            ("sasl_ssl://[2001:db8::1]:9093/1: x", Some("[2001:db8::1]:9093")),
            ("ssl://b:9093: x", Some("b:9093")),
            ("GroupCoordinator: b:9093: x", None),
            ("ssl://: x", None),
            ("1/1 brokers are down", None),
        ] {
            assert_eq!(endpoint(reason), wanted, "{reason}");
        }
    }

    #[test]
    fn words_name_the_key_to_change() {
        let tls = Security { tls: Some(Tls::default()), sasl: None };
        let words = |reason: &str| in_words(reason, &tls).unwrap_or_default();
        assert!(words("ssl://b:1: wrong version number").contains("broker b:1 does not speak TLS on this port"));
        assert!(words("ssl://b:1: SSL alert number 116").contains("kafka.tls.certificate-file"));
        assert!(words("ssl://b:1: SASL Handshake failed").contains("kafka.sasl.mechanism"));
        assert_eq!(in_words("b:1: Connect to x failed", &tls), None);
    }
}
