//! `edr-agentd`: see the library for a description.

use std::process::ExitCode;

fn main() -> ExitCode {
    // After the panic of one thread the rest would continue as half an agent. The service manager starts a whole agent
    // again.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    edr_agentd::cli::main()
}
