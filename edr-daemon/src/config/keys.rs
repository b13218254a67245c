//! The values of a configuration: each method takes the value of one declared key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::key::{Declared, Key, KindWithDefault, Refusal, ValueKind};
use super::kinds::{Brokers, Labels};
use super::leaves::{self, Leaf, Leaves, Value};
use super::report::{Problem, Report};

/// Limit of labels in a configuration.
const LABELS_MAX: usize = 64;

/// The values of the files not taken so far, and the problems found so far.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    known: Vec<&'static str>,
    leaves: Leaves,
    report: Report,
}

impl Keys {
    /// Reads `path` and the `conf.d/*.toml` beside it. `declared` lists all valid keys: [`Keys::finish`] refuses every
    /// key that no method took, with the nearest declared key as a hint.
    pub fn load(path: &Path, declared: &[&'static dyn Declared]) -> Self {
        let mut report = Report::default();
        let leaves = leaves::load(path, &mut report);
        Self { path: path.to_path_buf(), known: declared.iter().map(|key| key.name()).collect(), leaves, report }
    }

    /// Returns keys without a file: every key has its default.
    pub fn defaults() -> Self {
        Self { path: PathBuf::new(), known: Vec::new(), leaves: Leaves::new(), report: Report::default() }
    }

    /// Takes the value of a key; the default when the key is absent or its value is refused.
    pub fn get<K: KindWithDefault>(&mut self, key: &Key<K>) -> K::Value {
        self.find(key).unwrap_or_else(|| key.kind.default())
    }

    /// Takes the value of a key; `None` when the key is absent or its value is refused.
    pub fn find<K: ValueKind>(&mut self, key: &Key<K>) -> Option<K::Value> {
        self.check(key.name, |raw| key.kind.check(raw))
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

    fn check<T>(&mut self, key: &str, check: impl FnOnce(&Value) -> Result<T, Refusal>) -> Option<T> {
        let leaf = self.leaves.remove(key)?;
        match check(&leaf.value) {
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

    /// True when a file has a value for a key that was not taken yet.
    pub fn is_set(&self, key: &dyn Declared) -> bool {
        self.leaves.contains_key(key.name())
    }

    /// Takes the addresses of Kafka brokers. An absent key is a problem. The report names the line where the file has
    /// the key commented out, so that the user of a new package finds the place to edit.
    pub fn brokers(&mut self, key: &Key<Brokers>) -> Vec<String> {
        if !self.is_set(key) {
            let line = leaves::commented_line(&self.path, key.name);
            let place = if line.is_some() { "there" } else { "under [kafka]" };
            self.report.add(Problem {
                file: self.path.clone(),
                line,
                key: key.name.to_owned(),
                value: String::new(),
                rule: "is not set, and there is no default for where Kafka is".to_owned(),
                remedy: format!("write brokers = [\"HOST:PORT\"] {place}"),
            });
        }
        self.find(key).unwrap_or_default()
    }

    /// Takes the operator's own names and values, a table.
    pub fn labels(&mut self, key: &Key<Labels>) -> BTreeMap<String, String> {
        let table = format!("{}.", key.name);
        let names: Vec<String> = self.leaves.keys().filter(|key| key.starts_with(&table)).cloned().collect();
        let mut labels = BTreeMap::new();
        for full in names {
            let name = full.strip_prefix(&table).unwrap_or(&full).to_owned();
            let is_name = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let has_room = labels.len() < LABELS_MAX;
            let value = self.check(&full, |raw| match key.kind.check(raw) {
                Ok(value) if is_name && has_room => Ok(value),
                _ => Err(Refusal {
                    rule: format!(
                        "must be text of at most 256 bytes under a name of letters, digits, '.', '_' and '-', \
                         and there may be {LABELS_MAX} labels"
                    ),
                    remedy: format!("write site = \"berlin-1\" under [{}]", key.name),
                }),
            });
            labels.extend(value.map(|value| (name, value)));
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
