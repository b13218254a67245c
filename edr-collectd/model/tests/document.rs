//! Tests that `docs/schema.md` shows the tables of the catalogue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use edr_model::document::{BEGIN, tables};

#[test]
fn the_document_shows_the_tables_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, found) = document.split_once(BEGIN).unwrap_or_else(|| panic!("docs/schema.md has no line {BEGIN:?}"));
    let wanted = format!("\n{}", tables());
    if std::env::var_os("EDR_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}")).unwrap();
        return;
    }
    let first = wanted.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        found == wanted,
        "docs/schema.md differs from the catalogue, first in {first:#?}\n\
         to write the tables anew: EDR_GOLDEN=write cargo test -p edr-model --test document"
    );
}
