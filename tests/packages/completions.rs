//! Tests that a shell completes exactly all commands and options.

use std::collections::BTreeSet;
use std::process::Command;

use crate::built::{Package, help, packages, said};

/// The completions of bash after `words`, the last of which is incomplete.
fn bash(package: &Package, words: &[String]) -> BTreeSet<String> {
    let script = r#"
        source "$1"; program=$2; shift 2
        [[ $(complete -p "$program") =~ -F\ ([^ ]+) ]]
        COMP_WORDS=("$program" "$@"); COMP_CWORD=$#
        "${BASH_REMATCH[1]}" "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let file = package.path(&format!("usr/share/bash-completion/completions/{}", package.name));
    let text = said(Command::new("bash").args(["-c", script, "bash"]).arg(file).arg(package.name).args(words));
    text.lines().map(str::to_owned).collect()
}

/// The completions of fish after `words`.
fn fish(package: &Package, words: &[String]) -> BTreeSet<String> {
    let file = package.path(&format!("usr/share/fish/vendor_completions.d/{}.fish", package.name));
    let line = format!("{} {}", package.name, words.join(" "));
    let script = format!("source {}; complete -C {line:?}", file.display());
    let text = said(Command::new("fish").args(["--no-config", "-c", &script]).env("HOME", package.path("")));
    text.lines().map(|line| line.split('\t').next().unwrap_or(line).to_owned()).collect()
}

fn everything(shell: fn(&Package, &[String]) -> BTreeSet<String>) {
    for package in packages() {
        for (command, subcommands, options) in help(&package.program()) {
            let typed = |word: &str| [command.clone(), vec![word.to_owned()]].concat();
            let options: BTreeSet<String> = options.into_iter().collect();
            assert_eq!(shell(package, &typed("--")), options, "{} {}", package.name, command.join(" "));
            let offered = shell(package, &typed(""));
            for subcommand in subcommands {
                assert!(
                    offered.contains(&subcommand),
                    "{} {}: {subcommand} is not among {offered:?}",
                    package.name,
                    command.join(" ")
                );
            }
        }
    }
}

#[test]
fn bash_completes_every_command() {
    everything(bash);
}

#[test]
fn fish_completes_every_command() {
    if Command::new("fish").arg("--version").output().is_err() {
        println!("skipped: no fish here");
        return;
    }
    everything(fish);
}

/// Completion in zsh needs a terminal. So this test only checks that zsh can parse the script, and that the script
/// names every command and option.
#[test]
fn zsh_can_parse_its_script() {
    if Command::new("zsh").arg("--version").output().is_err() {
        println!("skipped: no zsh here");
        return;
    }
    for package in packages() {
        let file = package.path(&format!("usr/share/zsh/vendor-completions/_{}", package.name));
        said(Command::new("zsh").arg("-n").arg(&file));
        let text = std::fs::read_to_string(&file).unwrap();
        for (command, subcommands, options) in help(&package.program()) {
            for word in subcommands.iter().map(|sub| format!("'{sub}:")).chain(options.iter().cloned()) {
                assert!(
                    text.contains(&word),
                    "{} {}: {word} is not in {}",
                    package.name,
                    command.join(" "),
                    file.display()
                );
            }
        }
    }
}
