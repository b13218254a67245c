//! A child process that ends with the value that holds it.

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

/// A program, its arguments, and where what it says goes.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: PathBuf,
}

impl Program {
    /// `name` is what messages call it; its output goes to the end of `<dir>/<name>.log`.
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

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it behind another program that starts it in its own place (`strace …`, `setpriv …`).
    pub fn behind<A: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.command.splice(0..0, wrapper.into_iter().map(Into::into));
        self
    }

    /// Starts it.
    ///
    /// It is in a process group of its own, so that a Ctrl-C at the terminal reaches only the one who started it, and
    /// the kernel kills it when the thread that started it is gone, however that went.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Running> {
        let append = || File::options().create(true).append(true).open(&self.log);
        let log = append().with_context(|| format!("open {}", self.log.display()))?;
        let also = log.try_clone().context("hand a log to two streams")?;
        // `setpriv` becomes the program: the pid stays. Setting this in a closure between fork and exec needs unsafe code.
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

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started.
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

/// A process of ours that runs, or ran.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far, both streams, as text.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid fits an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("ask for a child")?.is_none())
    }

    /// Waits until it printed a line that contains `text`, and returns that line.
    ///
    /// # Errors
    /// When it has not within `limit`, or ended before.
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

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn ends(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), limit, || self.child.try_wait().context("wait for a child"))
    }

    /// Ends it as a service is ended: SIGTERM, and how it went and how long it took.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        Ok((self.ends(limit)?, start.elapsed()))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended by itself.
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

    /// The last lines it printed.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
