//! The socket on which a service says how it is (sd_notify(3)), as the service manager has it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a service manager listens on.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// A socket in `dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).context("make the notify socket")?;
        Ok(Self { socket, path })
    }

    /// Its path: the value of `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a message with the line `line`, passing over others.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn receive(&self, line: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut message = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).context("set the time to wait")?;
            let Ok(bytes) = self.socket.recv(&mut message) else { bail!("waited {} s for {line}", limit.as_secs()) };
            if message[..bytes].split(|byte| *byte == b'\n').any(|found| found == line.as_bytes()) {
                return Ok(());
            }
        }
    }
}
