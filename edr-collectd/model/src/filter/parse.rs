//! The grammar, by recursive descent:
//!
//! ```text
//! any    = all { "or" all }
//! all    = one { [ "and" ] one }
//! one    = ( "not" | "!" ) one  |  "(" any ")"  |  term
//! term   = column operator ( value | "(" any ")" )  |  text
//! ```
//!
//! Inside the parentheses after an operator, a text is a value of the column: `pid:(1 or 2)`.

use std::ops::Range;

use super::address::Network;
use super::pattern::Pattern;
use super::test::Search;
use super::value::{self, Refusal};
use super::word::Word;
use super::{CHARS_MAX, CONDITIONS_MAX, Condition, DEPTH_MAX, FilterError, Operator, names};
use crate::column::{Column, Kind};

const FORMS: &str = "conditions: text, \"text in quotes\", column:value, column=value, !=, <, <=, >, >=, joined with \
                     and, or, not, ( )";

/// Parses a filter; `None` for an empty text.
pub(super) fn condition(text: &str, columns: &[Column], now_ns: i64) -> Result<Option<Condition>, FilterError> {
    let mut parser = Parser { text, at: 0, columns, now_ns, conditions: 0, depth: 0, operand: None };
    if text.chars().nth(CHARS_MAX).is_some() {
        let at = text.char_indices().nth(CHARS_MAX).map_or(0, |(at, _)| at);
        return Err(parser.error(at..at, "the filter is too long", &format!("at most {CHARS_MAX} characters")));
    }
    parser.skip_space();
    if parser.rest().is_empty() {
        return Ok(None);
    }
    let condition = parser.any()?;
    if parser.rest().is_empty() {
        return Ok(Some(condition));
    }
    let at = parser.at;
    Err(parser.error(at..at + 1, "this parenthesis closes nothing", FORMS))
}

/// A column and an operator, which wait for values.
#[derive(Debug, Clone)]
struct Operand {
    places: Vec<usize>,
    operator: Operator,
    at: Range<usize>,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    columns: &'a [Column],
    now_ns: i64,
    conditions: usize,
    depth: usize,
    /// The column of a text inside of parentheses.
    operand: Option<Operand>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, at: Range<usize>, message: &str, possible: &str) -> FilterError {
        FilterError { filter: self.text.to_owned(), at, message: message.to_owned(), possible: possible.to_owned() }
    }

    fn refused(&self, at: Range<usize>, refusal: &Refusal) -> FilterError {
        self.error(at, &refusal.message, &refusal.possible)
    }

    /// Consumes a keyword: a whole word outside of quotes.
    fn keyword(&mut self, keyword: &str) -> bool {
        let rest = self.rest();
        let is_keyword = rest.get(..keyword.len()).is_some_and(|start| start.eq_ignore_ascii_case(keyword))
            && rest[keyword.len()..].chars().next().is_none_or(ends_word);
        if is_keyword {
            self.at += keyword.len();
            self.skip_space();
        }
        is_keyword
    }

    fn any(&mut self) -> Result<Condition, FilterError> {
        let mut any = vec![self.all()?];
        while self.keyword("or") {
            any.push(self.all()?);
        }
        Ok(Condition::any(any))
    }

    fn all(&mut self) -> Result<Condition, FilterError> {
        let mut all = Vec::new();
        loop {
            all.push(self.one()?);
            self.skip_space();
            let is_joined = self.keyword("and");
            if !is_joined && (self.rest().is_empty() || self.rest().starts_with(')') || self.is_next("or")) {
                return Ok(Condition::all(all));
            }
        }
    }

    fn is_next(&mut self, keyword: &str) -> bool {
        let at = self.at;
        let is_next = self.keyword(keyword);
        self.at = at;
        is_next
    }

    fn one(&mut self) -> Result<Condition, FilterError> {
        self.skip_space();
        let start = self.at;
        if self.depth >= DEPTH_MAX {
            return Err(self.error(start..start, "the filter is too deep", &format!("at most {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        // The heading `Not readable` is no negation.
        let is_name = self.heading_len().is_some() || names::phrase_len(self.columns, self.rest()).is_some();
        let condition = if !is_name && (self.keyword("not") || self.negation()) {
            Condition::Not(Box::new(self.one()?))
        } else if self.rest().starts_with('(') {
            self.group()?
        } else {
            self.term()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn negation(&mut self) -> bool {
        let is_negation = self.rest().starts_with('!') && !self.rest().starts_with("!=");
        self.at += usize::from(is_negation);
        is_negation
    }

    fn group(&mut self) -> Result<Condition, FilterError> {
        let start = self.at;
        self.at += 1;
        let condition = self.any()?;
        self.skip_space();
        if !self.rest().starts_with(')') {
            return Err(self.error(start..start + 1, "this parenthesis is not closed", "write the closing `)`"));
        }
        self.at += 1;
        Ok(condition)
    }

    fn term(&mut self) -> Result<Condition, FilterError> {
        let start = self.at;
        let is_missing = self.rest().is_empty() || self.rest().starts_with(')');
        if is_missing || self.is_next("and") || self.is_next("or") {
            return Err(self.error(start..start, "a condition is missing here", FORMS));
        }
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            let most = format!("at most {CONDITIONS_MAX} conditions");
            return Err(self.error(start..start, "the filter has too many conditions", &most));
        }
        if let Some(operand) = self.operand()? {
            self.skip_space();
            if !self.rest().starts_with('(') {
                return self.value(&operand);
            }
            let outer = self.operand.replace(operand);
            let condition = self.group()?;
            self.operand = outer;
            return Ok(condition);
        }
        match self.operand.clone() {
            Some(operand) => self.value(&operand),
            None => self.search(),
        }
    }

    /// Consumes a column and an operator, when both are next.
    fn operand(&mut self) -> Result<Option<Operand>, FilterError> {
        let start = self.at;
        let Some((name, end)) = self.name()? else { return Ok(None) };
        let places = names::resolve(self.columns, &name);
        let is_known = !places.is_empty();
        let after = &self.text[end..];
        let operator_at = end + if after.starts_with(':') { 0 } else { after.len() - after.trim_start().len() };
        let run = &self.text[operator_at..];
        let len =
            if run.starts_with(':') { 1 } else { run.len() - run.trim_start_matches(['=', '!', '<', '>', '~']).len() };
        let run = &run[..len];
        let is_text = match run {
            "" => true,
            ":" => !is_known && (after.starts_with("://") || Network::parse(self.bare()).is_some()),
            "!" if operator_at > end => true,
            _ => !is_known && (run.starts_with('~') || (run.starts_with('!') && run != "!=")),
        };
        if is_text {
            return Ok(None);
        }
        if !is_known {
            let refusal = value::unknown_column(self.columns, &name);
            return Err(self.refused(start..end, &refusal));
        }
        let at = operator_at..operator_at + len;
        let Some(operator) = Operator::ALL.into_iter().find(|operator| operator.symbol() == run) else {
            let possible = "operators: `:` `=` `!=` `<` `<=` `>` `>=`; a value that begins with such a character needs \
                            quotes";
            return Err(self.error(at, &format!("there is no operator `{run}`"), possible));
        };
        self.at = at.end;
        Ok(Some(Operand { places, operator, at }))
    }

    /// Returns the name that is next, and the end of the name; `None` for a text that cannot be a name.
    fn name(&mut self) -> Result<Option<(String, usize)>, FilterError> {
        let (start, rest) = (self.at, self.rest());
        if rest.starts_with(['"', '\'']) {
            let mut word = Word::default();
            let end = self.quoted(start, &mut word)?;
            return Ok(Some((word.text(), end)));
        }
        let is_inside = |c: char| c.is_alphanumeric() || "_.-%".contains(c);
        let len = match self.heading_len() {
            Some(len) => len,
            None if rest.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '@') => {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                rest[first..].find(|c| !is_inside(c)).map_or(rest.len(), |len| first + len)
            }
            None => return Ok(None),
        };
        Ok(Some((rest[..len].to_owned(), start + len)))
    }

    /// Returns the length of a heading with spaces, when heading and operator are next.
    fn heading_len(&self) -> Option<usize> {
        let len = names::heading_len(self.columns, self.rest())?;
        self.rest()[len..].trim_start().starts_with([':', '=', '!', '<', '>', '~']).then_some(len)
    }

    /// Returns the characters up to a space or parenthesis.
    fn bare(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(ends_word).unwrap_or(rest.len())]
    }

    /// Adds the quoted text at `start` to the word; returns the end.
    fn quoted(&self, start: usize, word: &mut Word) -> Result<usize, FilterError> {
        let mut chars = self.text[start..].char_indices();
        let quote = chars.next().map_or('"', |(_, quote)| quote);
        for (at, c) in chars {
            if c == quote {
                return Ok(start + at + 1);
            }
            word.chars.push((c, true));
        }
        let possible =
            format!("write the closing {quote}; a quote that is text needs the other kind of quotes around it");
        Err(self.error(start..start + 1, "this quote is not closed", &possible))
    }

    /// Consumes a word. A quote opens at the start, after a closed quote, after `*` or `?`, and after the `..` of a
    /// range; elsewhere a quote is text: `it's`.
    fn word(&mut self) -> Result<Word, FilterError> {
        let mut word = Word { at: self.at..self.at, ..Word::default() };
        let mut opens = true;
        while let Some(c) = self.rest().chars().next() {
            if opens && (c == '"' || c == '\'') {
                self.at = self.quoted(self.at, &mut word)?;
            } else if ends_word(c) {
                break;
            } else {
                word.chars.push((c, false));
                self.at += c.len_utf8();
                opens = c == '*' || c == '?' || word.chars.ends_with(&[('.', false), ('.', false)]);
            }
        }
        word.at.end = self.at;
        Ok(word)
    }

    fn value(&mut self, operand: &Operand) -> Result<Condition, FilterError> {
        let next = self.rest();
        let is_apart = self.at > operand.at.end;
        if next.is_empty() || next.starts_with(')') || (is_apart && (self.is_next("and") || self.is_next("or"))) {
            let column = self.columns[operand.places[0]].name;
            let possible = format!("{column}:* finds the rows with any value, {column}:\"\" those without a value");
            return Err(self.error(operand.at.clone(), "a value is missing here", &possible));
        }
        let first = self.word()?;
        let mut phrases = Vec::new();
        if operand.places.iter().any(|&place| value::takes_phrases(&self.columns[place])) {
            phrases = self.phrases(&first);
        }
        // Finds the longest phrase with a valid value: `yesterday 03:12` in `started>yesterday 03:12 nginx`.
        let found = phrases.iter().rev().find_map(|phrase| Some((self.tests(operand, phrase).ok()?, phrase.at.end)));
        if let Some((condition, end)) = found {
            self.at = end;
            return Ok(condition);
        }
        self.tests(operand, &first).map_err(|refusal| {
            let at = if refusal.is_operator { operand.at.clone() } else { first.at.clone() };
            self.refused(at, &refusal)
        })
    }

    /// Returns the word with the next word, and with the next two words.
    fn phrases(&mut self, first: &Word) -> Vec<Word> {
        let (end, mut phrases, mut phrase) = (self.at, Vec::new(), first.clone());
        for _ in 0..2 {
            self.skip_space();
            match self.word() {
                Ok(next) if !next.at.is_empty() => phrase = phrase.joined(&next),
                _ => break,
            }
            phrases.push(phrase.clone());
        }
        self.at = end;
        phrases
    }

    /// Returns the condition that any column of the operand passes. A column whose type differs from the value's is
    /// left out when another column fits.
    fn tests(&self, operand: &Operand, word: &Word) -> Result<Condition, Refusal> {
        let (mut tests, mut refused) = (Vec::new(), None);
        for &place in &operand.places {
            match value::test(&self.columns[place], operand.operator, word, self.now_ns) {
                Ok(test) => tests.push((place, test)),
                Err(refusal) => _ = refused.get_or_insert(refusal),
            }
        }
        if let Some(refusal) = refused.filter(|_| tests.is_empty()) {
            return Err(refusal);
        }
        let names: Vec<&str> = tests.iter().map(|(place, _)| self.columns[*place].name).collect();
        let is_text =
            tests.iter().all(|(place, _)| matches!(self.columns[*place].kind, Kind::Text | Kind::Bytes | Kind::List));
        let verb = match operand.operator {
            Operator::Has if is_text && !word.is_glob() => "contains",
            Operator::Has | Operator::Is | Operator::Differs => "is",
            order => order.symbol(),
        };
        let value = match word.chars.as_slice() {
            [] => "empty".to_owned(),
            _ if word.is_any() => "not empty".to_owned(),
            _ => shown(word),
        };
        let verb = if word.chars.is_empty() { "is" } else { verb };
        let condition = Condition::Column { tests, words: format!("{} {verb} {value}", names.join(" or ")) };
        Ok(match operand.operator {
            Operator::Differs => Condition::Not(Box::new(condition)),
            _ => condition,
        })
    }

    fn search(&mut self) -> Result<Condition, FilterError> {
        let start = self.at;
        let word = match names::phrase_len(self.columns, self.rest()) {
            Some(len) => {
                self.at += len;
                Word { at: start..self.at, ..Word::bare(&self.text[start..self.at]) }
            }
            None => self.word()?,
        };
        let bare = &self.text[word.at.clone()];
        let operator = bare.len() - bare.trim_start_matches(['=', '<', '>', '!']).len();
        if operator > 0 {
            let possible = format!("{}\nto search for the text itself, write it in quotes", names::all(self.columns));
            return Err(self.error(start..start + operator, "the column before the operator is missing", &possible));
        }
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if word.range().is_some_and(|(low, high)| is_digits(&low) && is_digits(&high) && low.len() + high.len() > 0) {
            let possible = format!("{}\nto search for the text itself, write it in quotes", names::all(self.columns));
            return Err(self.error(word.at, "a range needs a column before it", &possible));
        }
        let text = word.text();
        if text.is_empty() {
            return Err(self.error(word.at, "the text is empty", FORMS));
        }
        let is_flag = |place: &usize| self.columns[*place].kind == Kind::Flag;
        let search = Search {
            pattern: Pattern::new(&word, false),
            network: Network::parse(&text),
            flags: names::resolve(self.columns, &text).into_iter().filter(is_flag).collect(),
        };
        let verb = if word.is_glob() { "is" } else { "contains" };
        Ok(Condition::Search { search, words: format!("any column {verb} {}", shown(&word)) })
    }
}

/// Returns the text in quotes; a glob without quotes.
fn shown(word: &Word) -> String {
    let text = edr_wire::visible(word.text().as_bytes());
    if word.is_glob() { text } else { format!("“{text}”") }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || c == '(' || c == ')'
}
