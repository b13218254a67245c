//! Sockets. (skeleton: the signature is fixed)
use std::io;
use std::path::Path;

use edr_wire::snapshot::Rows;

use super::Gaps;

/// Reads the sockets of the host.
#[derive(Debug)]
pub struct SocketReader {}

impl SocketReader {
    /// Opens the netlink socket; `proc_root` serves what has no sock_diag.
    ///
    /// # Errors
    /// When neither can be opened.
    pub fn open(_proc_root: &Path) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Pushes one row per socket, sorted by (inode, netns, protocol, endpoints).
    pub fn read(&mut self, _rows: &mut Rows, _gaps: &mut Gaps) {}
}
