//! Splits a string for a shell into commands and their words (sh(1), bash(1)).
//!
//! A single pass from left to right. Quotes and escapes are taken away from a word, with the offset of each byte kept.
//! Substitutions and groups (`$(…)`, backquotes, `(…)`, `{ …; }`) are commands of their own; a pipeline is given as a
//! whole, because the first command may be the input of the next.

use memchr::memchr;

use super::value::Place;
use super::word::Word;

/// Most nested substitutions. Deeper ones are read as part of their word.
const NESTED_MAX: usize = 8;
/// Most here-documents of a string.
const HERE_DOCUMENTS_MAX: usize = 8;

/// The kind of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of the command.
    Argument,
    /// Standard input: `<<< word`, or the body of a here-document.
    Input,
}

/// A word of a shell's string.
#[derive(Debug)]
pub(super) struct ShellWord {
    text: Text,
    pub(super) role: Role,
}

#[derive(Debug)]
enum Text {
    /// A range of the string.
    Plain(usize, usize),
    /// The bytes without quotes, with their offsets in the string.
    Decoded(Vec<u8>, Vec<u32>),
}

/// A pipeline: words, and the index of the first word of each command.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    pub(super) words: Vec<ShellWord>,
    pub(super) starts: Vec<usize>,
}

impl ShellWord {
    /// Returns the word of a string. `offsets` is filled for a word with quotes.
    pub(super) fn word<'a>(&'a self, string: Word<'a>, offsets: &'a [u32]) -> Word<'a> {
        match &self.text {
            Text::Plain(start, end) => Word { place: Place::Shell, ..string.part(*start..*end) },
            Text::Decoded(bytes, _) => Word { bytes, offsets: Some(offsets), place: Place::Shell, ..string },
        }
    }

    /// The offsets in the argument of the bytes of a word with quotes.
    pub(super) fn offsets(&self, string: Word<'_>) -> Vec<u32> {
        match &self.text {
            Text::Plain(..) => Vec::new(),
            Text::Decoded(_, at) => {
                at.iter().map(|&at| u32::try_from(string.offset(at as usize)).unwrap_or(u32::MAX)).collect()
            }
        }
    }

    fn is(&self, string: &[u8], text: &[u8]) -> bool {
        matches!(&self.text, Text::Plain(start, end) if string.get(*start..*end) == Some(text))
    }

    fn is_one_of(&self, string: &[u8], texts: &[&[u8]]) -> bool {
        texts.iter().any(|text| self.is(string, text))
    }
}

/// A word that is not complete.
#[derive(Debug, Default)]
struct Building {
    start: usize,
    end: usize,
    /// Set by the first quote or escape.
    decoded: Option<(Vec<u8>, Vec<u32>)>,
}

/// The state outside of a substitution, kept until its end.
#[derive(Debug)]
struct Outer {
    pipeline: Pipeline,
    building: Option<Building>,
    in_double_quotes: bool,
    role: Role,
    closing: u8,
}

/// Calls `take` with each pipeline of a shell's string, until `take` returns false.
pub(super) fn each_pipeline(string: &[u8], take: &mut dyn FnMut(&Pipeline) -> bool) {
    Splitter { string, ..Splitter::new() }.run(take);
}

struct Splitter<'a> {
    string: &'a [u8],
    at: usize,
    pipeline: Pipeline,
    building: Option<Building>,
    in_double_quotes: bool,
    role: Role,
    outer: Vec<Outer>,
    /// Ends of here-documents whose body begins on the next line.
    here: Vec<(Vec<u8>, bool)>,
    here_left: usize,
}

const RESERVED: [&[u8]; 16] = [
    b"if", b"then", b"elif", b"else", b"do", b"while", b"until", b"!", b"{", b"}", b"fi", b"done", b"esac", b"time",
    b"coproc", b"in",
];

impl<'a> Splitter<'a> {
    fn new() -> Self {
        Self {
            string: b"",
            at: 0,
            pipeline: Pipeline { words: Vec::new(), starts: vec![0] },
            building: None,
            in_double_quotes: false,
            role: Role::Argument,
            outer: Vec::new(),
            here: Vec::new(),
            here_left: HERE_DOCUMENTS_MAX,
        }
    }

    fn run(mut self, take: &mut dyn FnMut(&Pipeline) -> bool) {
        while let Some(&byte) = self.string.get(self.at) {
            let goes_on = if self.in_double_quotes { self.quoted(byte, take) } else { self.plain(byte, take) };
            if !goes_on {
                return;
            }
        }
        loop {
            self.end_word();
            if !self.give(take) {
                return;
            }
            let Some(outer) = self.outer.pop() else { return };
            self.resume(outer);
        }
    }

    fn resume(&mut self, outer: Outer) {
        self.pipeline = outer.pipeline;
        self.building = outer.building;
        self.in_double_quotes = outer.in_double_quotes;
        self.role = outer.role;
    }

    /// Reads on inside of double quotes.
    fn quoted(&mut self, byte: u8, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        let next = self.string.get(self.at + 1).copied();
        match byte {
            b'"' => {
                self.in_double_quotes = false;
                self.at += 1;
            }
            b'\\' if next.is_some_and(|next| matches!(next, b'"' | b'\\' | b'$' | b'`' | b'\n')) => {
                self.push(self.at + 1);
                self.at += 2;
            }
            b'$' if next == Some(b'(') => self.open(2, b')'),
            b'`' => return self.back_quote(take),
            _ => {
                self.push(self.at);
                self.at += 1;
            }
        }
        true
    }

    /// Reads on outside of quotes.
    fn plain(&mut self, byte: u8, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        let next = self.string.get(self.at + 1).copied();
        match byte {
            b'\n' => {
                self.end_word();
                self.at += 1;
                self.here_documents();
                return self.give(take);
            }
            b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' => {
                self.end_word();
                self.at += 1;
            }
            b';' => return self.separator(1, take),
            b'&' if next == Some(b'>') => {
                self.end_word();
                self.at += 2;
            }
            b'&' => return self.separator(1 + usize::from(next == Some(b'&')), take),
            b'|' if next == Some(b'|') => return self.separator(2, take),
            b'|' => {
                self.end_word();
                self.at += 1 + usize::from(next == Some(b'&'));
                if self.pipeline.starts.last().is_some_and(|start| *start < self.pipeline.words.len()) {
                    self.pipeline.starts.push(self.pipeline.words.len());
                }
            }
            b'"' => {
                self.quote();
                self.in_double_quotes = true;
                self.at += 1;
            }
            b'\'' => self.single_quotes(self.at + 1, false),
            b'$' if next == Some(b'\'') => self.single_quotes(self.at + 2, true),
            b'$' if next == Some(b'(') => self.open(2, b')'),
            b'(' if self.building.is_none() => self.open(1, b')'),
            b'`' => return self.back_quote(take),
            b')' => return self.close(b')', take),
            b'\\' => {
                if let Some(next) = next
                    && next != b'\n'
                {
                    self.quote();
                    self.push(self.at + 1);
                }
                self.at += 2;
            }
            b'<' | b'>' => self.redirection(),
            b'#' if self.building.is_none() => {
                let rest = &self.string[self.at..];
                self.at += memchr(b'\n', rest).unwrap_or(rest.len());
            }
            _ => {
                self.push(self.at);
                self.at += 1;
            }
        }
        true
    }

    fn separator(&mut self, bytes: usize, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        self.end_word();
        self.at += bytes;
        self.give(take)
    }

    /// Begins a substitution or a group.
    fn open(&mut self, bytes: usize, closing: u8) {
        if self.outer.len() >= NESTED_MAX {
            self.push(self.at);
            self.at += 1;
            return;
        }
        // `$(` stays in the word, so that `--password=$(cat file)` is a reference and not an empty value.
        if self.building.is_some() || self.in_double_quotes {
            self.quote();
            for at in self.at..(self.at + bytes).min(self.string.len()) {
                self.push(at);
            }
        }
        let pipeline = Pipeline { words: Vec::new(), starts: vec![0] };
        self.outer.push(Outer {
            pipeline: std::mem::replace(&mut self.pipeline, pipeline),
            building: self.building.take(),
            in_double_quotes: std::mem::replace(&mut self.in_double_quotes, false),
            role: std::mem::replace(&mut self.role, Role::Argument),
            closing,
        });
        self.at += bytes;
    }

    fn close(&mut self, closing: u8, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        self.end_word();
        let goes_on = self.give(take);
        match self.outer.pop() {
            Some(outer) if outer.closing == closing => {
                self.resume(outer);
                if self.building.is_some() {
                    self.push(self.at);
                }
            }
            // A parenthesis of another kind: `case x)`.
            Some(outer) => self.outer.push(outer),
            None => {}
        }
        self.at += 1;
        goes_on
    }

    fn back_quote(&mut self, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        if self.outer.last().is_some_and(|outer| outer.closing == b'`') && !self.in_double_quotes {
            return self.close(b'`', take);
        }
        self.open(1, b'`');
        true
    }

    fn single_quotes(&mut self, start: usize, with_escapes: bool) {
        self.quote();
        let mut at = start;
        while let Some(&byte) = self.string.get(at) {
            match byte {
                b'\'' => break,
                b'\\' if with_escapes && at + 1 < self.string.len() => {
                    self.push(at + 1);
                    at += 2;
                }
                _ => {
                    self.push(at);
                    at += 1;
                }
            }
        }
        self.at = at + 1;
    }

    fn redirection(&mut self) {
        let rest = &self.string[self.at..];
        // `2>`: the digit is no word.
        let is_number = self.building.as_ref().is_some_and(|word| {
            word.decoded.is_none() && self.string[word.start..word.end].iter().all(u8::is_ascii_digit)
        });
        if is_number {
            self.building = None;
        }
        self.end_word();
        if rest.starts_with(b"<<<") {
            self.at += 3;
            self.role = Role::Input;
            return;
        }
        if rest.starts_with(b"<<") && self.here_left > 0 {
            let strips = rest.get(2) == Some(&b'-');
            let word: Vec<u8> = rest[2 + usize::from(strips)..]
                .iter()
                .copied()
                .skip_while(|byte| *byte == b' ')
                .take_while(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b';' | b'|' | b'&' | b')'))
                .filter(|byte| !matches!(byte, b'\'' | b'"' | b'\\'))
                .take(64)
                .collect();
            if !word.is_empty() {
                self.here_left -= 1;
                self.here.push((word, strips));
            }
            self.at += 2 + usize::from(strips);
            return;
        }
        let operator = rest.iter().take_while(|byte| matches!(byte, b'<' | b'>' | b'&' | b'|')).count();
        self.at += operator.min(2);
    }

    /// Adds the bodies of here-documents as input of the last command. Their lines are read as commands, too: the
    /// program may be a shell.
    fn here_documents(&mut self) {
        let mut from = self.at;
        for (end, strips) in std::mem::take(&mut self.here) {
            let mut at = from;
            while at < self.string.len() {
                let line_end = memchr(b'\n', &self.string[at..]).map_or(self.string.len(), |length| at + length);
                let line = &self.string[at..line_end];
                let line = if strips { line.trim_ascii_start() } else { line };
                if line == end {
                    if at > from {
                        let body = Text::Plain(from, at - 1);
                        self.pipeline.words.push(ShellWord { text: body, role: Role::Input });
                    }
                    from = (line_end + 1).min(self.string.len());
                    break;
                }
                at = line_end + 1;
            }
            if at >= self.string.len() {
                // Without an end no further one is looked for.
                self.here_left = 0;
                return;
            }
        }
    }

    /// Adds a byte to the word.
    fn push(&mut self, at: usize) {
        if self.building.as_ref().is_some_and(|word| word.decoded.is_none() && word.end != at) {
            self.quote();
        }
        let building = self.building.get_or_insert(Building { start: at, end: at, decoded: None });
        match &mut building.decoded {
            None => building.end = at + 1,
            Some((bytes, offsets)) => {
                bytes.push(self.string[at]);
                offsets.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
        }
    }

    /// From here on the word differs from the bytes of the string.
    fn quote(&mut self) {
        let at = self.at;
        let building = self.building.get_or_insert(Building { start: at, end: at, decoded: None });
        if building.decoded.is_none() {
            let range = building.start..building.end;
            let offsets = range.clone().map(|at| u32::try_from(at).unwrap_or(u32::MAX)).collect();
            building.decoded = Some((self.string[range].to_vec(), offsets));
        }
    }

    fn end_word(&mut self) {
        let Some(building) = self.building.take() else { return };
        let is_first = self.pipeline.starts.last() == Some(&self.pipeline.words.len());
        let text = match building.decoded {
            None => Text::Plain(building.start, building.end),
            // Quotes around a whole word: the bytes inside are a range.
            Some((bytes, offsets)) => match (offsets.first(), offsets.last()) {
                (Some(&first), Some(&last)) if (last - first) as usize + 1 == bytes.len() => {
                    Text::Plain(first as usize, last as usize + 1)
                }
                _ => Text::Decoded(bytes, offsets),
            },
        };
        let word = ShellWord { text, role: std::mem::replace(&mut self.role, Role::Argument) };
        if is_first && word.is_one_of(self.string, &RESERVED) {
            return;
        }
        self.pipeline.words.push(word);
    }

    /// Gives the pipeline to the caller.
    fn give(&mut self, take: &mut dyn FnMut(&Pipeline) -> bool) -> bool {
        let goes_on = self.pipeline.words.is_empty() || take(&self.pipeline);
        self.pipeline.words.clear();
        self.pipeline.starts.clear();
        self.pipeline.starts.push(0);
        goes_on
    }
}
