//! A process with a hostile name, a deleted open file and a listening socket: `edr-hostile FILE [ANYTHING...]`.
//!
//! Prints `ready PORT` and then waits until its standard input ends.

use std::fs::{File, remove_file};
use std::io::{Read as _, Write as _, stdin, stdout};
use std::net::TcpListener;

use anyhow::{Context as _, Result};
use edr_tests::load::COMM;

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: edr-hostile FILE [ANYTHING...]")?;
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).context("make the file")?;
    file.write_all(b"4321 bytes would be more\n").context("write the file")?;
    remove_file(&path).context("remove the file")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let port = listener.local_addr().context("ask for the port")?.port();
    let name = std::ffi::CString::new(COMM).context("a name without NUL")?;
    nix::sys::prctl::set_name(&name).context("take the name")?;
    writeln!(stdout(), "ready {port}").context("say so")?;
    // File and listener stay open until the parent closes the pipe or ends.
    let _ = stdin().read_to_end(&mut Vec::new());
    drop((file, listener));
    Ok(())
}
