//! `redact`: shows what would be sent of command lines, and why.

use std::io::{self, BufRead as _, Write};
use std::path::Path;
use std::process::ExitCode;

use edr_sources::redact::{Finding, Redactor};
use edr_wire::{Bytes, visible};

use super::show::config_or_default;
use crate::run::Overrides;
use crate::sample::redactor;

/// Reads command lines from standard input, one a line, and prints each as the agent would send it. A line with NULs
/// is taken and printed as arguments that end with NUL, as in `/proc/PID/cmdline`; another line as a shell splits it.
pub(super) fn redact(explain: bool, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config_or_default(path, &Overrides::default())?;
    if !config.redact.secrets {
        writeln!(
            io::stderr().lock(),
            "edr-agentd: redact.secrets is false: the agent sends command lines as they are"
        )?;
    }
    let redactor = redactor(&config)?;
    let mut input = io::stdin().lock();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            line.pop();
        }
        one(&redactor, &line, explain, &mut out)?;
        line.clear();
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn one(redactor: &Redactor, line: &[u8], explain: bool, out: &mut impl Write) -> io::Result<()> {
    if line.contains(&0) {
        let arguments = line.strip_suffix(b"\0").unwrap_or(line);
        let mut argv: Vec<Bytes> = arguments.split(|byte| *byte == 0).map(Bytes::from).collect();
        let findings = redactor.explain(&mut argv);
        for argument in &argv {
            out.write_all(&argument.0)?;
            out.write_all(b"\0")?;
        }
        writeln!(out)?;
        return if explain { explained(&findings, out) } else { Ok(()) };
    }
    let mut argv = shell_words(line);
    let findings = redactor.explain(&mut argv);
    let words: Vec<String> = argv.iter().map(|argument| quoted(&argument.0)).collect();
    writeln!(out, "{}", words.join(" "))?;
    if explain { explained(&findings, out) } else { Ok(()) }
}

fn explained(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    for Finding { argument, range, rule, source } in findings {
        write!(out, "    argument {argument}, bytes {} to {}: {rule}", range.start, range.end)?;
        writeln!(out, "{}", if source.is_empty() { String::new() } else { format!("  # {source}") })?;
    }
    Ok(())
}

/// Splits a line into words as a shell does, without replacing anything. After an open quote the line is split at its
/// blanks, because it then comes from a program that does not quote (`ps`).
fn shell_words(line: &[u8]) -> Vec<Bytes> {
    let mut words: Vec<Bytes> = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(b'"'), b'\\') if bytes.peek().is_some_and(|next| b"\"\\$`".contains(next)) => {
                word.get_or_insert_default().extend(bytes.next());
            }
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b'\\') => word.get_or_insert_default().extend(bytes.next()),
            (None, _) if byte.is_ascii_whitespace() => words.extend(word.take().map(Bytes)),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quote.is_some() {
        return line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(Bytes::from).collect();
    }
    words.extend(word.map(Bytes));
    words
}

/// An argument as a shell takes it, without characters on which a terminal acts.
fn quoted(argument: &[u8]) -> String {
    let text = visible(argument);
    let is_plain = |c: char| c.is_alphanumeric() || "‹›%+,-./:=@_^~".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &[u8], explain: bool) -> String {
        let mut out = Vec::new();
        one(&Redactor::new(b"a key of the tests"), line, explain, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_split_as_a_shell_splits_it_and_printed_as_a_shell_takes_it() {
        let words = |line: &str| shell_words(line.as_bytes()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(words("a 'b c' \"d \\\" $e\" f\\ g ''"), ["a", "b c", "d \" $e", "f g", ""]);
        assert_eq!(words("nginx: worker's process"), ["nginx:", "worker's", "process"]);
        assert_eq!(printed(b"sh -c 'a b' ''", false), "sh -c 'a b' ''\n");
        assert_eq!(printed(b"a \x1b[31m", false), "a '\\x1b[31m'\n");
    }

    #[test]
    fn the_explanation_names_the_rule_and_its_source_and_not_the_secret() {
        let text = printed(b"mysql -u root -pC4n4ry-5ecret shop", true);
        assert!(text.starts_with("mysql -u root -p‹redacted:"), "{text}");
        assert!(text.contains("argument 3, bytes 2 to 15: command mysql*,mariadb* -pSECRET  # mysql(1)"), "{text}");
        assert!(!text.contains("C4n4ry"), "{text}");
        let text = printed(b"app\0--dsn\0https://ann:C4n4ry-5ecret@h/\0", true);
        assert!(
            text.starts_with("app\0--dsn\0https://ann:‹redacted:") && text.contains("login in an address"),
            "{text}"
        );
        assert_eq!(printed(b"ls -l", true), "ls -l\n");
    }
}
