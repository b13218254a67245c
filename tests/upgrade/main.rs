//! The life of the packages on a host: installed as in README, upgraded, downgraded, removed, purged and installed
//! again, while snapshots are taken and archived. Under a separate systemd ([`edr_tests::systemd`]).

#![expect(clippy::print_stdout, reason = "what a scenario prints is its log")]

#[path = "../e2e/archive.rs"]
mod archive;
#[expect(dead_code, reason = "here the packages place and start the daemons")]
#[path = "../systemd/installed.rs"]
mod installed;
mod life;
#[path = "../systemd/sights.rs"]
mod sights;

use std::process::ExitCode;

use anyhow::Context as _;
use edr_tests::systemd::{Machine, Scenario};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The result of a test.
type UpgradeResult = anyhow::Result<()>;

/// The argument with which the test machine runs this program.
const INSIDE: &str = "--inside";

/// A run of this program inside the test machine.
fn scenario() -> anyhow::Result<Scenario> {
    Ok(Scenario::new([std::env::current_exe()?.into_os_string(), INSIDE.into(), "life".into()]))
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).is_some_and(|word| word == INSIDE) {
        match std::env::args().nth(2).context("--inside NAME")?.as_str() {
            "listen" => sights::listen()?,
            _ => life::life()?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let args = Arguments::from_args();
    let trial = Trial::ignorable_test("packages_come_and_go_under_load", || match Machine::impossible() {
        Some(why) => Ok(Completion::ignored_with(why)),
        None => match life::come_and_go_under_load() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        },
    });
    Ok(libtest_mimic::run(&args, vec![trial]).exit_code())
}
