//! End-to-end tests with real daemons, a real Kafka and a real browser: `cargo test -p edr-tests --test e2e`. The tests
//! need the files provided by `script/bootstrap`.

mod archive;
mod broker;
mod bulk;
mod damaged;
mod exec;
mod faults;
mod forged;
mod format;
mod kills;
mod losses;
mod secrets;
mod secure;
mod shared;
mod shipped;
mod spooled;
mod way;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use shared::TestBed;

/// The result of a test: completed, or ignored with a reason.
type TestResult = anyhow::Result<Completion>;

/// A test.
type Test = fn(&TestBed) -> TestResult;

/// The result of a passed test.
const PASSED: TestResult = Ok(Completion::Completed);

/// The tests by name.
const TESTS: &[(&str, Test)] = &[
    ("broker::what_was_stored_is_there_after_a_kill", broker::keeps_what_it_stored),
    ("bulk::a_frame_of_10_mb_passes_a_broker_with_default_limits", bulk::passes_a_broker_with_default_limits),
    ("exec::no_daemon_executes_anything", exec::no_daemon_executes_anything),
    ("faults::a_broker_that_comes_later", faults::a_broker_that_comes_later),
    ("faults::a_broker_that_stays_away", faults::a_broker_that_stays_away),
    ("faults::a_stop", faults::a_stop),
    ("faults::a_wrong_configuration", faults::a_wrong_configuration),
    ("faults::no_rights", faults::no_rights),
    ("faults::psad_that_comes_later", faults::psad_that_comes_later),
    ("damaged::a_damaged_file", damaged::a_damaged_file),
    ("forged::frames_hide_no_later_frame", forged::frames_hide_no_later_frame),
    ("format::a_key_and_a_delta_are_read_without_our_code", format::read_without_our_code),
    ("kills::lose_and_double_nothing", kills::lose_and_double_nothing),
    ("kills::a_record_that_is_no_frame_is_kept", kills::a_record_that_is_no_frame_is_kept),
    ("losses::a_deleted_row", losses::a_deleted_row),
    ("losses::a_frame_dropped_by_quota", losses::a_frame_dropped_by_quota),
    ("losses::a_stopped_agent", losses::a_stopped_agent),
    ("secrets::leave_the_host_nowhere", secrets::leave_the_host_nowhere),
    ("secure::every_way_in_and_every_refusal", secure::every_way_in_and_every_refusal),
    ("shipped::config_files_say_what_the_programs_do", shipped::config_files_say_what_the_programs_do),
    ("shipped::units_are_understood", shipped::units_are_understood),
    ("spooled::frames_are_read_without_our_code", spooled::frames_are_read_without_our_code),
    ("way::a_hostile_process_is_text", way::a_hostile_process_is_text),
    ("way::the_commands_agree", way::the_commands_agree),
];

fn main() -> anyhow::Result<ExitCode> {
    let args = Arguments::from_args();
    let shared = if args.list { None } else { Some(Arc::new(TestBed::start()?)) };
    let trial = |(name, test): &(&'static str, Test)| {
        let (shared, test) = (shared.clone(), *test);
        Trial::ignorable_test(*name, move || match &shared {
            Some(shared) => test(shared).map_err(|error| Failed::from(format!("{error:#}"))),
            None => Ok(Completion::ignored_with("only listed")),
        })
    };
    let conclusion = libtest_mimic::run(&args, TESTS.iter().map(trial).collect());
    // Ends the broker and removes the broker's folder before this process ends.
    drop(shared);
    Ok(conclusion.exit_code())
}
