//! README's promises that need no program: links, the picture, figures, rights, and the order of the sections.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use edr_tests::cache::checkout;

fn text(name: &str) -> String {
    fs::read_to_string(checkout().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All files below a folder whose name ends with `end`; all when `end` is empty.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found
}

/// The text of the lines that `script/bench` writes.
fn measured(name: &str) -> String {
    let text = text(name);
    let (_, rest) = text.split_once("<!-- script/bench writes from here -->\n").unwrap();
    rest.split_once("<!-- script/bench writes to here -->\n").unwrap().0.trim().to_owned()
}

#[test]
fn every_link_leads_to_a_file() {
    let mut pages = files(&checkout().join("docs"), ".md");
    pages.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| checkout().join(name)));
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                assert!(page.with_file_name(target).exists(), "{}: {target} is missing", page.display());
                links += 1;
            }
        }
    }
    assert!(links > 15, "only {links} links");
}

/// `script/picture` makes the picture with the same limit.
#[test]
fn the_picture_is_small() {
    let picture = fs::read(checkout().join("docs/images/psad.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n") && picture.ends_with(b"IEND\xaeB`\x82"), "not a whole PNG");
    assert!(picture.len() <= 150_000, "the picture has {} bytes", picture.len());
    assert!(text("README.md").contains("](docs/images/psad.png)"));
}

#[test]
fn the_six_figures_are_those_of_the_last_measurement() {
    let figures = measured("README.md");
    assert_eq!(figures.lines().count(), 2 + 6, "{figures}");
    assert!(measured("docs/bench.md").contains(&figures), "docs/bench.md has other figures than README:\n{figures}");
}

/// README explains the rights before the installation, and names the two capabilities of the unit.
#[test]
fn rights_come_before_the_installation() {
    let readme = text("README.md");
    let place = |head: &str| readme.find(&format!("\n## {head}\n")).unwrap_or_else(|| panic!("no section {head:?}"));
    let (rights, install) = (place("What the agent sees, and what it redacts"), place("Install"));
    assert!(rights < install);
    let unit = text("packaging/systemd/edr-agentd.service");
    let granted = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    let mut granted: Vec<&str> = granted.split(' ').collect();
    let mut named: Vec<&str> = readme[rights..install].split('`').filter(|word| word.starts_with("CAP_")).collect();
    granted.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, granted);
}

/// The agent's code, without its tests, names neither `/proc/PID/environ` nor `/proc/PID/mem`.
#[test]
fn no_environment_and_no_memory_is_read() {
    let is_test = |path: &PathBuf| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let mut reads_command_lines = false;
    for path in files(&checkout().join("edr-agentd"), ".rs").into_iter().filter(|path| !is_test(path)) {
        let code = fs::read_to_string(&path).unwrap();
        for name in ["environ\"", "\"mem\"", "/mem\""] {
            assert!(!code.contains(name), "{} names {name}", path.display());
        }
        reads_command_lines |= code.contains("c\"cmdline\"");
    }
    assert!(reads_command_lines, "the search does not reach the code that reads processes");
}

/// An installation without a signature is shown nowhere.
#[test]
fn no_page_trusts_a_repository_without_a_signature() {
    let pages = ["README.md", "script/package", "script/repository"].map(|name| checkout().join(name));
    let shown = ["docs", "packaging"].iter().flat_map(|folder| files(&checkout().join(folder), ""));
    for path in pages.into_iter().chain(shown) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains("trusted=yes"), "{} installs without a signature", path.display());
    }
}

/// Each of the eight words has a line in the glossary.
#[test]
fn the_glossary_has_eight_words() {
    let readme = text("README.md");
    let section = readme.split("\n## Eight words\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let words: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).skip(1).collect();
    assert_eq!(words, ["snapshot", "frame", "key", "delta", "epoch", "spool", "gap", "degraded"]);
}
