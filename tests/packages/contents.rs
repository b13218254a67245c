//! The content of a package: files, permissions, and configuration files.

use std::collections::BTreeMap;
use std::process::Command;

use edr_tests::cache::checkout;

use crate::built::{Package, packages, said};

/// Lists the files of a package: path → `-rw-r--r-- root/root`.
fn listed(package: &Package) -> BTreeMap<String, String> {
    let text = said(Command::new("dpkg-deb").arg("--contents").arg(&package.deb));
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[5].trim_start_matches('.').to_owned(), format!("{} {}", words[0], words[1]))
    };
    text.lines().map(entry).collect()
}

#[test]
fn every_file_is_in_its_place() {
    for package in packages() {
        let (name, config) = (package.name, package.config);
        let mut wanted = vec![
            format!("/etc/{name}/{config}"),
            format!("/usr/lib/systemd/system/{name}.service"),
            format!("/usr/lib/sysusers.d/{name}.conf"),
            format!("/usr/lib/tmpfiles.d/{name}.conf"),
            format!("/usr/sbin/{name}"),
            format!("/usr/share/bash-completion/completions/{name}"),
            format!("/usr/share/doc/{name}/{name}.cdx.json"),
            format!("/usr/share/fish/vendor_completions.d/{name}.fish"),
            format!("/usr/share/lintian/overrides/{name}"),
            format!("/usr/share/man/man5/{config}.5.gz"),
            format!("/usr/share/man/man8/{name}.8.gz"),
            format!("/usr/share/zsh/vendor-completions/_{name}"),
        ];
        for file in [
            "README.Debian",
            "SECURITY.md",
            "changelog.Debian.gz",
            "changelog.gz",
            "copyright",
            "examples/addresses.conf",
            "examples/credentials.conf",
            "examples/kafka-login.toml",
            "filter.md",
            "operate.md",
            "schema.md",
            "wire-format.md",
        ] {
            wanted.push(format!("/usr/share/doc/{name}/{file}"));
        }
        let listed = listed(package);
        for file in &wanted {
            let mode = if file.starts_with("/usr/sbin/") { "-rwxr-xr-x root/root" } else { "-rw-r--r-- root/root" };
            assert_eq!(listed.get(file).map(String::as_str), Some(mode), "{file}");
        }
        for (path, rights) in &listed {
            let known = wanted.contains(path)
                || path.starts_with(&format!("/usr/share/doc/{name}/"))
                || *path == format!("/usr/lib/systemd/catalog/{name}.catalog");
            assert!(known || path.ends_with('/'), "{path} was not expected");
            assert!(
                ["-rw-r--r-- root/root", "-rwxr-xr-x root/root", "drwxr-xr-x root/root"].contains(&rights.as_str()),
                "{path}: {rights}"
            );
        }
        assert!(listed.contains_key(&format!("/etc/{name}/conf.d/")), "no conf.d");
    }
}

/// A package has one configuration file, identical with the file in the sources.
#[test]
fn the_only_conffile_is_as_in_the_sources() {
    for package in packages() {
        let path = format!("/etc/{}/{}", package.name, package.config);
        assert_eq!(package.text("DEBIAN/conffiles"), format!("{path}\n"));
        let source = std::fs::read_to_string(checkout().join("packaging/config").join(package.config)).unwrap();
        assert_eq!(package.text(path.trim_start_matches('/')), source);
    }
}

#[test]
fn a_package_describes_itself() {
    let manifest = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")).unwrap().trim_end_matches('"');
    for package in packages() {
        let field =
            |name: &str| said(Command::new("dpkg-deb").arg("--field").arg(&package.deb).arg(name)).trim().to_owned();
        assert_eq!(field("Package"), package.name);
        assert!(field("Version").starts_with(&format!("{version}-")), "{} is not {version}", field("Version"));
        assert!(
            field("Depends").contains("libc6 (>= ") && field("Depends").contains("libssl3"),
            "{}",
            field("Depends")
        );
        assert_eq!(field("Recommends"), if package.name == "edr-agentd" { "psad" } else { "" });
        // Installed size in KiB, rounded by dpkg.
        let size: u64 = field("Installed-Size").parse().unwrap();
        let program = std::fs::metadata(package.program()).unwrap().len() / 1024;
        assert!((program..program + 1024).contains(&size), "Installed-Size {size}, the program alone {program}");
        let megabytes_max = if package.name == "edr-agentd" { 16 } else { 90 };
        assert!(size * 1024 <= megabytes_max * 1_000_000, "{} takes {size} KiB", package.name);
        let said = said(Command::new(package.program()).arg("--version"));
        assert_eq!(said, format!("{} {version}\n", package.name));
    }
}

/// The checksums used by `dpkg --verify` must match the files.
#[test]
fn checksums_match_the_files() {
    for package in packages() {
        let sums = package.text("DEBIAN/md5sums");
        assert!(sums.contains(&format!("  usr/sbin/{}\n", package.name)), "{sums}");
        said(
            Command::new("md5sum")
                .args(["--check", "--strict", "--quiet", "DEBIAN/md5sums"])
                .current_dir(package.path("")),
        );
    }
}
