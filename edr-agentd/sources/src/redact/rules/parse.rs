//! Reads one line of the table.

use super::table::{
    ByteClass, NamePower, OptionRule, PairRule, PlacePart, PlaceRule, PlainOption, Program, RuleId, Rules, Runs,
    SecretForm,
};

/// Longest line of a rule, bytes.
const RULE_BYTES_MAX: usize = 4_096;

/// A line that is no rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no rule: {reason}")]
pub struct RuleFault {
    /// The line.
    pub text: String,
    /// What is wrong with the line.
    pub reason: &'static str,
}

/// Adds a line to the rules. `place` is the source of a line without one.
pub(super) fn add(rules: &mut Rules, line: &str, place: &str) -> Result<(), RuleFault> {
    let fault = |reason| RuleFault { text: line.chars().take(200).collect(), reason };
    if line.len() > RULE_BYTES_MAX {
        return Err(fault("a rule has at most 4096 bytes"));
    }
    let (text, source) = line.split_once(" # ").unwrap_or((line, place));
    let rule = RuleId::try_from(rules.texts.len()).map_err(|_| fault("there are too many rules"))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((&kind, words)) = words.split_first() else { return Err(fault("the line is empty")) };
    if words.is_empty() {
        return Err(fault("words are missing after the kind"));
    }
    one(rules, kind, words, rule).map_err(fault)?;
    rules.texts.push((text.trim().to_owned(), source.trim().to_owned()));
    Ok(())
}

fn one(rules: &mut Rules, kind: &str, words: &[&str], rule: RuleId) -> Result<(), &'static str> {
    match kind {
        "name" => names(rules, words, NamePower::Strong, rule),
        "weak" => names(rules, words, NamePower::Weak, rule),
        "pin" => names(rules, words, NamePower::Pin, rule),
        "variable" => names(rules, words, NamePower::Variable, rule),
        "plain" => names(rules, words, NamePower::Plain, rule),
        "tail" => {
            rules.tails.extend(words.iter().map(|word| (lower(word), ())));
            Ok(())
        }
        "header" | "plainheader" => {
            for word in words {
                match word.strip_prefix('*') {
                    Some(end) => rules.header_ends.push((lower(end), kind == "header", rule)),
                    None => {
                        rules.headers.insert(lower(word), (kind == "header", rule));
                    }
                }
            }
            Ok(())
        }
        "query" => {
            rules.queries.extend(words.iter().map(|word| (lower(word), rule)));
            Ok(())
        }
        "form" => form(rules, words, rule),
        "hook" => {
            rules.hooks.extend(words.iter().map(|word| (word.as_bytes().to_vec(), rule)));
            Ok(())
        }
        _ => {
            let (programs, words) = words.split_first().ok_or("the program is missing")?;
            for name in programs.split(',') {
                let program = program(rules, name)?;
                program_rule(program, kind, words, rule)?;
            }
            Ok(())
        }
    }
}

fn lower(word: &str) -> Vec<u8> {
    word.as_bytes().to_ascii_lowercase()
}

fn names(rules: &mut Rules, words: &[&str], power: NamePower, rule: RuleId) -> Result<(), &'static str> {
    for word in words {
        let (end, is_end) = word.strip_prefix('*').map_or((*word, false), |end| (end, true));
        let joined: Vec<u8> = lower(end).into_iter().filter(|byte| !matches!(byte, b'_' | b'-' | b'.')).collect();
        if joined.is_empty() {
            return Err("a name has letters");
        }
        match is_end {
            true => rules.name_ends.push((joined, power, rule)),
            false => {
                rules.names.insert(joined, (power, rule));
            }
        }
    }
    Ok(())
}

fn form(rules: &mut Rules, words: &[&str], rule: RuleId) -> Result<(), &'static str> {
    let &[prefix, class, more] = words else { return Err("a form is PREFIX CLASS NUMBER") };
    let class = match class {
        "digits" => ByteClass::Digits,
        "hex" => ByteClass::Hex,
        "upper" => ByteClass::Upper,
        "alnum" => ByteClass::Alnum,
        "word" => ByteClass::Word,
        "mixed" => ByteClass::Mixed,
        "dotted" => ByteClass::Dotted,
        "any" => ByteClass::Any,
        _ => return Err("a class is digits, hex, upper, alnum, word, mixed, dotted or any"),
    };
    let more = more.parse().ok().filter(|more| (4..=4_096).contains(more)).ok_or("the number is from 4 to 4096")?;
    if prefix.len() < 2 {
        return Err("a prefix has two bytes or more");
    }
    rules.forms.resize_with(256, Vec::new);
    let prefix = prefix.as_bytes().to_vec();
    rules.forms[usize::from(prefix[0])].push(SecretForm { prefix, class, more, rule });
    Ok(())
}

fn program<'r>(rules: &'r mut Rules, name: &str) -> Result<&'r mut Program, &'static str> {
    let key = name.as_bytes().to_vec();
    if key.is_empty() {
        return Err("a program has a name");
    }
    let next = rules.programs.len();
    let at = *rules.program_names.entry(key.clone()).or_insert(next);
    if at == next {
        rules.programs.push(Program::default());
        if let Some(beginning) = name.strip_suffix('*').filter(|beginning| !beginning.is_empty()) {
            rules.program_beginnings.push((beginning.as_bytes().to_vec(), at));
        }
    }
    rules.programs.get_mut(at).ok_or("there are too many programs")
}

fn program_rule(program: &mut Program, kind: &str, words: &[&str], rule: RuleId) -> Result<(), &'static str> {
    let bytes = |words: &[&str]| -> Vec<Vec<u8>> { words.iter().map(|word| word.as_bytes().to_vec()).collect() };
    match kind {
        "known" => {}
        "bare" => program.bare = Some(rule),
        "login" => program.login = Some(rule),
        "prose" => program.is_prose = true,
        "dsn" => program.dsn = words.first().and_then(|word| word.bytes().next()).map(|field| (field, rule)),
        "takes" => program.takes.extend(bytes(words)),
        "flags" => program.flags.extend(words.concat().bytes()),
        "stdin" => program.stdin.push((bytes(words), rule)),
        "runs" => {
            program.runs = match words {
                ["*", words @ ..] => Some(Runs::Within(bytes(words))),
                [number] => Some(Runs::After(number.parse().map_err(|_| "the number of operands is no number")?)),
                _ => return Err("runs takes a number of operands"),
            }
        }
        "pair" => {
            let [name, value] = words else { return Err("a pair is two options") };
            let options = |text: &str| text.split('|').map(|option| option.as_bytes().to_vec()).collect();
            program.pairs.push(PairRule { name: options(name), value: options(value), rule });
        }
        "not" => {
            let at = words.iter().position(|word| is_option(word)).ok_or("the option is missing")?;
            for option in words[at].split('|') {
                let (when, values) = (bytes(&words[..at]), bytes(&words[at + 1..]));
                program.plain.push(PlainOption { when, name: option.as_bytes().to_vec(), values });
            }
        }
        "command" => return command(program, words, rule),
        _ => return Err("the kind is unknown"),
    }
    Ok(())
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with(['-', '/', '+', '>'])
}

/// The part of a word before `SECRET`, and the separator before the secret: `USER:SECRET`.
fn separator(template: &str) -> Option<Option<u8>> {
    let before = template.strip_suffix("SECRET")?;
    let is_field = before.len() > 1 && before[..before.len() - 1].bytes().all(|byte| byte.is_ascii_uppercase());
    match before.bytes().last() {
        None => Some(None),
        Some(last) if is_field && !last.is_ascii_uppercase() => Some(Some(last)),
        _ => None,
    }
}

fn command(program: &mut Program, words: &[&str], rule: RuleId) -> Result<(), &'static str> {
    let (&last, before) = words.split_last().ok_or("the place of the secret is missing")?;
    let when = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_ascii_lowercase()).collect::<Vec<_>>();
    let mut options = |names: &str, joined: bool, next: bool, after, before: &[&str]| {
        for name in names.split('|') {
            let is_short = name.len() == 2 || name.ends_with(':') && name.len() > 2;
            let glued = joined && (is_short || !next && !name.ends_with('='));
            let name = name.strip_suffix('=').unwrap_or(name).as_bytes().to_vec();
            program.options.push(OptionRule { name, joined, next, glued, after, when: when(before), rule });
        }
    };
    if let Some((names, template)) = last.split_once("[]") {
        let after = separator(template).ok_or("SECRET is missing after []")?;
        options(names, true, true, after, before);
        return Ok(());
    }
    if let Some(after) = separator(last) {
        // `-x SECRET`: an option directly before.
        if let Some((&option, before)) = before.split_last().filter(|(option, _)| is_option(option)) {
            // Options with operands between are conditions of a place.
            if before.iter().all(|word| !is_option(word)) {
                options(option, false, true, after, before);
                return Ok(());
            }
        }
        let (conditions, parts): (Vec<&str>, Vec<&str>) = words.iter().copied().partition(|word| is_option(word));
        let parts = parts
            .iter()
            .map(|&part| match part {
                "_" => PlacePart::Any,
                "NAME" => PlacePart::Name,
                "..." => PlacePart::Rest,
                _ => separator(part).map_or_else(|| PlacePart::Word(lower(part)), PlacePart::Secret),
            })
            .collect();
        let options = conditions.iter().map(|option| option.as_bytes().to_vec()).collect();
        program.places.push(PlaceRule { options, parts, rule });
        return Ok(());
    }
    match last.strip_suffix("SECRET").filter(|option| is_option(option) || [">", "<", "#"].contains(option)) {
        Some(option) => {
            options(option, true, false, None, before);
            Ok(())
        }
        None => Err("SECRET is missing at the end"),
    }
}
