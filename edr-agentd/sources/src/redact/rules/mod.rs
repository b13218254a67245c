//! The rules: one table of data in the files `*.rules` of this folder, and the operator's own rules in the same form.
//!
//! A line is a rule: the kind, its words, and `#` with the source of the fact. The kinds:
//!
//! | line | meaning |
//! |---|---|
//! | `name WORD…` | names with these last words (`apikey`: `--api-key`) or such an end (`*pass`) name a secret |
//! | `weak WORD…` | as `name`, for a value that looks like a secret: with a digit, mixed case or a symbol |
//! | `pin WORD…` | as `name`, for a value of four bytes or more |
//! | `variable WORD…` | as `weak`, for `NAME=VALUE` only |
//! | `plain WORD…` | a name with these last words names no secret |
//! | `tail WORD…` | words after the name of a secret without a change of the meaning |
//! | `command PROGRAM… SYNOPSIS` | the place of a secret in a command line |
//! | `not PROGRAM… OPTION [VALUE…]` | the option takes no secret for this program, or only these harmless values |
//! | `pair PROGRAM… OPTION OPTION` | the value of the second option is a secret when the first names one |
//! | `takes PROGRAM… OPTION…` | options with a value in the next word |
//! | `flags PROGRAM… LETTERS` | letters that may stand before an option in one word |
//! | `runs PROGRAM… N` | another program follows after N operands; `* WORD…`: a known one, behind one of the words |
//! | `stdin PROGRAM… [WORD…]` | the program reads a secret from standard input, when these words are there |
//! | `bare PROGRAM…` | a bare word that names a secret is followed by the secret |
//! | `login PROGRAM…` | operands are logins of the form `user/SECRET@database` |
//! | `dsn PROGRAM… LETTER` | the field of an operand `a=x,p=SECRET` that is a secret |
//! | `prose PROGRAM…` | words with blanks are no commands |
//! | `known PROGRAM…` | the options of the program carry no password |
//! | `header NAME…`, `plainheader NAME…` | a header with a secret, and without; `*-key` is any header that ends so |
//! | `query NAME…` | a parameter of an address that is a key to the content |
//! | `form PREFIX CLASS N` | a secret by its form: the prefix and N more bytes of a class |
//! | `hook ADDRESS` | an address whose rest is a secret |
//!
//! In a synopsis `SECRET` is the secret, `_` any operand, `NAME` an operand that names a secret, `...` any number of
//! operands, `-x|--long[]SECRET` an option with the secret in the same word or in the next, `-x SECRET` only in the
//! next, `-xSECRET` only in the same. `USER:SECRET` keeps what is before the colon. Words before the option or the
//! first `_` must be in the command line. Words are compared without regard to case.

mod parse;
mod table;

use std::sync::{Arc, LazyLock};

pub use self::parse::RuleFault;
pub(super) use self::table::{
    ByteClass, Known, NamePower, OptionRule, PlacePart, PlaceRule, PlainOption, Program, RuleId, Rules, Runs,
    is_word_byte,
};

const BUILT_IN: [(&str, &str); 5] = [
    ("names.rules", include_str!("names.rules")),
    ("headers.rules", include_str!("headers.rules")),
    ("forms.rules", include_str!("forms.rules")),
    ("commands.rules", include_str!("commands.rules")),
    ("programs.rules", include_str!("programs.rules")),
];

impl Rules {
    /// Returns the built-in rules.
    pub(super) fn built_in() -> Arc<Self> {
        static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
            let rules = Rules::with(&[]).unwrap_or_else(|fault| unreachable!("a built-in rule: {fault}"));
            Arc::new(rules)
        });
        Arc::clone(&RULES)
    }

    /// Returns the built-in rules with the operator's rules, one a text.
    ///
    /// # Errors
    /// The first text that is no rule.
    pub(super) fn with(own: &[String]) -> Result<Self, RuleFault> {
        let mut rules = Self::default();
        for (file, text) in BUILT_IN {
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                parse::add(&mut rules, line, file)?;
            }
        }
        for (number, line) in own.iter().enumerate() {
            parse::add(&mut rules, line, &format!("redact.rules, number {}", number + 1))?;
        }
        rules.finish();
        Ok(rules)
    }
}
