//! Shell completion of a daemon's commands.

use clap::Command;
use clap_complete::{Shell, generate};

/// Returns the script that completes the commands of `program` in `shell`.
pub fn completions(shell: Shell, mut command: Command, program: &str) -> Vec<u8> {
    // The script is generated in memory, because the generator panics when its output is closed.
    let mut script = Vec::new();
    generate(shell, &mut command, program, &mut script);
    if shell == Shell::Bash {
        // clap_complete 4.6 writes the hyphen of a program's name in two ways, so that nothing is completed after a
        // subcommand (clap-rs/clap#6421).
        let text = String::from_utf8_lossy(&script);
        script = text.replace(&program.replace('-', "__subcmd__"), &program.replace('-', "__")).into_bytes();
    }
    script
}
