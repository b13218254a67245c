//! The raw values of the configuration files, each with its key, file and line. Nothing is checked yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::de::{DeTable, DeValue};

use super::report::{Problem, Report};

/// Largest size of a configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a value repeated in a report.
const VALUE_CHARS_MAX: usize = 80;

/// A value of a file.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    /// The value as written in the file.
    pub(super) text: String,
    pub(super) value: Value,
}

/// The kinds of configuration values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Switch(bool),
    /// A list.
    List(Vec<Value>),
    /// A kind that no key accepts, by name.
    Other(&'static str),
}

/// Values by key, like `kafka.topic`. When several files set a key, the value of the last file counts.
pub(super) type Leaves = BTreeMap<String, Leaf>;

/// Reads `path`, then `conf.d/*.toml` beside it in the order of their names.
pub(super) fn load(path: &Path, report: &mut Report) -> Leaves {
    let mut leaves = Leaves::new();
    let mut files = vec![path.to_path_buf()];
    files.extend(fragments(path, report));
    for file in files {
        match read(&file) {
            Ok(text) => parse(&file, &text, &mut leaves, report),
            Err(error) => report.add(whole_file(&file, format!("cannot be read: {error}"), &remedy(&error))),
        }
    }
    leaves
}

/// Returns the line, from 1, where a file has `key` commented out: `#name = …` or `# name = …` under its table.
pub(super) fn commented_line(file: &Path, key: &str) -> Option<usize> {
    let text = read(file).ok()?;
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = "";
    for (index, line) in text.lines().enumerate() {
        if let Some(header) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            current = header.trim();
        }
        let value = line.strip_prefix('#').and_then(|comment| comment.trim_start().strip_prefix(name));
        if current == table && value.is_some_and(|value| value.trim_start().starts_with('=')) {
            return Some(index + 1);
        }
    }
    None
}

fn fragments(path: &Path, report: &mut Report) -> Vec<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            report.add(whole_file(&dir, format!("cannot be read: {error}"), &remedy(&error)));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .filter(|file| !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort();
    files
}

fn read(file: &Path) -> io::Result<String> {
    let size = fs::metadata(file)?.len();
    if size > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes, {FILE_BYTES_MAX} are allowed")));
    }
    fs::read_to_string(file)
}

fn parse(file: &Path, text: &str, leaves: &mut Leaves, report: &mut Report) {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.add(Problem {
            line: error.span().map(|span| line_of(text, span.start)),
            ..whole_file(file, error.message().replace('\n', ", "), "write it as TOML: key = value")
        });
    }
    // After a syntax error the recovered rest is a guess, so its values are ignored.
    if errors.is_empty() {
        walk(file, text, "", table.get_ref(), leaves);
    }
}

fn walk(file: &Path, text: &str, prefix: &str, table: &DeTable<'_>, leaves: &mut Leaves) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            walk(file, text, &key, inner, leaves);
            continue;
        }
        // A value replaces the table of the same name from an earlier file.
        leaves.retain(|known, _| !known.starts_with(&format!("{key}.")));
        let leaf = Leaf {
            file: file.to_path_buf(),
            line: line_of(text, name.span().start),
            text: excerpt(text, value.span()),
            value: checked(value.get_ref()),
        };
        leaves.insert(key, leaf);
    }
}

fn checked(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("an integer beyond 64 bits"),
        },
        DeValue::Boolean(on) => Value::Switch(*on),
        DeValue::Array(values) => Value::List(values.iter().map(|value| checked(value.get_ref())).collect()),
        other => Value::Other(other.type_str()),
    }
}

fn whole_file(file: &Path, rule: String, remedy: &str) -> Problem {
    Problem {
        file: file.to_path_buf(),
        line: None,
        key: String::new(),
        value: String::new(),
        rule,
        remedy: remedy.to_owned(),
    }
}

fn remedy(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "create it, or name another with --config".to_owned(),
        io::ErrorKind::PermissionDenied => "make it readable for the user it runs as".to_owned(),
        _ => "mend or remove the file".to_owned(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count()
}

fn excerpt(text: &str, span: Range<usize>) -> String {
    let value = text.get(span).unwrap_or_default();
    let mut shown = edr_wire::visible(value.chars().take(VALUE_CHARS_MAX).collect::<String>().as_bytes());
    if value.chars().nth(VALUE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
