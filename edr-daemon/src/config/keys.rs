//! The keys of a configuration: each method takes one key and checks its value.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::leaves::{self, Leaf, Leaves, Value};
use super::report::{Problem, Report};
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

/// Limit of labels in a configuration.
const LABELS_MAX: usize = 64;

/// The values not taken so far, and the problems found so far.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    known: Vec<&'static str>,
    leaves: Leaves,
    report: Report,
}

/// The reason why a value is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule for a valid value.
    pub rule: String,
    /// A valid value, or another remedy.
    pub remedy: String,
}

impl Keys {
    /// Reads `path` and the `conf.d/*.toml` beside it. `known` lists all valid keys (`kafka.topic`): [`Keys::finish`]
    /// refuses every key that no method took, with the nearest known key as a hint.
    pub fn load(path: &Path, known: &[&'static str]) -> Self {
        let mut report = Report::default();
        let leaves = leaves::load(path, &mut report);
        Self { path: path.to_path_buf(), known: known.to_vec(), leaves, report }
    }

    /// Refuses the keys that were not taken.
    ///
    /// # Errors
    /// Every problem of every file, in one report.
    pub fn finish(mut self) -> Result<(), Report> {
        self.refuse_the_rest();
        if self.report.is_empty() { Ok(()) } else { Err(self.report) }
    }

    /// Adds a problem between values that are valid alone but not together.
    pub fn refuse_together(&mut self, key: &str, value: String, rule: String, remedy: &str) {
        self.report.add(Problem {
            file: self.path.clone(),
            line: None,
            key: key.to_owned(),
            value,
            rule,
            remedy: remedy.to_owned(),
        });
    }

    /// Takes the value of `key` through `parse`; `None` when the key is absent or its value is refused.
    pub fn take<T>(&mut self, key: &str, parse: impl FnOnce(&Value) -> Result<T, Refusal>) -> Option<T> {
        let leaf = self.leaves.remove(key)?;
        match parse(&leaf.value) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(key, &leaf, refusal);
                None
            }
        }
    }

    fn refuse(&mut self, key: &str, leaf: &Leaf, refusal: Refusal) {
        self.report.add(Problem {
            file: leaf.file.clone(),
            line: Some(leaf.line),
            key: key.to_owned(),
            value: leaf.text.clone(),
            rule: refusal.rule,
            remedy: refusal.remedy,
        });
    }

    /// Takes a time with its unit, within `range`.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        let refusal = || Refusal {
            rule: format!("must be a time between {low} and {high}, with its unit: ms, s, m, h or d"),
            remedy: format!("write \"{}\" for the default", show_duration(default)),
        };
        let parse = |value: &Value| match value {
            Value::Text(text) => parse_duration(text).filter(|time| range.contains(time)).ok_or_else(refusal),
            _ => Err(refusal()),
        };
        self.take(key, parse).unwrap_or(default)
    }

    /// Takes a size with its unit, within `range`.
    pub fn bytes(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (show_bytes(*range.start()), show_bytes(*range.end()));
        let refusal = || Refusal {
            rule: format!("must be a size between {low} and {high}, with its unit: KiB, MiB or GiB"),
            remedy: format!("write \"{}\" for the default", show_bytes(default)),
        };
        let parse = |value: &Value| match value {
            Value::Text(text) => parse_bytes(text).filter(|bytes| range.contains(bytes)).ok_or_else(refusal),
            _ => Err(refusal()),
        };
        self.take(key, parse).unwrap_or(default)
    }

    /// Takes a number within `range`.
    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let refusal = || Refusal {
            rule: format!("must be a number between {} and {}", range.start(), range.end()),
            remedy: format!("write {default} for the default"),
        };
        let parse = |value: &Value| match value {
            Value::Integer(number) => {
                u64::try_from(*number).ok().filter(|number| range.contains(number)).ok_or_else(refusal)
            }
            _ => Err(refusal()),
        };
        self.take(key, parse).unwrap_or(default)
    }

    /// Takes `true` or `false`.
    pub fn switch(&mut self, key: &str, default: bool) -> bool {
        let parse = |value: &Value| match value {
            Value::Switch(on) => Ok(*on),
            _ => Err(Refusal {
                rule: "must be true or false, without quotes".to_owned(),
                remedy: format!("write {default} for the default"),
            }),
        };
        self.take(key, parse).unwrap_or(default)
    }

    /// Takes an absolute path.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key, |value| match value {
            Value::Text(text) if text.starts_with('/') && !text.contains('\0') => Ok(PathBuf::from(text)),
            _ => Err(Refusal {
                rule: "must be an absolute path".to_owned(),
                remedy: "write it in quotes, from the first /".to_owned(),
            }),
        })
    }

    /// Takes a level of the log.
    pub fn log_level(&mut self, key: &str) -> Option<log::LevelFilter> {
        self.take(key, |value| {
            let level = match value {
                Value::Text(text) => log::LevelFilter::from_str(text).ok(),
                _ => None,
            };
            level.filter(|level| *level != log::LevelFilter::Off).ok_or_else(|| Refusal {
                rule: "must be error, warn, info, debug or trace".to_owned(),
                remedy: "write \"info\" for the default".to_owned(),
            })
        })
    }

    /// Takes the name of a Kafka topic.
    pub fn topic(&mut self, key: &str) -> Option<String> {
        self.take(key, |value| match value {
            Value::Text(text) if is_topic(text) => Ok(text.clone()),
            _ => Err(Refusal {
                rule: "must be the name of a topic: 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
                    .to_owned(),
                remedy: "write \"edr.snapshots\" for the default".to_owned(),
            }),
        })
    }

    /// True when a file has a value for `key` that was not taken yet.
    pub fn is_set(&self, key: &str) -> bool {
        self.leaves.contains_key(key)
    }

    /// Takes the addresses of Kafka brokers, at least one. There is no default: an absent key is a problem. The report
    /// names the line where the file has the key commented out, so that the user of a new package finds the place to
    /// edit.
    pub fn brokers(&mut self, key: &str) -> Vec<String> {
        let refusal = || Refusal {
            rule: "must be a list of one or more \"host:port\"".to_owned(),
            remedy: "write [\"HOST:PORT\"], for example with port 9092".to_owned(),
        };
        if !self.is_set(key) {
            let line = leaves::commented_line(&self.path, key);
            let place = if line.is_some() { "there" } else { "under [kafka]" };
            self.report.add(Problem {
                file: self.path.clone(),
                line,
                key: key.to_owned(),
                value: String::new(),
                rule: "is not set, and there is no default for where Kafka is".to_owned(),
                remedy: format!("write brokers = [\"HOST:PORT\"] {place}"),
            });
        }
        let parse = |value: &Value| {
            let Value::List(values) = value else { return Err(refusal()) };
            let broker = |value: &Value| match value {
                Value::Text(text) if is_broker(text) => Ok(text.clone()),
                _ => Err(refusal()),
            };
            let brokers = values.iter().map(broker).collect::<Result<Vec<_>, _>>()?;
            if brokers.is_empty() { Err(refusal()) } else { Ok(brokers) }
        };
        self.take(key, parse).unwrap_or_default()
    }

    /// Takes the operator's own names and values under `[labels]`.
    pub fn labels(&mut self) -> BTreeMap<String, String> {
        let names: Vec<String> = self.leaves.keys().filter(|key| key.starts_with("labels.")).cloned().collect();
        let mut labels = BTreeMap::new();
        for key in names {
            let name = key.strip_prefix("labels.").unwrap_or(&key).to_owned();
            let named = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let full = labels.len() >= LABELS_MAX;
            let value = self.take(&key, |value| match value {
                Value::Text(text) if named && !full && text.len() <= 256 => Ok(text.clone()),
                _ => Err(Refusal {
                    rule: format!(
                        "must be text of at most 256 bytes under a name of letters, digits, '.', '_' and '-', \
                         and there may be {LABELS_MAX} labels"
                    ),
                    remedy: "write site = \"berlin-1\" under [labels]".to_owned(),
                }),
            });
            if let Some(value) = value {
                labels.insert(name, value);
            }
        }
        labels
    }

    /// Refuses all remaining keys as unknown.
    fn refuse_the_rest(&mut self) {
        for (key, leaf) in std::mem::take(&mut self.leaves) {
            let is_table = self.known.iter().any(|known| known.starts_with(&format!("{key}.")) || *known == key);
            let (rule, remedy) = if is_table {
                ("is a table".to_owned(), format!("write [{key}] and its keys under it"))
            } else {
                let hint = nearest(&self.known, &key).map(|known| format!("did you mean {known}?"));
                ("is no key of this file".to_owned(), hint.unwrap_or_else(|| "remove it".to_owned()))
            };
            self.refuse(&key, &leaf, Refusal { rule, remedy });
        }
    }
}

fn is_topic(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// True for `host:port`, `192.0.2.1:9092`, `[2001:db8::1]:9092`.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The known key with the smallest edit distance, when the distance is at most 3.
fn nearest(known: &[&'static str], key: &str) -> Option<&'static str> {
    let candidates = known.iter().map(|known| (edits(key.as_bytes(), known.as_bytes()), *known));
    candidates.min().filter(|(edits, _)| *edits <= 3).map(|(_, known)| known)
}

/// Levenshtein distance of two short texts; only the first 64 bytes of `a` count.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
