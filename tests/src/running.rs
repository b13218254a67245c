//! A child process that ends when the value is dropped.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// A program with arguments, environment and log file.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: PathBuf,
}

impl Program {
    /// `name` is the name of the process in messages. The output is appended to `<dir>/<name>.log`.
    pub fn new(name: &str, dir: &Path, program: impl Into<OsString>) -> Self {
        Self {
            name: name.to_owned(),
            command: vec![program.into()],
            environment: Vec::new(),
            log: dir.join(format!("{name}.log")),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.command.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs the program through a wrapper (`strace …`, `setpriv …`).
    pub fn behind<A: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.command.splice(0..0, wrapper.into_iter().map(Into::into));
        self
    }

    /// Starts the program.
    ///
    /// The process gets a separate process group, so that Ctrl-C at the terminal reaches only the caller. The kernel
    /// kills the process when the thread that started it ends, also after a panic or SIGKILL.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(self) -> Result<Running> {
        let append = || File::options().create(true).append(true).open(&self.log);
        let log = append().with_context(|| format!("open {}", self.log.display()))?;
        let also = log.try_clone().context("hand a log to two streams")?;
        // `setpriv` executes the program, so the pid stays the same. The same setting between fork and exec would need
        // unsafe code.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(&self.command)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        Ok(Running { name: self.name, child, log: self.log })
    }

    /// Runs the program to the end and returns the output.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn output(self) -> Result<std::process::Output> {
        let [program, args @ ..] = self.command.as_slice() else { bail!("no program") };
        Command::new(program)
            .args(args)
            .envs(self.environment)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", self.name))
    }
}

/// A started process.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The output so far, both streams, as text.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid fits an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// True when the process still runs.
    ///
    /// # Errors
    /// When the kernel does not report the state.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("ask for a child")?.is_none())
    }

    /// Waits for an output line with `text`, and returns the line.
    ///
    /// # Errors
    /// When there is no such line within `limit`, or when the process ends first.
    pub fn says(&mut self, text: &str, limit: Duration) -> Result<String> {
        let name = self.name.clone();
        wait::until(&format!("{name} to say {text:?}"), limit, || {
            let running = self.is_running()?;
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            if !running {
                bail!("{name} ended; the end of its log:\n{}", self.log_tail());
            }
            Ok(None)
        })
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When the process still runs after `limit`.
    pub fn ends(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), limit, || self.child.try_wait().context("wait for a child"))
    }

    /// Ends the process as a service manager does, with SIGTERM. Returns the exit status and the time until the end.
    ///
    /// # Errors
    /// When the process still runs after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        Ok((self.ends(limit)?, start.elapsed()))
    }

    /// Kills the process (`kill -9`).
    ///
    /// # Errors
    /// When the process had already ended.
    pub fn kill_hard(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("ask for a child")? {
            bail!("{} had ended by itself ({status}); the end of its log:\n{}", self.name, self.log_tail());
        }
        self.child.kill().context("kill a child")?;
        let status = self.child.wait().context("wait for a killed child")?;
        if status.signal() != Some(9) {
            bail!("{} ended with {status} before it was killed", self.name);
        }
        Ok(())
    }

    /// The last lines of the output.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both calls fail only when the process has already ended; the errors are ignored.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
