//! Tests of the installed units, under a separate systemd ([`edr_tests::systemd`]).
//!
//! A test places the files and judges the result. The part inside the test machine is a scenario: a function of this
//! program, run by the machine with `--inside NAME`. So a scenario can use the same broker, waiting and archive code as
//! every other test.

#![expect(clippy::print_stdout, reason = "what a scenario prints is its log")]

#[expect(dead_code, reason = "these tests look at the records alone")]
#[path = "../e2e/archive.rs"]
mod archive;
mod credentials;
mod faults;
mod installed;
mod machine;
mod owner;
mod sight;
mod sights;
mod units;

use std::process::ExitCode;
use std::time::Duration;

use edr_tests::systemd::{Machine, Scenario};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The result of a test.
type RunResult = anyhow::Result<()>;

/// A test, or a scenario.
type TestRun = fn() -> RunResult;

/// The tests by name.
const TESTS: &[(&str, TestRun)] = &[
    ("machine::keeps_its_files_and_leaves_nothing", machine::keeps_its_files_and_leaves_nothing),
    ("faults::lose_nothing", faults::lose_nothing),
    ("owner::root_by_hand_does_not_lock_the_service_out", owner::root_by_hand_does_not_lock_the_service_out),
    ("sight::sees_everything_and_can_do_nothing_else", sight::sees_everything_and_can_do_nothing_else),
    ("units::are_hardly_exposed", units::are_hardly_exposed),
    ("units::hold_their_ceilings", units::hold_their_ceilings),
];

/// The scenarios by name.
const SCENARIOS: &[(&str, TestRun)] = &[
    ("first-boot", machine::first_boot),
    ("second-boot", machine::second_boot),
    ("faults", faults::faults),
    ("after-reboot", faults::after_reboot),
    ("by-hand", owner::by_hand),
    ("sight", sight::sight),
    ("ceilings", units::ceilings),
    ("more-ceilings", units::more_ceilings),
    ("listen", sights::listen),
];

/// Time limit of a boot. The boot itself takes a second; a JVM and two daemons on a busy host take the rest.
const BOOT_MAX: Duration = Duration::from_secs(300);

/// The scenario with this name, in the form that the machine runs.
fn scenario(name: &str) -> anyhow::Result<Scenario> {
    Ok(Scenario::new([std::env::current_exe()?.into_os_string(), "--inside".into(), name.into()]))
}

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = words.as_slice()
        && flag == "--inside"
    {
        let (_, run) = SCENARIOS.iter().find(|(known, _)| known == name).ok_or_else(|| anyhow::anyhow!("{name}?"))?;
        run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut args = Arguments::from_args();
    // A single test at a time: each boot has a broker and two daemons, which would only compete for the processors.
    args.test_threads.get_or_insert(1);
    let impossible = Machine::impossible();
    let trial = |(name, test): &(&'static str, TestRun)| {
        let (impossible, test) = (impossible.clone(), *test);
        Trial::ignorable_test(*name, move || match impossible {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}"))),
        })
    };
    let mut trials: Vec<Trial> = TESTS.iter().map(trial).collect();
    trials.push(Trial::ignorable_test("units::hold_more_ceilings", || {
        match impossible.or_else(units::no_second_version) {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => units::hold_more_ceilings()
                .map(|()| Completion::Completed)
                .map_err(|error| Failed::from(format!("{error:#}"))),
        }
    }));
    Ok(libtest_mimic::run(&args, trials).exit_code())
}
