//! A connection to a broker for requests of its own, beside librdkafka: TLS, login, and requests with their answers as
//! streams, so that a large answer needs no memory.

use std::io::{self, BufReader, Read, Take, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use super::scram::Scram;
use super::{Mechanism, Sasl, Security, Tls};
use crate::secret::{Fault, read_public};

/// Time limit for a connection, and for each read and write.
const STEP_MAX: Duration = Duration::from_secs(30);
/// Bytes read from the connection at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Largest answer to a request of the login, bytes.
const LOGIN_BYTES_MAX: u64 = 64 << 10;

/// The kind of a request and the version of its format. All versions here have a header of version 1, and answers with
/// a header of version 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Number of the kind.
    pub key: i16,
    /// Version of the format.
    pub version: i16,
}

const SASL_HANDSHAKE: Api = Api { key: 17, version: 1 };
const SASL_AUTHENTICATE: Api = Api { key: 36, version: 0 };

/// A connection to a broker, after the login.
pub struct BrokerConnection {
    stream: BufReader<BrokerStream>,
    /// The name of this client in requests.
    client: &'static str,
    /// Number of the last request.
    request: i32,
}

impl std::fmt::Debug for BrokerConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerConnection").field("request", &self.request).finish_non_exhaustive()
    }
}

/// An answer: its bytes after the header. The answer must be read to its end before the next request.
pub type BrokerAnswer<'a> = Take<&'a mut dyn Read>;

enum BrokerStream {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Read for BrokerStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for BrokerStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl BrokerConnection {
    /// Connects to `host`:`port` and logs in, with the security settings of all clients. `client` is the name of this
    /// client in requests. Blocks.
    ///
    /// # Errors
    /// When the broker does not answer or refuses the client, or a file of the settings is unusable. The error is a
    /// text.
    pub fn open(host: &str, port: u16, security: &Security, client: &'static str) -> Result<Self, String> {
        let stream = dial(host, port).map_err(|error| format!("connect to {host}:{port}: {error}"))?;
        let stream = match &security.tls {
            None => BrokerStream::Plain(stream),
            Some(tls) => BrokerStream::Tls(Box::new(encrypt(host, stream, tls)?)),
        };
        let mut connection = Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream), client, request: 0 };
        if let Some(sasl) = &security.sasl {
            connection.log_in(sasl).map_err(|error| format!("log in at {host}:{port}: {error}"))?;
        }
        Ok(connection)
    }

    /// Sends a request and returns its answer.
    ///
    /// # Errors
    /// When the connection fails or the answer belongs to another request.
    pub fn request(&mut self, api: Api, body: &[u8]) -> io::Result<BrokerAnswer<'_>> {
        self.request = self.request.wrapping_add(1);
        let mut message = vec![0; 4];
        message.extend(api.key.to_be_bytes());
        message.extend(api.version.to_be_bytes());
        message.extend(self.request.to_be_bytes());
        put_text(&mut message, self.client);
        message.extend(body);
        let length = i32::try_from(message.len() - 4).map_err(io::Error::other)?;
        message[..4].copy_from_slice(&length.to_be_bytes());
        let stream = self.stream.get_mut();
        stream.write_all(&message)?;
        stream.flush()?;
        let length = take_i32(&mut self.stream)?;
        let number = take_i32(&mut self.stream)?;
        let left = u64::try_from(length).ok().and_then(|length| length.checked_sub(4));
        match left {
            Some(left) if number == self.request => Ok((&mut self.stream as &mut dyn Read).take(left)),
            _ => Err(io::Error::other("the answer belongs to another request")),
        }
    }

    fn log_in(&mut self, sasl: &Sasl) -> Result<(), String> {
        let password = sasl.read_password().map_err(|Fault { rule, .. }| rule)?;
        let mut body = Vec::new();
        put_text(&mut body, sasl.mechanism.name());
        let answer = self.ask(SASL_HANDSHAKE, &body)?;
        if answer.get(..2) != Some(&[0, 0]) {
            return Err(format!("the broker does not offer {}", sasl.mechanism.name()));
        }
        let digest = match sasl.mechanism {
            Mechanism::Plain => {
                let message = [b"\0", sasl.username.as_bytes(), b"\0", password.expose()].concat();
                return self.authenticate(&message).map(|_| ());
            }
            Mechanism::ScramSha256 => MessageDigest::sha256(),
            Mechanism::ScramSha512 => MessageDigest::sha512(),
        };
        let scram = Scram::new(digest, &sasl.username, &password)?;
        let proof = scram.prove(&self.authenticate(scram.first().as_bytes())?)?;
        proof.check(&self.authenticate(proof.message.as_bytes())?)
    }

    /// Sends a message of the login and returns the broker's message.
    fn authenticate(&mut self, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut body = i32::try_from(message.len()).map_err(|error| error.to_string())?.to_be_bytes().to_vec();
        body.extend(message);
        let answer = self.ask(SASL_AUTHENTICATE, &body)?;
        let mut answer = answer.as_slice();
        let failed = |error: io::Error| error.to_string();
        let code = take_i16(&mut answer).map_err(failed)?;
        let reason = take_text(&mut answer).map_err(failed)?;
        if code != 0 {
            return Err(format!("the broker refuses: {reason}"));
        }
        let length = usize::try_from(take_i32(&mut answer).map_err(failed)?).unwrap_or(0);
        answer.get(..length).map(<[u8]>::to_vec).ok_or_else(|| "the broker's message is cut".to_owned())
    }

    /// Sends a request of the login and returns the whole answer.
    fn ask(&mut self, api: Api, body: &[u8]) -> Result<Vec<u8>, String> {
        let answer = self.request(api, body).map_err(|error| error.to_string())?;
        if answer.limit() > LOGIN_BYTES_MAX {
            return Err(format!("the broker's answer has {} bytes", answer.limit()));
        }
        let mut bytes = Vec::new();
        let mut answer = answer;
        answer.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_MAX / 3) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP_MAX))?;
                stream.set_write_timeout(Some(STEP_MAX))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes the TLS handshake. The broker's certificate and its name are always verified.
fn encrypt(host: &str, stream: TcpStream, tls: &Tls) -> Result<SslStream<TcpStream>, String> {
    let stack = |error: openssl::error::ErrorStack| error.to_string();
    let mut connector = SslConnector::builder(SslMethod::tls_client()).map_err(stack)?;
    connector.set_verify(SslVerifyMode::PEER);
    if let Some(ca) = &tls.ca {
        // In place of the system's authorities, not in addition to them.
        let pem = read_public(ca).map_err(|Fault { rule, .. }| rule)?;
        let mut store = X509StoreBuilder::new().map_err(stack)?;
        for authority in X509::stack_from_pem(&pem).map_err(stack)? {
            store.add_cert(authority).map_err(stack)?;
        }
        connector.set_cert_store(store.build());
    }
    if let Some(own) = &tls.identity {
        connector.set_certificate_chain_file(&own.certificate).map_err(stack)?;
        connector.set_private_key_file(own.key.path(), SslFiletype::PEM).map_err(stack)?;
    }
    connector.build().connect(host, stream).map_err(|error| format!("TLS with {host}: {error}"))
}

/// Appends a text with its length, in Kafka's format.
pub fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Names of topics, clients and mechanisms have at most 255 bytes.
    bytes.extend(i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// Reads a number of two bytes.
///
/// # Errors
/// When the source ends or fails.
pub fn take_i16(source: &mut impl Read) -> io::Result<i16> {
    let mut bytes = [0; 2];
    source.read_exact(&mut bytes)?;
    Ok(i16::from_be_bytes(bytes))
}

/// Reads a number of four bytes.
///
/// # Errors
/// When the source ends or fails.
pub fn take_i32(source: &mut impl Read) -> io::Result<i32> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

/// Reads a number of eight bytes.
///
/// # Errors
/// When the source ends or fails.
pub fn take_i64(source: &mut impl Read) -> io::Result<i64> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    Ok(i64::from_be_bytes(bytes))
}

/// Reads a text with its length, in visible characters; no text is empty text.
fn take_text(source: &mut impl Read) -> io::Result<String> {
    let length = u64::try_from(take_i16(source)?).unwrap_or(0);
    let mut bytes = Vec::new();
    source.take(length).read_to_end(&mut bytes)?;
    Ok(edr_wire::visible(&bytes))
}
