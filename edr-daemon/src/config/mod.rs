//! Configuration: one TOML file, then `conf.d/*.toml` beside it in the order of their names, a later file over an
//! earlier one, key by key.
//!
//! Raw → checked, once: [`Keys::load`] reads what the files say with the place of every value, and each method of
//! [`Keys`] takes one key, checks it and gives its exact type. Nothing stops at the first problem: a person who edits a
//! file gets all of them in one [`Report`], each with file, line, key, value, rule and remedy. That is why no
//! `Deserialize` derive is used here: it stops at the first.

mod keys;
mod leaves;
mod report;
mod units;

pub use keys::{Keys, Refusal};
pub use leaves::Value;
pub use report::{Problem, Report};
pub use units::{show_bytes, show_duration};

/// A text as TOML writes it: for commands that print the effective configuration.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
