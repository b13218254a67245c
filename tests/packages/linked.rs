//! The crates linked into a program. A package names the crates in three places; the test compares all three with each
//! other and with cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use edr_tests::cache::checkout;
use serde_json::Value;

use crate::built::{Package, packages, said};

type Crates = BTreeSet<(String, String)>;

/// The crates linked into a daemon by cargo, without macros and build scripts.
fn of_cargo(name: &str) -> Crates {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let host = said(Command::new("rustc").arg("-vV"));
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let args =
        ["tree", "--locked", "--offline", "--edges", "normal,no-proc-macro", "--prefix", "none", "--package", name];
    let text = said(Command::new(cargo).args(args).args(["--target", &host]).current_dir(checkout()));
    let entry = |line: &str| {
        let (name, rest) = line.split_once(" v").unwrap();
        (name.to_owned(), rest.split_whitespace().next().unwrap().to_owned())
    };
    text.lines().map(entry).collect()
}

fn sbom(package: &Package) -> Value {
    serde_json::from_str(&package.text(&format!("usr/share/doc/{0}/{0}.cdx.json", package.name))).unwrap()
}

fn of_sbom(sbom: &Value) -> Crates {
    let components = sbom["components"].as_array().unwrap().iter().chain([&sbom["metadata"]["component"]]);
    components.map(|component| (text(&component["name"]), text(&component["version"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn the_bill_of_materials_lists_the_linked_crates() {
    for package in packages() {
        let (listed, linked) = (of_sbom(&sbom(package)), of_cargo(package.name));
        let missing: Vec<_> = linked.difference(&listed).collect();
        assert!(missing.is_empty(), "{}: not listed: {missing:?}", package.name);
        let more: Vec<_> = listed.difference(&linked).collect();
        assert!(more.is_empty(), "{}: not linked: {more:?}", package.name);
    }
}

#[test]
fn the_bill_of_materials_is_whole() {
    let lock = std::fs::read_to_string(checkout().join("Cargo.lock")).unwrap();
    for package in packages() {
        let sbom = sbom(package);
        assert_eq!((text(&sbom["bomFormat"]), text(&sbom["specVersion"])), ("CycloneDX".to_owned(), "1.6".to_owned()));
        let mut references = BTreeSet::new();
        let components = sbom["components"].as_array().unwrap();
        assert!(references.insert(text(&sbom["metadata"]["component"]["bom-ref"])));
        let mut c_libraries = BTreeMap::new();
        for component in components {
            let name = text(&component["name"]);
            assert!(references.insert(text(&component["bom-ref"])), "{name} is there twice");
            assert!(!text(&component["licenses"][0]["expression"]).is_empty());
            let ours = name.starts_with("edr-");
            match component["hashes"][0]["content"].as_str() {
                Some(hash) => {
                    assert!(lock.contains(&format!("checksum = \"{hash}\"")), "{name}: {hash} is not in Cargo.lock");
                }
                None => assert!(ours, "{name} has no hash"),
            }
            for inner in component["components"].as_array().into_iter().flatten() {
                c_libraries.insert(text(&inner["name"]), text(&inner["version"]));
            }
        }
        assert_eq!(c_libraries.keys().collect::<Vec<_>>(), ["librdkafka", "zstd"]);
        assert!(c_libraries.values().all(|version| version.split('.').count() == 3), "{c_libraries:?}");
        for dependency in sbom["dependencies"].as_array().unwrap() {
            for reference in dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]) {
                assert!(references.contains(&text(reference)), "{reference} is no component");
            }
        }
    }
}

/// The program itself contains the list in the form read by `cargo audit bin`, trivy and syft.
#[test]
fn the_program_lists_the_same_crates() {
    for package in packages() {
        let inside =
            auditable_info::audit_info_from_file(&package.program(), auditable_info::Limits::default()).unwrap();
        let listed: Crates =
            inside.packages.iter().map(|crate_| (crate_.name.clone(), crate_.version.to_string())).collect();
        assert_eq!(listed, of_sbom(&sbom(package)));
        let root = inside.packages.iter().find(|crate_| crate_.root).unwrap();
        assert_eq!(root.name, package.name);
    }
}

/// Each crate must have a paragraph, and each licence named in a paragraph a text.
#[test]
fn the_copyright_file_covers_every_crate() {
    for package in packages() {
        let text = package.text(&format!("usr/share/doc/{}/copyright", package.name));
        assert!(text.starts_with("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"));
        let paragraphs: Vec<&str> = text.split("\n\n").collect();
        for (name, version) in of_sbom(&sbom(package)) {
            let files = format!("Files: vendor/{name}-{version}/*\n");
            assert!(name.starts_with("edr-") || paragraphs.iter().any(|one| one.starts_with(&files)), "no {files}");
        }
        let named = paragraphs.iter().filter(|one| one.starts_with("Files: ")).flat_map(|one| {
            let license = one.lines().find_map(|line| line.strip_prefix("License: ")).unwrap();
            assert!(one.contains("\nCopyright: "), "{one}");
            license.split(" and ").map(str::to_owned)
        });
        for license in named.collect::<BTreeSet<String>>() {
            let title = format!("License: {license}\n ");
            assert!(paragraphs.iter().any(|one| one.starts_with(&title)), "no text of {license}");
        }
    }
}
