//! Processes for the agent to look at.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::binaries::binaries;

/// A process, or a set of them, that ends when this value goes.
#[derive(Debug)]
pub struct Load {
    child: Child,
    /// What it said when it was ready, without the word `ready`.
    pub said: String,
}

impl Load {
    /// `processes` processes of `files` × 1.25 descriptors and five threads each, which then do nothing.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn idle(processes: usize, files: usize) -> Result<Self> {
        Self::start(Command::new(&binaries()?.load).args(["idle", &processes.to_string(), &files.to_string()]))
    }

    /// `processes` processes with one argument of `bytes` random bytes each: nothing compresses them.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn random_argv(processes: usize, bytes: usize) -> Result<Self> {
        Self::start(Command::new(&binaries()?.load).args(["argv", &processes.to_string(), &bytes.to_string()]))
    }

    /// One process with this command line, its name first, which does nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn named(argv: &[String]) -> Result<Self> {
        let (name, args) = argv.split_first().context("a command line without a name")?;
        Self::start(Command::new(&binaries()?.load).arg0(name).args(args).env("EDR_LOAD_WAIT", "1"))
    }

    fn start(command: &mut Command) -> Result<Self> {
        // It ends when its standard input does, and its own children with it.
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

    /// Its pid.
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

/// A process that tries to be more than text wherever it is shown.
#[derive(Debug)]
pub struct Hostile {
    /// The process.
    pub process: Load,
    /// Path of its executable, with a script element in it.
    pub exe: PathBuf,
    /// Path of the file that it holds open and has deleted, with markup in its name.
    pub deleted: PathBuf,
    /// The TCP port of 127.0.0.1 that it listens on.
    pub port: u16,
}

/// What a browser would run, in the path of the executable and among the arguments.
pub const SCRIPT: &str = "<script>alert(1)</script>";
/// An argument that would rename the page it is shown on, inside an attribute and outside.
pub const TITLE: &str = "\"><img src=x onerror=\"document.title='owned'\">";
/// Its `comm`: an element, the parenthesis that ends `comm` in `/proc/PID/stat`, a newline, a byte that is no text.
pub const COMM: &[u8] = b"<b>)\n\xff";
/// The name of its deleted file.
pub const DELETED: &str = "<img src=x onerror=document.title='owned'>";

impl Hostile {
    /// Starts it below `dir`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(dir: &Path) -> Result<Self> {
        // The slash of the closing tag is a separator of the path: a folder `<script>alert(1)<` with a file `script>`.
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
