//! End-to-end tests: real daemons, a real Kafka, a real browser. `cargo test -p edr-tests --test e2e`; they need what
//! `script/bootstrap` brings.

mod broker;
mod format;
mod shared;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use shared::Shared;

/// What a test gives back when nothing went wrong: that it ran, or why it could not.
type Verdict = anyhow::Result<Completion>;

/// A test.
type Test = fn(&Shared) -> Verdict;

/// A test passed.
const PASSED: Verdict = Ok(Completion::Completed);

/// The tests by name.
const TESTS: &[(&str, Test)] = &[
    ("broker::what_was_stored_is_there_after_a_kill", broker::keeps_what_it_stored),
    ("format::a_key_and_a_delta_are_read_without_our_code", format::read_without_our_code),
];

fn main() -> anyhow::Result<ExitCode> {
    let args = Arguments::from_args();
    let shared = if args.list { None } else { Some(Arc::new(Shared::start()?)) };
    let trial = |(name, test): &(&'static str, Test)| {
        let (shared, test) = (shared.clone(), *test);
        Trial::ignorable_test(*name, move || match &shared {
            Some(shared) => test(shared).map_err(|error| Failed::from(format!("{error:#}"))),
            None => Ok(Completion::ignored_with("only listed")),
        })
    };
    let conclusion = libtest_mimic::run(&args, TESTS.iter().map(trial).collect());
    // Ends the broker and removes its folder before this process ends.
    drop(shared);
    Ok(conclusion.exit_code())
}
