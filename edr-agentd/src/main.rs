//! `edr-agentd`: see the library for what it does and how.

use std::process::ExitCode;

fn main() -> ExitCode {
    edr_agentd::cli::main()
}
