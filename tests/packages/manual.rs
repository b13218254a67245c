//! Tests that the manual pages describe exactly the commands, options and keys of the programs.

use std::collections::BTreeSet;
use std::process::Command;

use edr_tests::certificates::Authority;

use crate::built::{Package, help, packages, run, said};

fn page(package: &Package, section: u8) -> String {
    let name = if section == 8 { package.name } else { package.config };
    package.text(&format!("usr/share/man/man{section}/{name}.{section}.gz"))
}

/// Returns each word after the mdoc macro `macro_` in a page: `.Fl \-config` is the option `--config`.
fn after(page: &str, macro_: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with('.')) {
        let words: Vec<&str> = line.trim_start_matches('.').split_whitespace().collect();
        for (place, _) in words.iter().enumerate().filter(|(_, word)| **word == macro_) {
            if let Some(word) = words.get(place + 1) {
                found.insert(word.replace("\\-", "-"));
            }
        }
    }
    found
}

#[test]
fn every_command_and_option_is_described_and_none_is_invented() {
    for package in packages() {
        let page = page(package, 8);
        let (mut commands, mut options) = (BTreeSet::new(), BTreeSet::new());
        for (command, subcommands, its_options) in help(&package.program()) {
            let within = |sub: String| [command.clone(), vec![sub]].concat().join(" ");
            commands.extend(subcommands.into_iter().filter(|sub| command.is_empty() || sub != "help").map(within));
            options.extend(its_options);
        }
        // Short options like `-h` and `-V` are left out: the pages describe the long names.
        let described: BTreeSet<String> = after(&page, "Fl")
            .into_iter()
            .map(|word| format!("-{word}"))
            .filter(|word| word.starts_with("--"))
            .collect();
        assert_eq!(described, options, "{}", package.name);
        let items: BTreeSet<String> =
            page.lines().filter_map(|line| line.strip_prefix(".It Cm ")).map(str::to_owned).collect();
        // A command with subcommands is described only by the subcommands.
        let held: BTreeSet<String> =
            commands.iter().filter_map(|command| command.split_once(' ')).map(|(outer, _)| outer.to_owned()).collect();
        assert_eq!(items, commands.difference(&held).cloned().collect(), "{}", package.name);
    }
}

/// `check` prints all keys once the keys without a default are set. The test sets secrets first as files, then as
/// credentials.
#[test]
fn every_key_is_described_with_its_default_and_none_is_invented() {
    for package in packages() {
        let shipped = package.text(&format!("etc/{}/{}", package.name, package.config));
        let mut wanted = BTreeSet::new();
        for without in ["-credential", "-file"] {
            wanted.extend(keys_printed(package, &shipped, without));
        }
        let page = page(package, 5);
        let described: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".It Cm "))
            .map(|line| line.split(' ').next().unwrap().replace("\\-", "-"))
            .collect();
        assert_eq!(described, wanted, "{}", package.config);
    }
}

/// Returns the keys printed by `check` for the shipped configuration with every example enabled, except secrets whose
/// key ends with `without`.
fn keys_printed(package: &Package, shipped: &str, without: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let own = authority.sign("own", "own.example", (-1, 30)).unwrap();
    for name in ["secret", "kafka.password", "kafka.key"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    std::fs::copy(&own.key, folder.path().join("kafka.key")).unwrap();
    let mut text = String::new();
    for line in shipped.lines() {
        match line.strip_prefix("# ") {
            Some(example) if example.split_once(" = \"").is_some_and(|(key, _)| !key.contains(' ')) => {
                let (key, value) = example.split_once(" = ").unwrap();
                let is_secret = ["key-", "password-"].iter().any(|prefix| key.starts_with(prefix));
                if is_secret && key.ends_with(without) && shipped.contains(&format!("# {}", opposite(key))) {
                    continue;
                }
                let value = match key {
                    "ca-file" => format!("{:?}", authority.file),
                    "certificate-file" => format!("{:?}", own.certificate),
                    "key-file" if text.contains("[kafka.tls]") && !text.contains("[redact]") => {
                        format!("{:?}", own.key)
                    }
                    _ if key.ends_with("file") => format!("{:?}", folder.path().join("secret")),
                    _ => value.to_owned(),
                };
                text.push_str(&format!("{key} = {value}\n"));
            }
            Some("brokers = [\"HOST:PORT\"]") => text.push_str("brokers = [\"localhost:9092\"]\n"),
            _ if line == "#enabled = false" => text.push_str("enabled = true\n"),
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    let config = folder.path().join(package.config);
    std::fs::write(&config, &text).unwrap();
    let mut check = Command::new(package.program());
    let printed = said(check.arg("check").arg("--config").arg(&config).env("CREDENTIALS_DIRECTORY", folder.path()));
    let mut keys = BTreeSet::new();
    for line in printed.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, _)) = line.split_once(" = ") {
            keys.insert(key.rsplit('.').next().unwrap().trim_matches('"').to_owned());
        }
    }
    keys
}

/// The alternative key for the same secret: file or credential.
fn opposite(key: &str) -> String {
    match key.strip_suffix("-file") {
        Some(name) => format!("{name}-credential"),
        None => key.replace("-credential", "-file"),
    }
}

#[test]
fn the_pages_are_well_formed_and_of_this_package() {
    for package in packages() {
        for section in [5, 8] {
            let name = if section == 8 { package.name } else { package.config };
            let path = package.path(&format!("usr/share/man/man{section}/{name}.{section}.gz"));
            let lint = run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path));
            let lint = String::from_utf8_lossy(&lint.stdout).into_owned();
            let serious: Vec<&str> = lint.lines().filter(|line| !line.contains(": STYLE: ")).collect();
            assert!(serious.is_empty(), "{serious:?}");
            let shown = said(Command::new("mandoc").args(["-T", "ascii"]).arg(&path));
            assert!(shown.starts_with(&format!("{}({section})", name.to_uppercase())), "{shown}");
        }
    }
}
