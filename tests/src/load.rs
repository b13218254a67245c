//! Processes that give the agent something to observe.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::binaries::binaries;

/// Processes that end when this value is dropped.
#[derive(Debug)]
pub struct Load {
    child: Child,
    /// The rest of the process's first line, after the word `ready`.
    pub said: String,
}

impl Load {
    /// Starts `processes` idle processes with `files` × 1.25 descriptors and five threads each.
    ///
    /// # Errors
    /// When the processes cannot be started.
    pub fn idle(processes: usize, files: usize) -> Result<Self> {
        Self::start(Command::new(&binaries()?.load).args(["idle", &processes.to_string(), &files.to_string()]))
    }

    /// Starts `processes` processes with an argument of `bytes` random, incompressible bytes each.
    ///
    /// # Errors
    /// When the processes cannot be started.
    pub fn random_argv(processes: usize, bytes: usize) -> Result<Self> {
        Self::start(Command::new(&binaries()?.load).args(["argv", &processes.to_string(), &bytes.to_string()]))
    }

    /// Starts an idle process with this command line, name first.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn named(argv: &[String]) -> Result<Self> {
        let (name, args) = argv.split_first().context("a command line without a name")?;
        Self::start(Command::new(&binaries()?.load).arg0(name).args(args).env("EDR_LOAD_WAIT", "1"))
    }

    fn start(command: &mut Command) -> Result<Self> {
        // The process and the children end with their standard input.
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a process to look at")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("read from a process to look at")?;
        }
        let mut load = Self { child, said: String::new() };
        ensure!(line.starts_with("ready"), "a process to look at said {line:?} and ended");
        load.said = line.trim_start_matches("ready").trim().to_owned();
        Ok(load)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process with hostile names, with markup and control characters.
#[derive(Debug)]
pub struct Hostile {
    /// The process.
    pub process: Load,
    /// Path of the executable, with a script element in the path.
    pub exe: PathBuf,
    /// Path of an open, deleted file, with markup in its name.
    pub deleted: PathBuf,
    /// TCP port of 127.0.0.1 on which the process listens.
    pub port: u16,
}

/// A script that a browser would run: in the path of the executable and among the arguments.
pub const SCRIPT: &str = "<script>alert(1)</script>";
/// An argument that would change the page's title, both inside and outside of an attribute.
pub const TITLE: &str = "\"><img src=x onerror=\"document.title='owned'\">";
/// The `comm` of the process: an element, the parenthesis that ends `comm` in `/proc/PID/stat`, a newline, a byte
/// outside UTF-8.
pub const COMM: &[u8] = b"<b>)\n\xff";
/// The name of the deleted file.
pub const DELETED: &str = "<img src=x onerror=document.title='owned'>";

impl Hostile {
    /// Starts the process below `dir`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(dir: &Path) -> Result<Self> {
        // The slash of the closing tag separates path components: a folder `<script>alert(1)<` with a file `script>`.
        let exe = dir.join(SCRIPT);
        if let Some(folder) = exe.parent() {
            std::fs::create_dir_all(folder).context("make the hostile folder")?;
        }
        std::fs::copy(&binaries()?.hostile, &exe).context("copy the hostile program")?;
        let deleted = dir.join(DELETED);
        let process = Load::start(Command::new(&exe).arg(&deleted).args([SCRIPT, TITLE]))?;
        let port = process.said.parse().with_context(|| format!("read a port from {:?}", process.said))?;
        Ok(Self { process, exe, deleted, port })
    }
}
