//! The notify socket, on which services report their state (sd_notify(3)): the part of the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A socket that receives the messages of a service.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Makes a socket in `dir`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).context("make the notify socket")?;
        Ok(Self { socket, path })
    }

    /// The path of the socket: the value of `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a message with the line `line`; all further messages are ignored.
    ///
    /// # Errors
    /// When the message does not arrive within `limit`.
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
