//! Names of columns in a filter: the name, the heading, the aliases of the catalogue, the name in ECS. Case, spaces and
//! punctuation do not matter: `Local address`, `local-address` and `local_address` are the same name.

use crate::column::{Column, Mark, Values};

/// Returns the indexes of the columns with this name: a column of exactly this name, or else all columns with this
/// heading, alias or ECS name. `port` of a socket is the local or the remote port.
pub(super) fn resolve(columns: &[Column], name: &str) -> Vec<usize> {
    if key(name).next().is_none() {
        return Vec::new();
    }
    let is_same = |known: &str| key(known).eq(key(name));
    if let Some(place) = columns.iter().position(|column| is_same(column.name)) {
        return vec![place];
    }
    let is_name = |column: &Column| {
        is_same(column.title)
            || column.also.iter().any(|alias| is_same(alias))
            || (!column.ecs.is_empty() && column.ecs.eq_ignore_ascii_case(name))
    };
    (0..columns.len()).filter(|&place| is_name(&columns[place])).collect()
}

/// Returns the characters of a name that matter.
fn key(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase)
}

/// Returns the length of a heading with a space at the start of `text`.
pub(super) fn heading_len(columns: &[Column], text: &str) -> Option<usize> {
    let titles = columns.iter().map(|column| column.title).filter(|title| title.contains(' '));
    longest_start(titles, text)
}

/// Returns the length of a phrase of the page at the start of `text`: a mark or a value of several words.
pub(super) fn phrase_len(columns: &[Column], text: &str) -> Option<usize> {
    let marks = columns.iter().filter_map(|column| match column.mark {
        Some(Mark::True { text, .. } | Mark::Empty { text, .. }) => Some(text),
        Some(Mark::Text { .. }) | None => None,
    });
    let values = columns.iter().flat_map(|column| match column.values {
        Values::Words(words) => words,
        Values::Any | Values::Letters(_) => &[],
    });
    let phrases = marks.chain(values.copied()).filter(|phrase| phrase.contains(' '));
    let len = longest_start(phrases, text)?;
    text[len..].chars().next().is_none_or(|c| c.is_whitespace() || c == ')').then_some(len)
}

fn longest_start<'a>(names: impl Iterator<Item = &'a str>, text: &str) -> Option<usize> {
    let starts = |name: &&str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    names.filter(starts).map(str::len).max()
}

/// Returns the names of all columns, for an error.
pub(super) fn all(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    format!("columns: {}", names.join(", "))
}

/// Returns the known name that differs from `name` in at most two places.
pub(super) fn nearest(columns: &[Column], name: &str) -> Option<&'static str> {
    let names = |column: &Column| [column.name, column.title].into_iter().chain(column.also.iter().copied());
    let wanted: String = key(name).collect();
    let distance = |known: &str| strsim::osa_distance(&key(known).collect::<String>(), &wanted);
    let near = columns.iter().flat_map(names).map(|known| (distance(known), known));
    near.filter(|(distance, known)| *distance <= 2 && *distance < known.len().min(name.len()) / 2 + 1)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
