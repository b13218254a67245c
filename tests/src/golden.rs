//! Files that are generated and checked in. A test compares each file with the generated text, and the environment
//! variable `EDR_GOLDEN=write` makes the test write the file instead.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// True when tests write generated files instead of comparing them.
pub fn writes() -> bool {
    std::env::var_os("EDR_GOLDEN").is_some_and(|mode| mode == "write")
}

/// Compares a file with the generated text, or writes the file.
///
/// # Errors
/// When the file differs, with the first line that differs; or when the file cannot be read or written.
pub fn check(path: &Path, wanted: &str) -> Result<()> {
    if writes() {
        let folder = path.parent().context("a file in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        return std::fs::write(path, wanted).with_context(|| format!("write {}", path.display()));
    }
    let found = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let line = 1 + wanted.lines().zip(found.lines()).take_while(|(wanted, found)| wanted == found).count();
    ensure!(
        found == wanted,
        "{}:{line} differs from the generated text:\n{:?}\n{:?}\nEDR_GOLDEN=write writes the file anew",
        path.display(),
        found.lines().nth(line - 1),
        wanted.lines().nth(line - 1),
    );
    Ok(())
}

/// Compares the part of a file between the lines `begin` and `end` with the generated text, or writes the part.
///
/// # Errors
/// As [`check`], and when a line is missing.
pub fn check_part(path: &Path, begin: &str, end: &str, wanted: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (begin, end) = (format!("{begin}\n"), format!("{end}\n"));
    let missing = |line: &str| format!("{} has no line {:?}", path.display(), line.trim_end());
    let (before, rest) = text.split_once(&begin).with_context(|| missing(&begin))?;
    let (_, after) = rest.split_once(&end).with_context(|| missing(&end))?;
    check(path, &format!("{before}{begin}{wanted}{end}{after}"))
}
