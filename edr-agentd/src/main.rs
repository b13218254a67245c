//! `edr-agentd`: see the library for what it does and how.

use std::process::ExitCode;

fn main() -> ExitCode {
    // With one thread gone the others would go on as half an agent. The service manager starts a whole one.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    edr_agentd::cli::main()
}
