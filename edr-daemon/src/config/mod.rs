//! Configuration: one TOML file, then `conf.d/*.toml` beside it in the order of their names. A later file overrides an
//! earlier file key by key.
//!
//! Raw → checked, once: [`Keys::load`] reads the raw values with the place of each, and each method of [`Keys`] takes
//! one key, checks its value and returns the exact type. All problems are collected in one [`Report`], each with file,
//! line, key, value, rule and remedy. For this reason no `Deserialize` derive is used: it stops at the first problem.

mod keys;
mod leaves;
mod report;
mod units;

pub use keys::{Keys, Refusal};
pub use leaves::Value;
pub use report::{Problem, Report};
pub use units::{show_bytes, show_duration};

/// Returns a text quoted as in TOML, for commands that print the effective configuration.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
