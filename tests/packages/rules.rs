//! Debian policy, licences of the crates, and reproducible builds.

use std::process::Command;

use edr_tests::cache::checkout;

use crate::built::{built_elsewhere, packages, run, said};

#[test]
fn lintian_finds_nothing() {
    for package in packages() {
        let output = run(Command::new("lintian")
            .args(["--tag-display-limit", "0", "--fail-on", "error,warning,info"])
            .arg(&package.deb));
        let tags = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && tags.is_empty(), "{}:\n{tags}", package.deb.display());
    }
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let long = std::env::var_os("EDR_TEST_LONG").is_some();
    for package in packages().iter().filter(|package| package.name == "edr-agentd" || long) {
        let other = built_elsewhere(package.name);
        let difference = run(Command::new("cmp").arg(&package.deb).arg(other));
        assert!(difference.status.success(), "{}", String::from_utf8_lossy(&difference.stdout));
    }
}

/// A released package must contain no path of the build machine.
#[test]
fn no_path_of_the_builder_is_inside() {
    for package in packages() {
        let program = std::fs::read(package.program()).unwrap();
        for path in [".cargo/registry", checkout().to_str().unwrap()] {
            let found = memchr::memmem::find(&program, path.as_bytes());
            let around = found.map(|at| String::from_utf8_lossy(&program[at.saturating_sub(60)..at + 60]).into_owned());
            assert!(found.is_none(), "{path} is in {}: {around:?}", package.name);
        }
    }
}

fn deny(args: &[&str]) -> (Option<i32>, String) {
    let output = run(Command::new(checkout().join("script/deny")).args(args));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn licences_bans_and_sources_are_allowed() {
    let (code, text) = deny(&["licenses", "bans", "sources"]);
    if code == Some(3) {
        println!("{text}");
        return;
    }
    assert_eq!(code, Some(0), "{text}");
    // With a stricter configuration the same check must fail: then the check reads this workspace.
    let folder = tempfile::tempdir().unwrap();
    let stricter = folder.path().join("deny.toml");
    let config = std::fs::read_to_string(checkout().join("deny.toml")).unwrap();
    let config = config.replace("    \"ISC\",\n", "").replace("openssl-src", "rdkafka-sys");
    std::fs::write(&stricter, config).unwrap();
    let (code, text) = deny(&["--config", stricter.to_str().unwrap(), "licenses", "bans", "sources"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("bans FAILED, licenses FAILED, sources ok"), "{text}");
}

#[test]
fn no_crate_has_a_known_hole() {
    let (code, text) = deny(&["advisories"]);
    if code == Some(3) {
        println!("{text}");
        return;
    }
    assert_eq!(code, Some(0), "{text}");
}

/// Checks of the maintainer scripts that need no systemd: the scripts are shell, and stop at the first error.
#[test]
fn maintainer_scripts_are_plain_shell() {
    for package in packages() {
        for script in ["postinst", "prerm", "postrm"] {
            let path = package.path(&format!("DEBIAN/{script}"));
            said(Command::new("sh").arg("-n").arg(&path));
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("#!/bin/sh\nset -e\n") && !text.contains('@'), "{text}");
        }
    }
}
