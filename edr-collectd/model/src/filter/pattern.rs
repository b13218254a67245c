//! Patterns for text: a part of the text, the whole text, or a glob with `*` and `?`. Case does not matter.

use super::word::Word;

/// A pattern; all text is in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// The text contains this text.
    Contains(String),
    /// The text begins with this text.
    Begins(String),
    /// The text is this text.
    Is(String),
    /// The segments between the `*` of a glob, which matches the whole text; `None` stands for `?`.
    Glob(Vec<Vec<Option<char>>>),
}

impl Pattern {
    /// Makes a pattern of a word: a glob when the word has a `*` or `?` outside of quotes.
    pub(super) fn new(word: &Word, is_whole: bool) -> Self {
        if !word.is_glob() {
            let text = word.text().to_lowercase();
            return if is_whole { Self::Is(text) } else { Self::Contains(text) };
        }
        let mut segments = vec![Vec::new()];
        for &(c, quoted) in &word.chars {
            let segment = segments.len() - 1;
            match c {
                '*' if !quoted => segments.push(Vec::new()),
                '?' if !quoted => segments[segment].push(None),
                _ => segments[segment].extend(c.to_lowercase().map(Some)),
            }
        }
        Self::Glob(segments)
    }

    /// Returns true for a match; `text` must be in lower case.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Contains(part) => text.contains(part),
            Self::Begins(start) => text.starts_with(start),
            Self::Is(whole) => text == whole,
            Self::Glob(segments) => glob(segments, text),
        }
    }
}

fn glob(segments: &[Vec<Option<char>>], text: &str) -> bool {
    let [first, between @ ..] = segments else { return text.is_empty() };
    let Some(mut rest) = after(first, text) else { return false };
    let [between @ .., last] = between else { return rest.is_empty() };
    for segment in between {
        let found =
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).find_map(|at| after(segment, &rest[at..]));
        let Some(found) = found else { return false };
        rest = found;
    }
    match last.len().checked_sub(1) {
        None => true,
        Some(chars) => rest.char_indices().rev().nth(chars).is_some_and(|(at, _)| after(last, &rest[at..]).is_some()),
    }
}

/// Returns the text after the segment at the start of `text`.
fn after<'a>(segment: &[Option<char>], text: &'a str) -> Option<&'a str> {
    let mut chars = text.chars();
    for wanted in segment {
        let c = chars.next()?;
        if wanted.is_some_and(|wanted| wanted != c) {
            return None;
        }
    }
    Some(chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_the_whole_text() {
        for (pattern, text, is_match) in [
            ("py*", "python3", true),
            ("py*", "a python3", false),
            ("*thon*", "python3", true),
            ("*3", "python3", true),
            ("*3", "python3.1", false),
            ("p?thon?", "python3", true),
            ("p?thon?", "python", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxbxxaxxc", false),
            ("*ab", "aab", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("**", "", true),
            ("?", "é", true),
            ("?", "", false),
            ("É*", "école", true),
        ] {
            let word = Word::bare(pattern);
            assert_eq!(Pattern::new(&word, false).matches(text), is_match, "{pattern} {text}");
        }
    }
}
