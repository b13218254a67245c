//! Sockets between a virtual machine and its host, vsock(7): `linux/vm_sockets_diag.h`.

use edr_wire::snapshot::Family;

use super::entry::{SocketAddress, SocketEntry, socket_type, tcp_state};
use super::message::{MalformedMessage, u32_at};

const AF_VSOCK: u8 = 40;
const REQUEST_BYTES: usize = 24;
const MESSAGE_BYTES: usize = 32;
/// `VMADDR_CID_ANY`, `VMADDR_PORT_ANY`.
const ANY: u32 = u32::MAX;

/// A request for all vsock sockets, in all states.
pub(super) fn request() -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = AF_VSOCK;
    bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes
}

/// Parses a socket of the answer. Uid and queues are not included.
pub(super) fn parse(payload: &[u8]) -> Result<SocketEntry, MalformedMessage> {
    let malformed = MalformedMessage("vsock_diag message");
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(malformed)?;
    if fixed[0] != AF_VSOCK {
        return Err(MalformedMessage("vsock_diag family"));
    }
    let word = |at| u32_at(fixed, at).ok_or(malformed);
    let mut found = SocketEntry::new(Family::Vsock, socket_type(fixed[1].into()), tcp_state(fixed[2]));
    found.local = SocketAddress::ContextId(word(4)?);
    found.local_port = word(8)?;
    (found.remote, found.remote_port) = match (word(12)?, word(16)?) {
        (ANY, ANY) => (SocketAddress::None, 0),
        (cid, port) => (SocketAddress::ContextId(cid), port),
    };
    found.inode = word(20)?.into();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(remote: [u32; 2]) -> Vec<u8> {
        let mut bytes = vec![AF_VSOCK, 1, 10, 0];
        for word in [ANY, 5_555, remote[0], remote[1], 4_242, 1, 2] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_listener_and_a_connection() {
        let found = parse(&answer([ANY, ANY])).unwrap();
        assert_eq!((found.state, found.local, found.local_port), ("listen", SocketAddress::ContextId(ANY), 5_555));
        assert_eq!((found.remote, found.remote_port, found.inode, found.uid), (SocketAddress::None, 0, 4_242, None));
        let found = parse(&answer([2, 1_024])).unwrap();
        assert_eq!((found.remote, found.remote_port), (SocketAddress::ContextId(2), 1_024));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
            for cut in 0..MESSAGE_BYTES {
                prop_assert!(parse(&answer([2, 3])[..cut]).is_err());
            }
        }
    }
}
