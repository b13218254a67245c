//! Sockets that receive frames directly from the driver, without the network stack: `linux/xdp_diag.h`.

use edr_wire::snapshot::Family;

use super::entry::{SocketEntry, socket_type};
use super::message::{MalformedMessage, attributes, u32_at};

const AF_XDP: u8 = 44;
const REQUEST_BYTES: usize = 20;
const MESSAGE_BYTES: usize = 16;
/// `XDP_SHOW_INFO`, which also returns the uid.
const SHOW: u32 = 0x01;
const XDP_DIAG_INFO: u16 = 1;
const XDP_DIAG_UID: u16 = 2;

/// A request for all XDP sockets.
pub(super) fn request() -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = AF_XDP;
    bytes[8..12].copy_from_slice(&SHOW.to_ne_bytes());
    bytes
}

/// Parses a socket of the answer: its interface, and the queue of the interface as the port.
pub(super) fn parse(payload: &[u8]) -> Result<SocketEntry, MalformedMessage> {
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(MalformedMessage("xdp_diag message"))?;
    if fixed[0] != AF_XDP {
        return Err(MalformedMessage("xdp_diag family"));
    }
    let mut found = SocketEntry::new(Family::Xdp, socket_type(fixed[1].into()), "unconnected");
    found.inode = u32_at(fixed, 4).unwrap_or(0).into();
    for attribute in attributes(&payload[MESSAGE_BYTES..]) {
        let (kind, value) = attribute?;
        let word = |at| u32_at(value, at).ok_or(MalformedMessage("xdp_diag attribute"));
        match kind {
            XDP_DIAG_INFO => (found.interface, found.local_port) = (word(0)?, word(4)?),
            XDP_DIAG_UID => found.uid = Some(word(0)?),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer() -> Vec<u8> {
        let mut bytes = vec![AF_XDP, 3, 0, 0];
        for word in [4_242_u32, 1, 2] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        for (kind, words) in [(XDP_DIAG_INFO, &[2_u32, 5][..]), (XDP_DIAG_UID, &[1_000])] {
            bytes.extend_from_slice(&(4 + 4 * words.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            words.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
        }
        bytes
    }

    #[test]
    fn a_socket_on_a_queue_of_an_interface() {
        let found = parse(&answer()).unwrap();
        assert_eq!((found.interface, found.local_port, found.inode, found.uid), (2, 5, 4_242, Some(1_000)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
            let whole = [answer(), bytes].concat();
            for cut in 0..MESSAGE_BYTES {
                prop_assert!(parse(&whole[..cut]).is_err());
            }
            for cut in MESSAGE_BYTES..whole.len() {
                let _ = parse(&whole[..cut]);
            }
        }
    }
}
