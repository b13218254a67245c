//! The examples of `docs/filter.md`.

use super::{found, refused};

#[test]
fn the_examples_of_the_document_are_right() {
    let document = include_str!("../../../../../docs/filter.md");
    let (mut examples, mut errors) = (0, 0);
    for line in document.lines() {
        // | `table` | `filter` | what the filter finds |
        let cells: Vec<&str> = line.split(" | ").collect();
        let code = |cell: &str| cell.trim_start_matches("| ").strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
        if let [table, filter, _] = cells.as_slice()
            && let (Some(table), Some(filter)) = (code(table), code(filter))
        {
            assert!(found(&table, &filter) > 0, "{table}: {filter} finds nothing");
            examples += 1;
        }
        // edr-collectd TABLE --filter 'FILTER', followed by the error
        if let Some((command, filter)) =
            line.strip_prefix("$ edr-collectd ").and_then(|line| line.split_once(" --filter '"))
            && let Some((table, filter)) = command.split_whitespace().next().zip(filter.strip_suffix('\''))
        {
            let error = refused(table, filter);
            let shown = document.split_once(&format!("{line}\nedr-collectd: ")).map(|(_, rest)| rest);
            assert!(shown.is_some_and(|shown| shown.starts_with(&error)), "the document differs from:\n{error}");
            errors += 1;
        }
    }
    assert!(examples >= 40 && errors >= 3, "{examples} examples, {errors} errors");
}
