//! A word of a filter: characters outside and inside of quotes.

use std::ops::Range;

/// A word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The characters without the quotes; true for a character inside of quotes.
    pub(super) chars: Vec<(char, bool)>,
    /// The bytes of the filter that hold the word.
    pub(super) at: Range<usize>,
}

impl Word {
    /// Makes a word without quotes.
    pub(super) fn bare(text: &str) -> Self {
        Self { chars: text.chars().map(|c| (c, false)).collect(), at: 0..text.len() }
    }

    /// Returns the characters without quotes.
    pub(super) fn text(&self) -> String {
        self.chars.iter().map(|(c, _)| c).collect()
    }

    /// Returns true when a `*` or `?` stands outside of quotes.
    pub(super) fn is_glob(&self) -> bool {
        self.chars.iter().any(|&(c, quoted)| !quoted && (c == '*' || c == '?'))
    }

    /// Returns true for a `*` alone.
    pub(super) fn is_any(&self) -> bool {
        self.chars == [('*', false)]
    }

    /// Returns both sides of a `..` outside of quotes.
    pub(super) fn range(&self) -> Option<(String, String)> {
        let dots = self.chars.windows(2).position(|pair| pair == [('.', false), ('.', false)])?;
        let text = |chars: &[(char, bool)]| chars.iter().map(|(c, _)| c).collect::<String>();
        Some((text(&self.chars[..dots]), text(&self.chars[dots + 2..])))
    }

    /// Returns the word followed by a space and another word.
    pub(super) fn joined(&self, next: &Self) -> Self {
        let mut chars = self.chars.clone();
        chars.push((' ', false));
        chars.extend_from_slice(&next.chars);
        Self { chars, at: self.at.start..next.at.end }
    }
}
