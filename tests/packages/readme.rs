//! README's commands, compared with the programs.

use edr_tests::cache::checkout;

use crate::built::{help, packages};

/// The commands of `program` in a text, between backquotes or on a line of their own, as words.
fn commands_of(program: &str, text: &str) -> Vec<Vec<String>> {
    let pieces = text.split(['`', '\n', '|']).map(str::trim);
    let words = |piece: &str| piece.split_whitespace().map(str::to_owned).collect();
    pieces.filter(|piece| piece.starts_with(&format!("{program} "))).map(words).collect()
}

#[test]
fn every_command_and_option_exists() {
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap();
    for package in packages() {
        let known = help(&package.program());
        let shown = commands_of(package.name, &readme);
        assert!(shown.len() >= 2, "README shows few commands of {}: {shown:?}", package.name);
        for words in shown {
            let found = known.iter().find(|(command, ..)| *command == words[1..2]);
            let (_, _, options) = found.unwrap_or_else(|| panic!("README shows {words:?}, which does not exist"));
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(options.contains(option), "README shows {option} of {words:?}, which does not exist");
            }
        }
    }
}
