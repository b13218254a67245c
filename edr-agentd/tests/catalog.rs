//! Every kind of event has an entry in the shipped catalogue, every entry has a kind, and journald accepts the file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says why it was skipped"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use edr_agentd::event::Event;

#[test]
fn the_catalogue_explains_every_event() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/edr-agentd.catalog");
    let text = std::fs::read_to_string(&path).unwrap();
    let entries: Vec<(&str, &str)> = text.split("\n-- ").skip(1).map(|entry| entry.split_once('\n').unwrap()).collect();
    let known: BTreeSet<&str> = Event::ALL.iter().map(|event| event.id()).collect();
    assert_eq!(known.len(), Event::ALL.len(), "an id stands for two kinds");
    assert!(known.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_eq!(entries.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), known);
    assert_eq!(entries.len(), known.len(), "an id has two entries");
    for (id, entry) in entries {
        let (head, body) = entry.split_once("\n\n").unwrap_or_else(|| panic!("{id} has no text"));
        assert!(head.starts_with("Subject: ") && head.contains("\nDefined-By: edr-agentd\n"), "{id}: {head}");
        assert!(body.trim().len() > 20, "{id} says nothing");
    }
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate.md")).unwrap();
    assert!(known.iter().all(|id| guide.contains(&format!("| `{id}` |"))), "docs/operate.md does not list every kind");
    // The file as read by journald's own code.
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/systemd/catalog");
    for folder in [&folder, &root.path().join("var/lib/systemd/catalog")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::copy(&path, folder.join("edr-agentd.catalog")).unwrap();
    let journalctl = |word: &str| Command::new("journalctl").arg("--root").arg(root.path()).arg(word).output();
    let Ok(made) = journalctl("--update-catalog") else {
        println!("skipped: no journalctl here");
        return;
    };
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && said.is_empty(), "{}: {said}", made.status);
    let listed = journalctl("--list-catalog").unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(known.iter().all(|id| listed.contains(id)), "{listed}");
}
