//! A program that runs beside a test.

use std::process::Child;

/// A child process. Dropping the value ends the process.
pub(crate) struct ChildDaemon(pub(crate) Child);

impl ChildDaemon {
    /// Sends SIGTERM and waits for the end of the process.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for ChildDaemon {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().ok();
    }
}
