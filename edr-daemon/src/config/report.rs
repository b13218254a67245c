//! The report of all problems of a configuration.

use std::fmt;
use std::path::PathBuf;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1; `None` when the problem concerns the whole file.
    pub line: Option<usize>,
    /// The key with its tables, like `kafka.topic`; empty when the problem concerns no key.
    pub key: String,
    /// The value as written in the file; empty without a value.
    pub value: String,
    /// The rule for a valid value.
    pub rule: String,
    /// A valid value, or another remedy.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": ")?;
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = {}", self.value)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}; {}", self.rule, self.remedy)
    }
}

/// All problems of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The problems, in the order of files and lines.
    pub problems: Vec<Problem>,
}

impl Report {
    /// True without problems.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The first problem and the number of further problems, in one line.
    pub fn in_one_line(&self) -> String {
        match self.problems.as_slice() {
            [] => "configuration: no problem".to_owned(),
            [one] => one.to_string(),
            [first, others @ ..] => format!("{first}; and {} more", others.len()),
        }
    }

    pub(super) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
        self.problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "configuration: {count} problem{}", if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Report {}
