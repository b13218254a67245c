//! The declaration of a key. The parser, the effective configuration, the example file and the manual page derive from
//! this declaration.

use super::leaves::Value;

/// A key of a configuration file.
#[derive(Debug)]
pub struct Key<K> {
    /// The name with its tables: `kafka.topic`.
    pub name: &'static str,
    /// The description for people, one paragraph. `{daemon}` stands for the name of the daemon. The range of values is
    /// added by [`super::Document`].
    pub doc: &'static str,
    /// The kind of value, with default and range.
    pub kind: K,
}

/// A kind of value: how a value is read, written and shown.
pub trait ValueKind: Sync {
    /// The checked value.
    type Value;

    /// Checks a value of a file.
    ///
    /// # Errors
    /// The rule for a valid value, and a remedy.
    fn check(&self, raw: &Value) -> Result<Self::Value, Refusal>;

    /// Returns a value in the form of a configuration file.
    fn write(&self, value: &Self::Value) -> String;

    /// Returns the default, or an example, for people.
    fn shown(&self) -> ShownValue;

    /// Returns the smallest and the largest value, for people.
    fn range(&self) -> Option<(String, String)> {
        None
    }
}

/// A kind of value with a default.
pub trait KindWithDefault: ValueKind {
    /// Returns the default.
    fn default(&self) -> Self::Value;
}

/// A value for people, in the form of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownValue {
    /// The default.
    Default(String),
    /// An example of a key without a default.
    Example(String),
    /// Examples of names and values in a table of the operator's own names.
    Table(&'static [(&'static str, &'static str)]),
}

/// The reason why a value is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule for a valid value.
    pub rule: String,
    /// A valid value, or another remedy.
    pub remedy: String,
}

/// A declared key of any kind, for lists and documents.
pub trait Declared: Sync {
    /// The name with its tables.
    fn name(&self) -> &'static str;
    /// The description; see [`Key::doc`].
    fn doc(&self) -> &'static str;
    /// See [`ValueKind::shown`].
    fn shown(&self) -> ShownValue;
    /// See [`ValueKind::range`].
    fn range(&self) -> Option<(String, String)>;
}

impl<K: ValueKind> Declared for Key<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn shown(&self) -> ShownValue {
        self.kind.shown()
    }

    fn range(&self) -> Option<(String, String)> {
        self.kind.range()
    }
}
