//! Command lines with labelled secrets, and the two figures of redaction: secrets missed, harmless words hidden.
//!
//! The templates are in `tests/fixtures/secrets/corpus`: one command line a row, arguments separated by tabs, `CANARY`
//! for the secret, `[[a|b]]` for one of several words.

const FILES: [&str; 4] = [
    include_str!("../fixtures/secrets/corpus/debian.tsv"),
    include_str!("../fixtures/secrets/corpus/cloud.tsv"),
    include_str!("../fixtures/secrets/corpus/shell.tsv"),
    include_str!("../fixtures/secrets/corpus/harmless.tsv"),
];
/// Secrets that stand for `CANARY`, in the order of the variants.
const SECRETS: [&str; 4] = ["C4n4ry-5ecret.x9", "Zq7Lm2Xv9TbK4wRc8NpH", "correct-horse-42", "hunter2hunter2"];
/// Harmless words in the order of the variants.
const WORDS: [(&str, [&str; 4]); 4] = [
    ("HOST", ["db.example", "192.0.2.7", "mq-1.example", "host"]),
    ("USER", ["ann", "app_rw", "svc-web", "bob"]),
    ("NAME", ["web", "shop-api", "cache", "worker_2"]),
    ("NUMBER", ["8080", "4096", "300", "1000"]),
];
/// Bytes in a row of a secret that may not be shown.
const SHOWN_BYTES_MAX: usize = 6;

/// A command line with the secret in it.
#[derive(Debug, Clone)]
pub struct LabelledCommand {
    /// The arguments.
    pub argv: Vec<String>,
    /// The secret; `None` for a harmless command line.
    pub secret: Option<&'static str>,
}

/// The two figures, with examples for a person.
#[derive(Debug, Default)]
pub struct RedactionFigures {
    /// Number of command lines.
    pub commands: usize,
    /// Number of command lines with a secret.
    pub with_secret: usize,
    /// Command lines whose secret is shown.
    pub missed: Vec<String>,
    /// Arguments without a secret.
    pub words: usize,
    /// Arguments of which harmless bytes are hidden.
    pub hidden: Vec<String>,
}

/// Returns the corpus.
pub fn corpus() -> Vec<LabelledCommand> {
    let mut commands = Vec::new();
    for line in FILES.iter().flat_map(|file| file.lines()).filter(|line| !line.starts_with("# ")) {
        for template in alternatives(line) {
            let has_secret = template.contains("CANARY");
            let changes = has_secret || WORDS.iter().any(|(word, _)| template.contains(word));
            for variant in 0..if changes { SECRETS.len() } else { 1 } {
                let mut text = template.replace("CANARY", SECRETS[variant]);
                for (word, values) in WORDS {
                    text = text.replace(word, values[variant]);
                }
                let argv = text.split('\t').map(str::to_owned).collect();
                commands.push(LabelledCommand { argv, secret: has_secret.then_some(SECRETS[variant]) });
            }
        }
    }
    commands
}

/// Replaces `[[a|b]]` by each of the words.
fn alternatives(line: &str) -> Vec<String> {
    let Some((before, rest)) = line.split_once("[[") else { return vec![line.to_owned()] };
    let Some((words, after)) = rest.split_once("]]") else { return vec![line.to_owned()] };
    let rest = alternatives(after);
    words.split('|').flat_map(|word| rest.iter().map(move |rest| format!("{before}{word}{rest}"))).collect()
}

impl RedactionFigures {
    /// Compares a command line with what redaction made of it.
    pub fn add(&mut self, command: &LabelledCommand, redacted: &[String]) {
        self.commands += 1;
        let shown: Vec<String> = redacted.iter().map(|argument| without_tokens(argument)).collect();
        if let Some(secret) = command.secret {
            self.with_secret += 1;
            let parts: Vec<&[u8]> = secret.as_bytes().windows(SHOWN_BYTES_MAX).collect();
            let shows = |text: &String| text.as_bytes().windows(SHOWN_BYTES_MAX).any(|window| parts.contains(&window));
            if shown.iter().any(shows) {
                self.missed.push(redacted.join(" "));
                return;
            }
        }
        for (argument, shown) in command.argv.iter().zip(&shown) {
            let secret = command.secret.filter(|secret| argument.contains(secret));
            let expected = secret.map_or_else(|| argument.clone(), |secret| argument.replace(secret, TOKEN));
            self.words += usize::from(secret.is_none());
            if *shown != expected {
                self.hidden.push(format!("{argument}  in  {}", command.argv.join(" ")));
            }
        }
    }
}

/// Stands for any token.
const TOKEN: &str = "\u{0}";

fn without_tokens(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("‹redacted") {
        shown.push_str(before);
        shown.push_str(TOKEN);
        rest = after.split_once('›').map_or("", |(_, rest)| rest);
    }
    shown + rest
}
