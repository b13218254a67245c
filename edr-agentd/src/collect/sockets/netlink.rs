//! The way to the kernel's `sock_diag` (sock_diag(7)): one netlink socket, one dump at a time.
//!
//! Written on `rustix` rather than on the crate netlink-packet-sock-diag: that one has no packet and no
//! netlink messages, knows none of the attributes added since Linux 5.3 that are needed here, and builds an owned struct
//! with a vector of attributes for every socket. What is left to write is a header and an iterator over attributes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{message, messages, u32_at};

/// `SOCK_DIAG_BY_FAMILY`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP: u16 = 0x300;
/// Set by the kernel on an answer during which the table changed.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// The kernel cuts a dump into datagrams of at most this (`netlink_recvmsg`: 32 KiB).
const DATAGRAM_BYTES: usize = 32 << 10;
/// A dump is made while it is read, so nothing is ever waited for; this only keeps a tick from hanging if that changes.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A netlink socket to `sock_diag`, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    seq: u32,
    datagram: Vec<u8>,
}

/// How a dump went, when it came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dump {
    /// The table changed while it was read: rows may be missing or double.
    pub(super) interrupted: bool,
    /// Messages that could not be read.
    pub(super) malformed: u64,
}

impl Diag {
    /// Opens the socket; needs no privilege.
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        Ok(Self { socket, seq: 0, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// The port id the kernel gave this socket with its first request.
    pub(super) fn port_id(&self) -> Option<u32> {
        let address = rustix::net::getsockname(&self.socket).ok()?;
        SocketAddrNetlink::try_from(address).ok().map(|address| address.pid())
    }

    /// Asks for a whole table and gives each row's payload to `take`.
    ///
    /// # Errors
    /// What the kernel answers: `ENOENT` when it has no such table. After an error the rest of the answer may still
    /// come; it carries an old sequence number and is passed over.
    pub(super) fn dump(&mut self, request: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<Dump> {
        self.seq = self.seq.wrapping_add(1);
        let request = message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, self.seq, request);
        rustix::net::sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut dump = Dump::default();
        loop {
            let (_, len, sender) = rustix::net::recvfrom(&self.socket, self.datagram.as_mut_slice(), RecvFlags::TRUNC)?;
            // Whoever has CAP_NET_ADMIN can write to this socket too; only the kernel has port 0.
            if sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).is_none_or(|from| from.pid() != 0) {
                continue;
            }
            if len > self.datagram.len() {
                dump.malformed += 1;
            }
            for message in messages(&self.datagram[..len.min(self.datagram.len())]) {
                let Ok(message) = message else {
                    dump.malformed += 1;
                    continue;
                };
                if message.seq != self.seq {
                    continue;
                }
                dump.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    SOCK_DIAG_BY_FAMILY => take(message.payload),
                    NLMSG_OVERRUN => dump.interrupted = true,
                    NLMSG_DONE | NLMSG_ERROR => {
                        let status = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                        if status < 0 {
                            return Err(io::Error::from_raw_os_error(status.saturating_neg()));
                        }
                        return Ok(dump);
                    }
                    _ => {}
                }
            }
        }
    }
}
