//! The findings of `check --online`, each with its severity and a remedy.

use std::fmt;
use std::io::{self, Write};

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In order.
    Ok,
    /// Works, but is limited or will stop working.
    Warn,
    /// Does not work.
    Fail,
}

impl Level {
    /// `ok`, `warn`, `fail`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Severity.
    pub level: Level,
    /// Subject of the check: `rights`, `broker`, `topic`.
    pub subject: &'static str,
    /// Result in words.
    pub text: String,
    /// Remedy: a command where possible; empty when none is needed.
    pub remedy: String,
}

/// The results of all checks, in the order of the checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    /// Adds a result of severity `ok`.
    pub fn ok(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, subject, text.into(), String::new());
    }

    /// Adds a result of severity `warn`.
    pub fn warn(&mut self, subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warn, subject, text.into(), remedy.into());
    }

    /// Adds a result of severity `fail`.
    pub fn fail(&mut self, subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Fail, subject, text.into(), remedy.into());
    }

    fn add(&mut self, level: Level, subject: &'static str, text: String, remedy: String) {
        self.findings.push(Finding { level, subject, text, remedy });
    }

    /// All results.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// The highest severity; `ok` without results.
    pub fn worst(&self) -> Level {
        self.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Prints one line per result, followed by a line with the remedy.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        // Peers and files control parts of the text: `Display` escapes control characters.
        self.iter().try_for_each(|finding| writeln!(out, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| edr_wire::visible(text.as_bytes());
        write!(f, "{:<4} {:<12} {}", self.level.name(), self.subject, shown(&self.text))?;
        if !self.remedy.is_empty() {
            write!(f, "\n{:17} mend: {}", "", shown(&self.remedy))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_finding_with_a_remedy_and_nothing_a_peer_can_forge() {
        let mut findings = Findings::default();
        assert_eq!(findings.worst(), Level::Ok);
        findings.ok("rights", "all there");
        findings.warn("broker", "shows evil\nfail topic", "do x");
        assert_eq!(findings.worst(), Level::Warn);
        findings.fail("topic", "none", "");
        assert_eq!(findings.worst(), Level::Fail);
        let mut out = Vec::new();
        findings.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], "ok   rights       all there");
        assert!(
            lines[1].starts_with("warn broker       shows evil\\x0afail") && lines[2].trim_start() == "mend: do x",
            "{text}"
        );
    }
}
