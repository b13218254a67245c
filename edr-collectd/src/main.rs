//! The program `edr-collectd`; the library of the same name describes its parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    edr_collectd::cli::main()
}
