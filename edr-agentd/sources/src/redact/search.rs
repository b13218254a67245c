//! The search for secrets in a command line: programs, options and operands.

use super::assignment::{NamedValue, is_assignment, is_string, looks_like_option, named_value, unquoted};
use super::name::SecretName;
use super::options::{OptionPlace, find_option};
use super::rules::{Known, NamePower, Program, RuleId, Rules, Runs};
use super::shell::{self, Pipeline, Role};
use super::text;
use super::value;
use super::word::{Because, SecretPlace, Word};
use super::work::{self, SearchBudget};
use super::{places, scripts};

/// Nesting depth of searched command lines: a string (`sh -c`, `ssh host '…'`), and strings inside that string.
const DEPTH_MAX: usize = 3;

/// The search for secrets in a command line.
#[derive(Debug)]
pub(super) struct SecretSearch<'r> {
    pub(super) rules: &'r Rules,
    found: Vec<SecretPlace>,
    pub(super) work: SearchBudget,
}

/// The meaning of the next word, by an option.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// The word is a secret.
    Secret(Because),
    /// The part of the word behind this separator is a secret.
    After(u8, Because),
    /// The word is the value of a name.
    Named(SecretName),
    /// The word is a header.
    Header,
    /// The word is the value of an option without a secret.
    Value,
    /// The word is the option of a harmless value.
    Harmless,
    /// The word is a program.
    Program,
}

/// A word of a command line, with its place.
#[derive(Debug, Clone, Copy)]
struct Position<'w> {
    word: Word<'w>,
    /// All words of the command line, `word` at `index`.
    words: &'w [Word<'w>],
    index: usize,
    /// Nesting depth of the command line.
    depth: usize,
}

/// A command during the search of its words.
#[derive(Debug, Default)]
pub(super) struct Command<'r> {
    pub(super) known: Known,
    runs: Option<&'r Runs>,
    /// Index of the program.
    pub(super) begin: usize,
    /// Indexes of the operands.
    pub(super) operands: Vec<usize>,
    /// An operand that lets another program follow was seen.
    may_run: bool,
    options_ended: bool,
    is_prose: bool,
    bare: Option<RuleId>,
    login: Option<RuleId>,
    dsn: Option<(u8, RuleId)>,
    /// The index of the value of `-p` of an unknown program, and whether a user is named.
    password: Option<usize>,
    has_user: bool,
}

impl<'r> SecretSearch<'r> {
    pub(super) fn new(rules: &'r Rules, work_max: u64) -> Self {
        Self { rules, found: Vec::new(), work: SearchBudget::up_to(work_max) }
    }

    /// Returns the found secrets, sorted and without overlaps.
    pub(super) fn secrets(self) -> Vec<SecretPlace> {
        let mut found = self.found;
        found.sort_unstable_by_key(|secret| (secret.argument, secret.range.start));
        // Overlapping findings of two rules are merged into one secret.
        found.dedup_by(|later, earlier| {
            let overlap = later.argument == earlier.argument && later.range.start < earlier.range.end;
            if overlap {
                earlier.range.end = earlier.range.end.max(later.range.end);
            }
            overlap
        });
        found
    }

    /// Adds a range of `word` as a secret, unless the bytes are harmless.
    pub(super) fn add(&mut self, word: Word<'_>, range: std::ops::Range<usize>, because: Because) {
        if value::is_harmless(&word.bytes[range.clone()], word.place) {
            return;
        }
        self.add_any(word, range, because);
    }

    /// Adds a range of `word` as the value of a name, unless the bytes are harmless for that name.
    pub(super) fn add_named(&mut self, word: Word<'_>, range: std::ops::Range<usize>, name: SecretName) {
        if !value::is_harmless_for(name, &word.bytes[range.clone()], word.place) {
            self.add_any(word, range, Because::Rule(name.rule));
        }
    }

    /// The number of findings so far.
    pub(super) fn found_len(&self) -> usize {
        self.found.len()
    }

    fn add_any(&mut self, word: Word<'_>, range: std::ops::Range<usize>, because: Because) {
        let range = word.range(unquoted(word.bytes, range));
        if range.is_empty() {
            return;
        }
        let is_in_last = self.found.last().is_some_and(|last| {
            last.argument == word.argument && last.range.start <= range.start && range.end <= last.range.end
        });
        if !is_in_last {
            self.work.spend(work::TOKEN);
            self.found.push(SecretPlace { argument: word.argument, range, because });
        }
    }

    /// Adds the bytes of `word` after the first `separator` behind `start`, unless both sides are numbers or a host
    /// with its port.
    pub(super) fn add_after(&mut self, word: Word<'_>, start: usize, separator: u8, because: Because) {
        let value = &word.bytes[start..];
        let Some(at) = value.iter().position(|&b| b == separator) else { return };
        let (user, secret) = (&value[..at], &value[at + 1..]);
        let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
        let is_address = secret.starts_with(b"//")
            || is_number(secret) && (is_number(user) || secret.len() <= 5 && user.contains(&b'.'));
        if separator == b':' && is_address {
            return;
        }
        self.add(word, start + at + 1..word.bytes.len(), because);
    }

    /// Searches the words of one command. Returns the number of completely searched words.
    pub(super) fn command(&mut self, words: &[Word<'_>], depth: usize) -> usize {
        let mut command = Command::default();
        let mut next = Some(Next::Program);
        for (index, &word) in words.iter().enumerate() {
            self.work.spend(work::WORD + word.bytes.len());
            next = self.word(Position { word, words, index, depth }, &mut command, next);
            if self.work.is_spent() {
                self.finish(words, index + 1, &command);
                return index;
            }
        }
        self.finish(words, words.len(), &command);
        words.len()
    }

    /// Searches a word. Returns the meaning of the next word, when known.
    fn word(&mut self, at: Position<'_>, command: &mut Command<'r>, next: Option<Next>) -> Option<Next> {
        let word = at.word;
        let bytes = word.bytes;
        match next {
            Some(Next::Program) => return self.program(at, command),
            Some(Next::Value) => {
                self.value(word, at, command);
                return None;
            }
            Some(_) if looks_like_option(bytes) => {}
            Some(Next::Secret(because)) => {
                // openssl-passphrase-options(1)
                let start = if bytes.starts_with(b"pass:") { 5 } else { 0 };
                self.add(word, start..bytes.len(), because);
                return None;
            }
            Some(Next::After(separator, because)) => {
                self.add_after(word, 0, separator, because);
                self.value(word, at, command);
                return None;
            }
            Some(Next::Named(name)) if !value::is_harmless_for(name, bytes, word.place) => {
                // `set NAME VALUE`: a rule about operands counts the value, too.
                if at.index.checked_sub(1).is_some_and(|before| command.operands.last() == Some(&before)) {
                    command.operands.push(at.index);
                }
                self.add_named(word, 0..bytes.len(), name);
                return None;
            }
            Some(Next::Named(_)) => {}
            Some(Next::Header) => {
                if !text::header(word, 0, self) {
                    self.value(word, at, command);
                }
                return None;
            }
            Some(Next::Harmless) => return None,
            None => {}
        }
        if bytes == b"--" && !command.options_ended {
            command.options_ended = true;
            return None;
        }
        if !command.options_ended || matches!(bytes.first(), Some(b'-')) {
            if let Some(place) = find_option(self.rules, command, word, at.words, at.index) {
                return self.option(at, command, place);
            }
            if matches!(bytes, [b'-', _, ..]) {
                return self.unknown_option(at, command);
            }
        }
        self.operand(at, command)
    }

    /// Begins a command with its program.
    fn program(&mut self, at: Position<'_>, command: &mut Command<'r>) -> Option<Next> {
        let word = at.word;
        if let NamedValue::Here(start, name) = named_value(word.bytes, self.rules)
            && (word.bytes.starts_with(b"-") || at.depth >= DEPTH_MAX || !is_string(word.bytes, start, b"--"))
        {
            self.add_named(word, start..word.bytes.len(), name);
            return Some(Next::Program);
        }
        if is_assignment(word.bytes) && at.words.len() > 1 {
            text::secrets(word, self);
            return Some(Next::Program);
        }
        *command = Command { begin: at.index, operands: std::mem::take(&mut command.operands), ..Command::default() };
        command.operands.clear();
        if word.bytes.iter().any(u8::is_ascii_whitespace) {
            self.value(word, at, command);
            return None;
        }
        command.known = self.rules.program(word.bytes);
        for program in command.known.programs(self.rules) {
            command.runs = command.runs.or(program.runs.as_ref());
            command.bare = command.bare.or(program.bare);
            command.login = command.login.or(program.login);
            command.dsn = command.dsn.or(program.dsn);
            command.is_prose |= program.is_prose;
        }
        if matches!(command.runs, Some(Runs::Within(after)) if after.is_empty()) {
            command.may_run = true;
        }
        text::secrets(word, self);
        None
    }

    /// Searches the value of an option without a rule.
    fn value(&mut self, word: Word<'_>, at: Position<'_>, command: &Command<'r>) {
        text::secrets(word, self);
        self.strings(word, at, command);
    }

    /// Searches a string with the syntax of a command line.
    fn strings(&mut self, word: Word<'_>, at: Position<'_>, command: &Command<'r>) {
        if at.depth >= DEPTH_MAX || command.is_prose || !word.bytes.iter().any(u8::is_ascii_whitespace) {
            return;
        }
        if matches!(word.bytes, [b'{' | b'[', b'"' | b'{' | b'[', ..] | [b'<', ..]) {
            return;
        }
        if text::is_statement(word.bytes) {
            return;
        }
        let program = at.words.get(command.begin).map_or(&b""[..], |program| program.bytes);
        if at.index > command.begin && program.ends_with(b"expect") {
            return scripts::expect(word, self);
        }
        self.inner_commands(word, at.depth + 1);
    }

    fn option(&mut self, at: Position<'_>, command: &mut Command<'r>, place: OptionPlace) -> Option<Next> {
        let word = at.word;
        match place {
            OptionPlace::Here { start, after: None, rule } => {
                self.add(word, start..word.bytes.len(), Because::Rule(rule));
                None
            }
            OptionPlace::Here { start, after: Some(separator), rule } => {
                self.add_after(word, start, separator, Because::Rule(rule));
                self.value(word, at, command);
                None
            }
            OptionPlace::Next { after: None, rule } => Some(Next::Secret(Because::Rule(rule))),
            OptionPlace::Next { after: Some(separator), rule } => Some(Next::After(separator, Because::Rule(rule))),
            OptionPlace::Asks => None,
            OptionPlace::Plain { start, with_next } => {
                self.value(word.part(start..word.bytes.len()), at, command);
                with_next.then_some(Next::Value)
            }
            OptionPlace::Harmless => Some(Next::Harmless),
        }
    }

    /// An option without a rule for its program.
    fn unknown_option(&mut self, at: Position<'_>, command: &mut Command<'r>) -> Option<Next> {
        const HEADERS: [&[u8]; 8] = [
            b"-H",
            b"--header",
            b"--headers",
            b"-header",
            b"--add-header",
            b"--extra-header",
            b"--request-header",
            b"--http-header",
        ];
        let word = at.word;
        let bytes = word.bytes;
        if HEADERS.contains(&bytes) {
            return Some(Next::Header);
        }
        for header in HEADERS {
            if let Some(rest) = bytes.strip_prefix(header) {
                let start = header.len() + usize::from(rest.first() == Some(&b'='));
                if (rest.first() == Some(&b'=') || header == b"-H") && text::header(word, start, self) {
                    return None;
                }
            }
        }
        if matches!(bytes, b"-exec" | b"-execdir" | b"-ok" | b"-okdir") {
            return Some(Next::Program);
        }
        if !command.known.is_known() {
            let has_value = at.words.get(at.index + 1).is_some_and(|next| !next.bytes.starts_with(b"-"));
            match bytes {
                b"-u" | b"-U" | b"--user" | b"--username" if has_value => command.has_user = true,
                b"-p" | b"-P" | b"-w" if has_value => {
                    command.password = Some(at.index + 1);
                    return Some(Next::Value);
                }
                _ => {}
            }
        }
        match named_value(bytes, self.rules) {
            NamedValue::Here(start, name) if name.power != NamePower::Variable => {
                if value::is_harmless_for(name, &bytes[start..], word.place) {
                    self.value(word, at, command);
                } else {
                    self.add_named(word, start..bytes.len(), name);
                }
                return None;
            }
            NamedValue::Next(name) if name.power != NamePower::Variable => return Some(Next::Named(name)),
            _ => {}
        }
        self.value(word, at, command);
        let takes = |program: &Program| program.takes.iter().any(|option| option == bytes);
        command.known.programs(self.rules).any(takes).then_some(Next::Value)
    }

    /// A word that is no option.
    fn operand(&mut self, at: Position<'_>, command: &mut Command<'r>) -> Option<Next> {
        let Position { word, words, index, depth } = at;
        let bytes = word.bytes;
        let before = index.checked_sub(1).and_then(|before| words.get(before)).map_or(&b""[..], |word| word.bytes);
        let follows = match command.runs {
            Some(Runs::After(operands)) => command.operands.len() >= *operands && index > command.begin,
            Some(Runs::Within(after)) => {
                let known = (command.may_run && (!before.starts_with(b"-") || before == b"--"))
                    .then(|| self.rules.program(bytes));
                command.may_run |= before == b"--" || after.iter().any(|word| word == bytes);
                known.is_some_and(|known| self.has_secrets(known))
            }
            None => !command.known.is_known() && before == b"--" && self.has_secrets(self.rules.program(bytes)),
        };
        if follows {
            let begin = command.begin;
            self.finish(words, index, command);
            let next = self.program(at, command);
            // An assignment before the program: `env A=B program`.
            if matches!(next, Some(Next::Program)) {
                command.begin = begin;
            }
            return next;
        }
        command.operands.push(index);
        if let Some(rule) = command.login
            && let Some(range) = text::login(bytes)
        {
            self.add(word, range, Because::Rule(rule));
            return None;
        }
        if let Some((field, rule)) = command.dsn
            && let Some(range) = places::dsn_field(bytes, field)
        {
            self.add(word, range, Because::Rule(rule));
            return None;
        }
        match named_value(bytes, self.rules) {
            NamedValue::Here(start, name) if !(depth < DEPTH_MAX && is_string(bytes, start, before)) => {
                if value::is_harmless_for(name, &bytes[start..], word.place) {
                    text::secrets(word, self);
                } else {
                    self.add_named(word, start..bytes.len(), name);
                }
                return None;
            }
            NamedValue::Next(name) if command.bare.is_some() => return Some(Next::Named(name)),
            _ => {}
        }
        self.value(word, at, command);
        // `config set NAME VALUE` of any program.
        const VERBS: [&[u8]; 8] = [b"set", b"config", b"put", b"store", b"write", b"SET", b"modify", b"update"];
        if VERBS.contains(&before)
            && index > command.begin + 1
            && let NamedValue::Next(name) = named_value(bytes, self.rules)
        {
            return Some(Next::Named(name));
        }
        None
    }

    fn has_secrets(&self, known: Known) -> bool {
        known.programs(self.rules).any(Program::has_secrets)
    }

    /// Applies the rules about the whole command, whose words end before `end`.
    fn finish(&mut self, words: &[Word<'_>], end: usize, command: &Command<'r>) {
        let words = &words[..end];
        if let Some(value) = command.password
            && command.has_user
            && let Some(&word) = words.get(value)
            && places::may_be_password(word.bytes)
        {
            self.add(word, 0..word.bytes.len(), Because::Structure("-p VALUE beside -u NAME"));
        }
        for program in command.known.programs(self.rules) {
            places::operands(program, command, words, self);
            places::pairs(program, command, words, self);
        }
    }

    /// Searches a string with the syntax of a command line: its words are searched like arguments.
    pub(super) fn inner_commands(&mut self, string: Word<'_>, depth: usize) {
        self.work.spend(string.bytes.len());
        shell::each_pipeline(string.bytes, &mut |pipeline| {
            self.pipeline(string, pipeline, depth);
            !self.work.is_spent()
        });
    }

    fn pipeline(&mut self, string: Word<'_>, pipeline: &Pipeline, depth: usize) {
        let offsets: Vec<Vec<u32>> = pipeline.words.iter().map(|word| word.offsets(string)).collect();
        let all: Vec<(Word<'_>, Role)> = pipeline
            .words
            .iter()
            .zip(&offsets)
            .map(|(word, offsets)| (word.word(string, offsets), word.role))
            .collect();
        let mut commands: Vec<Vec<Word<'_>>> = Vec::with_capacity(pipeline.starts.len());
        let mut inputs: Vec<(usize, Word<'_>)> = Vec::new();
        for (number, start) in pipeline.starts.iter().enumerate() {
            let end = pipeline.starts.get(number + 1).copied().unwrap_or(all.len());
            let words = all.get(*start..end).unwrap_or_default();
            commands.push(words.iter().filter(|(_, role)| *role == Role::Argument).map(|(word, _)| *word).collect());
            inputs.extend(words.iter().filter(|(_, role)| *role == Role::Input).map(|(word, _)| (number, *word)));
        }
        for words in &commands {
            self.command(words, depth);
        }
        for &(number, input) in &inputs {
            match scripts::reads_secret(&commands[number], self) {
                Some(rule) => scripts::input(input, rule, self),
                None => text::secrets(input, self),
            }
        }
        for (words, reader) in commands.iter().zip(commands.iter().skip(1)) {
            if let Some(operands) = scripts::printed(words)
                && let Some(rule) = scripts::reads_secret(reader, self)
            {
                for &word in operands {
                    scripts::input(word, rule, self);
                }
            }
        }
    }
}
