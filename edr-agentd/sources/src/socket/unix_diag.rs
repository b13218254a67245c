//! Local sockets: `linux/unix_diag.h`.

use edr_wire::snapshot::Family;

use super::entry::{SocketEntry, socket_type, tcp_state};
use super::message::{MalformedMessage, attributes, u8_at, u32_at};

const AF_UNIX: u8 = 1;
const REQUEST_BYTES: usize = 24;
const MESSAGE_BYTES: usize = 16;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID`; a kernel before 5.3 passes over the last.
const SHOW: u32 = 0x01 | 0x04 | 0x10 | 0x40;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_UID: u16 = 7;

/// A request for all unix sockets.
pub(super) fn request() -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = AF_UNIX;
    bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes[12..16].copy_from_slice(&SHOW.to_ne_bytes());
    bytes
}

/// Parses a socket of the answer.
pub(super) fn parse(payload: &[u8]) -> Result<SocketEntry, MalformedMessage> {
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(MalformedMessage("unix_diag message"))?;
    if fixed[0] != AF_UNIX {
        return Err(MalformedMessage("unix_diag family"));
    }
    let mut found = SocketEntry::new(
        Family::Unix,
        socket_type(u8_at(fixed, 1).unwrap_or(0).into()),
        tcp_state(u8_at(fixed, 2).unwrap_or(0)),
    );
    found.inode = u32_at(fixed, 4).unwrap_or(0).into();
    for attribute in attributes(&payload[MESSAGE_BYTES..]) {
        let (kind, value) = attribute?;
        let word = |at| u32_at(value, at).ok_or(MalformedMessage("unix_diag attribute"));
        match kind {
            UNIX_DIAG_NAME => found.path = name(value).into(),
            UNIX_DIAG_PEER => found.peer_inode = word(0)?.into(),
            UNIX_DIAG_RQLEN => {
                found.receive_queue = word(0)?.into();
                found.send_queue = word(4)?.into();
            }
            UNIX_DIAG_UID => found.uid = Some(word(0)?),
            _ => {}
        }
    }
    if found.inode == 0 {
        found.uid = None;
    }
    Ok(found)
}

/// unix(7): an abstract name starts with NUL and every byte counts; a path ends at its first NUL.
fn name(bytes: &[u8]) -> &[u8] {
    match bytes.iter().position(|&byte| byte == 0) {
        None | Some(0) => bytes,
        Some(end) => &bytes[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::entry::SocketProtocol;
    use proptest::prelude::*;

    fn answer(path: &[u8]) -> Vec<u8> {
        let mut bytes = vec![AF_UNIX, 5, 1, 0];
        for word in [4_242_u32, 1, 2] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        for (kind, value) in [
            (UNIX_DIAG_NAME, path.to_vec()),
            (UNIX_DIAG_PEER, 4_243_u32.to_ne_bytes().to_vec()),
            (UNIX_DIAG_RQLEN, [7_u32.to_ne_bytes(), 8_u32.to_ne_bytes()].concat()),
            (UNIX_DIAG_UID, 33_u32.to_ne_bytes().to_vec()),
        ] {
            bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_connected_socket_with_its_peer() {
        let found = parse(&answer(b"/run/x\xff\n\0")).unwrap();
        assert_eq!((found.protocol, found.state), (SocketProtocol::Named("seqpacket"), "established"));
        assert_eq!((found.inode, found.peer_inode, found.uid), (4_242, 4_243, Some(33)));
        assert_eq!((found.receive_queue, found.send_queue), (7, 8));
        assert_eq!(&*found.path, b"/run/x\xff\n");
    }

    #[test]
    fn every_byte_of_an_abstract_name_counts() {
        assert_eq!(&*parse(&answer(b"\0a\0b")).unwrap().path, b"\0a\0b");
        assert_eq!(&*parse(&answer(b"")).unwrap().path, b"");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
            let whole = answer(&bytes);
            for cut in 0..MESSAGE_BYTES {
                prop_assert!(parse(&whole[..cut]).is_err());
            }
            for cut in MESSAGE_BYTES..whole.len() {
                let _ = parse(&whole[..cut]);
            }
            prop_assert!(parse(&whole).is_ok());
        }
    }
}
