//! Access to the kernel's `sock_diag` (sock_diag(7)): one netlink socket, one dump at a time.
//!
//! Based on `rustix` instead of the crate netlink-packet-sock-diag: the crate lacks packet and netlink messages and the
//! needed attributes since Linux 5.3, and builds an owned struct with a vector of attributes for every socket. Only a
//! header and an iterator over attributes had to be written.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::common::calls;

use super::message::{message, messages, u32_at};

/// `SOCK_DIAG_BY_FAMILY`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP: u16 = 0x300;
/// Flag of an answer during which the table changed.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// The kernel cuts a dump into datagrams of at most this (`netlink_recvmsg`: 32 KiB).
const DATAGRAM_BYTES: usize = 32 << 10;
/// The kernel makes a dump during the read, so a read never waits. The timeout keeps a tick from hanging if that
/// changes.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A netlink socket to `sock_diag`, in the network namespace of its opening.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    seq: u32,
    datagram: Vec<u8>,
}

/// Result of a completed dump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dump {
    /// The table changed during the read: rows may be missing or duplicate.
    pub(super) interrupted: bool,
    /// Number of malformed messages.
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

    /// The port id assigned by the kernel to this socket with its first request.
    pub(super) fn port_id(&self) -> Option<u32> {
        calls::one();
        let address = rustix::net::getsockname(&self.socket).ok()?;
        SocketAddrNetlink::try_from(address).ok().map(|address| address.pid())
    }

    /// Requests a whole table and passes each row's payload to `take`.
    ///
    /// # Errors
    /// The kernel's error: `ENOENT` for a missing table. After an error the rest of the answer may still come; its old
    /// sequence number is skipped.
    pub(super) fn dump(&mut self, request: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<Dump> {
        self.seq = self.seq.wrapping_add(1);
        let request = message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, self.seq, request);
        calls::one();
        rustix::net::sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut dump = Dump::default();
        loop {
            let (_, len, sender) = rustix::io::retry_on_intr(|| {
                rustix::net::recvfrom(&self.socket, self.datagram.as_mut_slice(), RecvFlags::TRUNC)
            })?;
            calls::got(len);
            // Every process with CAP_NET_ADMIN can write to this socket; only the kernel has port 0.
            if sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).is_none_or(|from| from.pid() != 0) {
                continue;
            }
            if len > self.datagram.len() {
                dump.malformed += 1;
            }
            let datagram = &self.datagram[..len.min(self.datagram.len())];
            if dump.take_datagram(datagram, self.seq, &mut take)? {
                return Ok(dump);
            }
        }
    }
}

impl Dump {
    /// Takes the messages of a datagram that answer request `seq`; true when the answer is complete.
    fn take_datagram(&mut self, datagram: &[u8], seq: u32, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        for message in messages(datagram) {
            let Ok(message) = message else {
                self.malformed += 1;
                continue;
            };
            if message.seq != seq {
                continue;
            }
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                SOCK_DIAG_BY_FAMILY => take(message.payload),
                NLMSG_OVERRUN => self.interrupted = true,
                NLMSG_DONE | NLMSG_ERROR => {
                    let status = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                    if status < 0 {
                        return Err(io::Error::from_raw_os_error(status.saturating_neg()));
                    }
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(datagram: &[u8]) -> (io::Result<bool>, Dump, Vec<Vec<u8>>) {
        let (mut dump, mut rows) = (Dump::default(), Vec::new());
        let done = dump.take_datagram(datagram, 7, |row| rows.push(row.to_vec()));
        (done, dump, rows)
    }

    #[test]
    fn an_answer_has_many_messages_and_an_end() {
        let rows = [message(SOCK_DIAG_BY_FAMILY, 2, 7, b"row1"), message(SOCK_DIAG_BY_FAMILY, 2, 7, b"row2")].concat();
        let (done, dump, taken) = take(&rows);
        assert!(!done.unwrap() && dump == Dump::default());
        assert_eq!(taken, [b"row1", b"row2"]);
        let (done, ..) = take(&[rows, message(NLMSG_DONE, 2, 7, &[0; 4])].concat());
        assert!(done.unwrap());
    }

    #[test]
    fn answers_to_an_older_request_are_skipped() {
        let (done, _, taken) =
            take(&[message(SOCK_DIAG_BY_FAMILY, 2, 6, b"old!"), message(NLMSG_DONE, 2, 6, &[0; 4])].concat());
        assert!(!done.unwrap() && taken.is_empty());
    }

    #[test]
    fn a_table_that_changed_and_an_overrun_are_interruptions() {
        let changed = message(SOCK_DIAG_BY_FAMILY, 2 | NLM_F_DUMP_INTR, 7, b"row1");
        assert!(take(&changed).1.interrupted);
        assert!(take(&message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, 7, &[0; 4])).1.interrupted);
        assert!(take(&message(NLMSG_OVERRUN, 0, 7, b"")).1.interrupted);
    }

    #[test]
    fn an_error_is_the_kernels_errno() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let (done, ..) = take(&message(kind, 0, 7, &(-2_i32).to_ne_bytes()));
            assert_eq!(done.unwrap_err().raw_os_error(), Some(2));
        }
        assert!(take(&message(NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes())).0.is_err());
        assert!(take(&message(NLMSG_DONE, 0, 7, b"")).0.unwrap(), "the end without a status");
    }

    #[test]
    fn the_kernel_answers() {
        let mut diag = Diag::open().unwrap();
        // AF_UNSPEC is no family of sockets; the next question is answered nevertheless.
        assert!(diag.dump(&[0; 24], |_| {}).is_err());
        let own = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let inode = rustix::fs::fstat(&own).unwrap().st_ino;
        let mut seen = false;
        diag.dump(&super::super::unix_diag::request(), |row| {
            seen |= super::super::unix_diag::parse(row).is_ok_and(|row| row.inode == inode);
        })
        .unwrap();
        assert!(seen && diag.port_id().is_some_and(|port| port != 0));
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..64_usize,
        ) {
            let _ = take(&bytes);
            let whole = [message(SOCK_DIAG_BY_FAMILY, 2, 7, b"row1"), message(NLMSG_DONE, 2, 7, &[0; 4])].concat();
            let cut = cut % whole.len();
            let (done, dump, rows) = take(&whole[..cut]);
            prop_assert!(!done.unwrap());
            prop_assert_eq!(dump.malformed + rows.len() as u64, u64::from(cut > 0) + u64::from(cut > 20));
        }
    }
}
