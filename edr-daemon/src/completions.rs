//! What a shell needs to complete the commands of a daemon's program.

use clap::Command;
use clap_complete::{Shell, generate};

/// The script for `shell` that completes `program`.
pub fn completions(shell: Shell, mut command: Command, program: &str) -> Vec<u8> {
    // Into memory: the generator panics when its output is closed.
    let mut script = Vec::new();
    generate(shell, &mut command, program, &mut script);
    if shell == Shell::Bash {
        // clap_complete 4.6 spells the hyphen of a program's name in two ways, and then completes nothing after a
        // subcommand (clap-rs/clap#6421).
        let text = String::from_utf8_lossy(&script);
        script = text.replace(&program.replace('-', "__subcmd__"), &program.replace('-', "__")).into_bytes();
    }
    script
}
