//! The kinds of values that several keys have.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use log::LevelFilter;

use super::key::{KindWithDefault, Refusal, ShownValue, ValueKind};
use super::leaves::Value;
use super::quoted;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

/// A time with its unit.
#[derive(Debug)]
pub struct Interval {
    /// The default.
    pub default: Duration,
    /// The shortest time.
    pub min: Duration,
    /// The longest time.
    pub max: Duration,
}

/// A number of bytes with its unit.
#[derive(Debug)]
pub struct Size {
    /// The default, bytes.
    pub default: u64,
    /// The smallest size, bytes.
    pub min: u64,
    /// The largest size, bytes.
    pub max: u64,
}

/// A whole number.
#[derive(Debug)]
pub struct Number {
    /// The default.
    pub default: u64,
    /// The smallest number.
    pub min: u64,
    /// The largest number.
    pub max: u64,
}

/// `true` or `false`.
#[derive(Debug)]
pub struct Switch {
    /// The default.
    pub default: bool,
}

/// An absolute path with a default.
#[derive(Debug)]
pub struct FixedPath {
    /// The default.
    pub default: &'static str,
}

/// An absolute path without a default.
#[derive(Debug)]
pub struct OptionalPath {
    /// A path for the documents.
    pub example: &'static str,
}

/// A list of texts, empty by default.
#[derive(Debug)]
pub struct Texts {
    /// Most texts.
    pub max: usize,
    /// Longest text, bytes.
    pub bytes_max: usize,
    /// One text, for the documents.
    pub example: &'static str,
}

/// A level of the log.
#[derive(Debug)]
pub struct LogLevel {
    /// The default.
    pub default: LevelFilter,
}

/// A name as Kafka knows names.
#[derive(Debug)]
pub struct KafkaName {
    /// The default.
    pub default: &'static str,
    /// The named thing, with its article: `a topic`.
    pub of: &'static str,
}

/// Addresses of Kafka brokers, at least one.
#[derive(Debug)]
pub struct Brokers;

/// The operator's own names and values.
#[derive(Debug)]
pub struct Labels;

fn refuse<T>(rule: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { rule: rule.into(), remedy: remedy.into() })
}

/// Refuses a value of a kind with a default.
fn refuse_for_default<K: KindWithDefault>(kind: &K, rule: String) -> Refusal {
    Refusal { rule, remedy: format!("write {} for the default", kind.write(&kind.default())) }
}

impl ValueKind for Interval {
    type Value = Duration;

    fn check(&self, raw: &Value) -> Result<Duration, Refusal> {
        let time = if let Value::Text(text) = raw { parse_duration(text) } else { None };
        time.filter(|time| (self.min..=self.max).contains(time)).ok_or_else(|| {
            let (min, max) = (show_duration(self.min), show_duration(self.max));
            refuse_for_default(self, format!("must be a time between {min} and {max}, with its unit: ms, s, m, h or d"))
        })
    }

    fn write(&self, value: &Duration) -> String {
        quoted(&show_duration(*value))
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default))
    }

    fn range(&self) -> Option<(String, String)> {
        Some((show_duration(self.min), show_duration(self.max)))
    }
}

impl KindWithDefault for Interval {
    fn default(&self) -> Duration {
        self.default
    }
}

impl ValueKind for Size {
    type Value = u64;

    fn check(&self, raw: &Value) -> Result<u64, Refusal> {
        let bytes = if let Value::Text(text) = raw { parse_bytes(text) } else { None };
        bytes.filter(|bytes| (self.min..=self.max).contains(bytes)).ok_or_else(|| {
            let (min, max) = (show_bytes(self.min), show_bytes(self.max));
            refuse_for_default(self, format!("must be a size between {min} and {max}, with its unit: KiB, MiB or GiB"))
        })
    }

    fn write(&self, value: &u64) -> String {
        quoted(&show_bytes(*value))
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default))
    }

    fn range(&self) -> Option<(String, String)> {
        Some((show_bytes(self.min), show_bytes(self.max)))
    }
}

impl KindWithDefault for Size {
    fn default(&self) -> u64 {
        self.default
    }
}

impl ValueKind for Number {
    type Value = u64;

    fn check(&self, raw: &Value) -> Result<u64, Refusal> {
        let number = if let Value::Integer(number) = raw { u64::try_from(*number).ok() } else { None };
        number
            .filter(|number| (self.min..=self.max).contains(number))
            .ok_or_else(|| refuse_for_default(self, format!("must be a number between {} and {}", self.min, self.max)))
    }

    fn write(&self, value: &u64) -> String {
        value.to_string()
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default))
    }

    fn range(&self) -> Option<(String, String)> {
        Some((self.min.to_string(), self.max.to_string()))
    }
}

impl KindWithDefault for Number {
    fn default(&self) -> u64 {
        self.default
    }
}

impl ValueKind for Switch {
    type Value = bool;

    fn check(&self, raw: &Value) -> Result<bool, Refusal> {
        match raw {
            Value::Switch(on) => Ok(*on),
            _ => Err(refuse_for_default(self, "must be true or false, without quotes".to_owned())),
        }
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default))
    }
}

impl KindWithDefault for Switch {
    fn default(&self) -> bool {
        self.default
    }
}

fn absolute(raw: &Value) -> Result<PathBuf, Refusal> {
    match raw {
        Value::Text(text) if text.starts_with('/') && !text.contains('\0') => Ok(PathBuf::from(text)),
        _ => refuse("must be an absolute path", "write it in quotes, from the first /"),
    }
}

/// A path in a file is UTF-8; a path of the command line may not be.
fn quoted_path(path: &std::path::Path) -> String {
    quoted(&path.to_string_lossy())
}

impl ValueKind for FixedPath {
    type Value = PathBuf;

    fn check(&self, raw: &Value) -> Result<PathBuf, Refusal> {
        absolute(raw)
    }

    fn write(&self, value: &PathBuf) -> String {
        quoted_path(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(quoted(self.default))
    }
}

impl KindWithDefault for FixedPath {
    fn default(&self) -> PathBuf {
        PathBuf::from(self.default)
    }
}

impl ValueKind for OptionalPath {
    type Value = PathBuf;

    fn check(&self, raw: &Value) -> Result<PathBuf, Refusal> {
        absolute(raw)
    }

    fn write(&self, value: &PathBuf) -> String {
        quoted_path(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Example(quoted(self.example))
    }
}

impl ValueKind for Texts {
    type Value = Vec<String>;

    fn check(&self, raw: &Value) -> Result<Vec<String>, Refusal> {
        let text = |value: &Value| match value {
            Value::Text(text) if (1..=self.bytes_max).contains(&text.len()) => Some(text.clone()),
            _ => None,
        };
        let texts = match raw {
            Value::List(values) if values.len() <= self.max => values.iter().map(text).collect(),
            _ => None,
        };
        texts.ok_or_else(|| Refusal {
            rule: format!("must be a list of up to {} texts of 1 to {} bytes", self.max, self.bytes_max),
            remedy: format!("write [{}], or [] for the default", quoted(self.example)),
        })
    }

    fn write(&self, value: &Vec<String>) -> String {
        let texts: Vec<String> = value.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default("[]".to_owned())
    }
}

impl KindWithDefault for Texts {
    fn default(&self) -> Vec<String> {
        Vec::new()
    }
}

impl ValueKind for LogLevel {
    type Value = LevelFilter;

    fn check(&self, raw: &Value) -> Result<LevelFilter, Refusal> {
        let level = if let Value::Text(text) = raw { LevelFilter::from_str(text).ok() } else { None };
        level
            .filter(|level| *level != LevelFilter::Off)
            .ok_or_else(|| refuse_for_default(self, "must be error, warn, info, debug or trace".to_owned()))
    }

    fn write(&self, value: &LevelFilter) -> String {
        quoted(&value.as_str().to_lowercase())
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(self.write(&self.default))
    }
}

impl KindWithDefault for LogLevel {
    fn default(&self) -> LevelFilter {
        self.default
    }
}

impl ValueKind for KafkaName {
    type Value = String;

    fn check(&self, raw: &Value) -> Result<String, Refusal> {
        match raw {
            Value::Text(text)
                if (1..=249).contains(&text.len())
                    && text != "."
                    && text != ".."
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) =>
            {
                Ok(text.clone())
            }
            _ => Err(refuse_for_default(
                self,
                format!("must be the name of {}: 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'", self.of),
            )),
        }
    }

    fn write(&self, value: &String) -> String {
        quoted(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Default(quoted(self.default))
    }
}

impl KindWithDefault for KafkaName {
    fn default(&self) -> String {
        self.default.to_owned()
    }
}

impl ValueKind for Brokers {
    type Value = Vec<String>;

    fn check(&self, raw: &Value) -> Result<Vec<String>, Refusal> {
        let broker = |value: &Value| match value {
            Value::Text(text) if is_broker(text) => Some(text.clone()),
            _ => None,
        };
        let brokers = match raw {
            Value::List(values) if !values.is_empty() => values.iter().map(broker).collect(),
            _ => None,
        };
        brokers.ok_or_else(|| Refusal {
            rule: "must be a list of one or more \"host:port\"".to_owned(),
            remedy: "write [\"HOST:PORT\"], for example with port 9092".to_owned(),
        })
    }

    fn write(&self, value: &Vec<String>) -> String {
        let brokers: Vec<String> = value.iter().map(|broker| quoted(broker)).collect();
        format!("[{}]", brokers.join(", "))
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Example("[\"HOST:PORT\"]".to_owned())
    }
}

/// True for `host:port`, `192.0.2.1:9092`, `[2001:db8::1]:9092`.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The value of one label.
impl ValueKind for Labels {
    type Value = String;

    fn check(&self, raw: &Value) -> Result<String, Refusal> {
        match raw {
            Value::Text(text) if text.len() <= 256 => Ok(text.clone()),
            _ => refuse("must be text of at most 256 bytes", "write site = \"berlin-1\" under [labels]"),
        }
    }

    fn write(&self, value: &String) -> String {
        quoted(value)
    }

    fn shown(&self) -> ShownValue {
        ShownValue::Table(&[("site", "\"vienna\""), ("role", "\"mail\"")])
    }
}
