//! Documents made of declared keys: the example file, the keys of the manual page, the effective configuration.

use std::fmt::Write as _;

use super::key::{Declared, Key, ShownValue, ValueKind};

/// Longest line of an example file, characters.
const LINE_CHARS_MAX: usize = 120;
/// Longest line of a manual page's source, characters.
const MANUAL_CHARS_MAX: usize = 72;

/// The keys of a daemon, for documents.
pub struct Document {
    /// The name of the daemon.
    pub daemon: &'static str,
    /// The comment at the top of the example file, one paragraph each.
    pub head: &'static [&'static str],
    /// All keys, in the order of the documents. Keys of one table stand together.
    pub keys: Vec<&'static dyn Declared>,
}

impl Document {
    /// Returns the example file: every key with its default, as a comment. `#key = value` is a default,
    /// `# key = value` an example of a key without a default.
    pub fn example_file(&self) -> String {
        let mut text = String::new();
        for (number, paragraph) in self.head.iter().enumerate() {
            text.push_str(if number > 0 { "#\n" } else { "" });
            comment(&mut text, paragraph);
        }
        let mut current = "";
        for key in &self.keys {
            text.push('\n');
            let (table, _) = parts(*key);
            if table != current {
                current = table;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "[{table}]");
            }
            comment(&mut text, &self.description(*key));
            for (name, value, is_default) in assignments(*key, self.daemon) {
                let _ = writeln!(text, "#{}{name} = {value}", if is_default { "" } else { " " });
            }
        }
        text
    }

    /// Returns the keys as the part of a manual page (mdoc(7)).
    pub fn manual(&self) -> String {
        let mut text = String::new();
        let mut current = None;
        for key in &self.keys {
            let (table, _) = parts(*key);
            if current != Some(table) {
                text.push_str(if current.is_some() { ".El\n" } else { "" });
                let heading =
                    if table.is_empty() { "Before any table".to_owned() } else { format!("Table [{}]", roff(table)) };
                let _ = writeln!(text, ".Ss {heading}\n.Bl -tag -width Ds");
                current = Some(table);
            }
            for (name, value, is_default) in assignments(*key, self.daemon) {
                let note = if is_default { "" } else { " Pq an example; no default" };
                let _ = writeln!(text, ".It Cm {} No = {}{note}", roff(&name), roff(&value));
            }
            for sentence in sentences(&self.description(*key)) {
                wrapped(&sentence, MANUAL_CHARS_MAX).iter().for_each(|line| {
                    let _ = writeln!(text, "{}", roff(line));
                });
            }
        }
        text + ".El\n"
    }

    /// The description with the range of values.
    fn description(&self, key: &dyn Declared) -> String {
        let doc = key.doc().replace("{daemon}", self.daemon);
        match key.range() {
            Some((min, max)) => format!("{doc} From {min} to {max}."),
            None => doc,
        }
    }
}

/// The table and the name inside the table.
fn parts(key: &dyn Declared) -> (&'static str, &'static str) {
    match key.shown() {
        ShownValue::Table(_) => (key.name(), ""),
        _ => key.name().rsplit_once('.').unwrap_or(("", key.name())),
    }
}

/// Name, value, and true for a default.
fn assignments(key: &dyn Declared, daemon: &str) -> Vec<(String, String, bool)> {
    let name = parts(key).1.to_owned();
    match key.shown() {
        ShownValue::Default(value) => vec![(name, value.replace("{daemon}", daemon), true)],
        ShownValue::Example(value) => vec![(name, value.replace("{daemon}", daemon), false)],
        ShownValue::Table(rows) => {
            rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned(), false)).collect()
        }
    }
}

fn comment(text: &mut String, paragraph: &str) {
    for line in wrapped(paragraph, LINE_CHARS_MAX - 2) {
        let _ = writeln!(text, "# {line}");
    }
}

/// Lines of at most `chars_max` characters, except for longer words.
fn wrapped(paragraph: &str, chars_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= chars_max => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Sentences, each for a new line of mdoc.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    for word in paragraph.split_whitespace() {
        let begins = word.starts_with(|first: char| first.is_uppercase() || first == '`');
        match sentences.last_mut() {
            Some(sentence) if !(begins && sentence.ends_with(['.', ':'])) => {
                sentence.push_str(if sentence.is_empty() { "" } else { " " });
                sentence.push_str(word);
            }
            _ => sentences.push(word.to_owned()),
        }
    }
    sentences
}

/// Text that roff takes literally.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The effective configuration, in the form of a configuration file with the same meaning.
#[derive(Debug, Default)]
pub struct Effective(String);

impl Effective {
    /// Adds a key with its value.
    pub fn add<K: ValueKind>(&mut self, key: &Key<K>, value: &K::Value) {
        self.line(key.name, &key.kind.write(value));
    }

    /// Adds a key with its value, if there is a value.
    pub fn add_some<K: ValueKind>(&mut self, key: &Key<K>, value: Option<&K::Value>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    /// Adds a name of the operator's own table.
    pub fn add_label<K: ValueKind>(&mut self, key: &Key<K>, name: &str, value: &K::Value) {
        self.line(&format!("{}.{}", key.name, super::quoted(name)), &key.kind.write(value));
    }

    /// Returns the file.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, name: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name} = {value}");
    }
}
