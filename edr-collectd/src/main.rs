//! `edr-collectd`: see the library for what it does and how.

use std::process::ExitCode;

fn main() -> ExitCode {
    edr_collectd::cli::main()
}
