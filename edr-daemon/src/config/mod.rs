//! Configuration: one TOML file, then `conf.d/*.toml` beside it in the order of their names. A later file overrides an
//! earlier file key by key.
//!
//! Each key is declared once ([`Key`]): name, description, kind, default and range. The parser, the errors, the
//! effective configuration, the example file and the manual page derive from the declaration.
//!
//! Raw → checked, once: [`Keys::load`] reads the raw values with the place of each, and each method of [`Keys`] takes
//! one key, checks its value and returns the exact type. All problems are collected in one [`Report`], each with file,
//! line, key, value, rule and remedy. For this reason no `Deserialize` derive is used: it stops at the first problem.

mod document;
mod key;
mod keys;
pub mod kinds;
mod leaves;
mod report;
mod units;

pub use document::{Document, Effective};
pub use key::{Declared, Key, KindWithDefault, Refusal, ShownValue, ValueKind};
pub use keys::Keys;
pub use leaves::Value;
pub use report::{Problem, Report};
pub use units::{show_bytes, show_duration};

/// Returns a text quoted as in TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
