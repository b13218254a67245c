//! The tables as a text for `docs/schema.md`.

use std::fmt::Write as _;

use crate::catalogue::{Group, Table};
use crate::column::{Column, Values};
use crate::tables::{HOSTS, TABLES};

/// The line of `docs/schema.md` before the tables.
pub const BEGIN: &str = "<!-- The rest of this page is written from the catalogue (edr-collectd/model). -->";

/// Returns the tables of the catalogue as Markdown: a section for each table, a line for each field.
pub fn tables() -> String {
    let mut text = String::from(INTRODUCTION);
    for table in &TABLES {
        let slug = table.about.slug;
        let (page, command) = match table.about.group {
            Group::Own => (format!("/hosts/{{host}}/{slug}"), format!("edr-collectd {slug}")),
            Group::Psad => (format!("/hosts/{{host}}/{slug}"), format!("edr-collectd psad --section {slug}")),
        };
        section(&mut text, table, &page, &command);
    }
    section(&mut text, &HOSTS, "/", "edr-collectd hosts");
    text.push_str(FRAMES);
    text
}

const FRAMES: &str = include_str!("frames.md");

const INTRODUCTION: &str = "
# The tables

The tables of the page and of the commands, with the names of JSON, CSV, `sort=` and [filters](filter.md). A name is \
osquery's where
osquery has the field (its tables `processes`, `process_open_files`, `process_open_sockets`, `listening_ports`), \
otherwise the snapshot's.

- **Types** in JSON: text, address, bytes (text as in the snapshot's JSON), time (RFC 3339), flag; size, number, \
danger level and percent are numbers; a duration is seconds; a list is an array. No value is `null`.
- **Types** in Delta: text, address and bytes `string`, time `timestamp` (microseconds), flag `boolean`, size, \
number and danger level `long`, percent and duration `double`, a list `array`, a number or word `string`.
- **Shown**: where the field is shown unless other columns are requested, on the *page* or in the *terminal*.
- **Also** are further names in filters, besides the title; **one of** are all values of a text.
- **Key** fields identify a row; **changing** fields change all the time without an event behind the change.
";

fn section<I: ?Sized>(text: &mut String, table: &Table<I>, page: &str, command: &str) {
    let about = &table.about;
    let _ = write!(
        text,
        "\n## Table `{}`\n\n{}. {} Page `{page}`, command `{command}`.\n\n",
        about.name, about.summary, about.hint
    );
    text.push_str("| name | title | type, unit | shown | ECS | meaning |\n|---|---|---|---|---|---|\n");
    let columns = table.columns();
    let all_on_page = !columns.iter().any(|column| column.on_page);
    let all_on_terminal = !columns.iter().any(|column| column.on_terminal);
    for column in &columns {
        let shown = [(column.on_page || all_on_page, "page"), (column.on_terminal || all_on_terminal, "terminal")];
        let shown: Vec<&str> = shown.iter().filter(|(is_shown, _)| *is_shown).map(|(_, place)| *place).collect();
        let ecs = if column.ecs.is_empty() { String::new() } else { format!("`{}`", column.ecs) };
        let cells = [
            format!("`{}`", column.name),
            column.title.to_owned(),
            type_and_unit(column),
            shown.join(", "),
            ecs,
            meaning(column),
        ];
        let cells = cells.map(|cell| if cell.is_empty() { "–".to_owned() } else { cell });
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

fn type_and_unit(column: &Column) -> String {
    let unit = if column.unit.is_empty() { column.kind.unit() } else { column.unit };
    if unit.is_empty() { column.kind.name().to_owned() } else { format!("{}, {unit}", column.kind.name()) }
}

fn code_list(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

/// Returns the meaning, with the flags, the values, the further names and the link of the column.
fn meaning(column: &Column) -> String {
    let mut parts = Vec::new();
    if column.is_key {
        parts.push("Key.".to_owned());
    }
    if column.is_changing {
        parts.push("Changing.".to_owned());
    }
    parts.extend(Some(column.meaning.to_owned()).filter(|meaning| !meaning.is_empty()));
    match column.values {
        Values::Words(words) if !words.iter().all(|word| column.meaning.contains(word)) => {
            parts.push(format!("One of {}.", code_list(words)));
        }
        Values::Any | Values::Letters(_) | Values::Words(_) => {}
    }
    parts.extend(Some(column.also).filter(|also| !also.is_empty()).map(|also| format!("Also {}.", code_list(also))));
    parts.extend(column.link.map(|link| format!("Links to `{}` of `{}`.", link.field, link.slug)));
    parts.join(" ")
}
