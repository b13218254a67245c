//! Tests that `docs/schema.md` shows the tables of the catalogue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use edr_model::document::{BEGIN, tables};

/// Variable that makes the test write the document.
const WRITE: &str = "EDR_WRITE_DOCUMENT";

#[test]
fn the_document_shows_the_tables_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, found) = document.split_once(BEGIN).unwrap_or_else(|| panic!("docs/schema.md has no line {BEGIN:?}"));
    let wanted = format!("\n{}", tables());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}")).unwrap();
        return;
    }
    let first = wanted.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        found == wanted,
        "docs/schema.md differs from the catalogue, first in {first:#?}\n\
         to write the tables anew: {WRITE}=1 cargo test -p edr-model --test document"
    );
}
