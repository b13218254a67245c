//! Link-layer sockets: `linux/packet_diag.h`.

use edr_wire::snapshot::Family;

use super::entry::{SocketEntry, socket_type};
use super::message::{MalformedMessage, attributes, u8_at, u16_at, u32_at};

const AF_PACKET: u8 = 17;
const REQUEST_BYTES: usize = 20;
const MESSAGE_BYTES: usize = 16;
/// `PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_MEMINFO`.
const SHOW: u32 = 0x01 | 0x02 | 0x10;
const PACKET_DIAG_INFO: u16 = 0;
const PACKET_DIAG_MCLIST: u16 = 1;
const PACKET_DIAG_UID: u16 = 5;
const PACKET_DIAG_MEMINFO: u16 = 6;
/// Bytes of `struct packet_diag_mclist`; the type comes after two words.
const MEMBERSHIP_BYTES: usize = 44;
const PACKET_MR_PROMISC: u16 = 1;
/// `SK_MEMINFO_RMEM_ALLOC` and `SK_MEMINFO_WMEM_ALLOC` of `linux/sock_diag.h`, as bytes into the array of words.
pub(super) const RMEM_ALLOC_AT: usize = 0;
pub(super) const WMEM_ALLOC_AT: usize = 8;

/// A request for all packet sockets.
pub(super) fn request() -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = AF_PACKET;
    bytes[8..12].copy_from_slice(&SHOW.to_ne_bytes());
    bytes
}

/// Parses a socket of the answer.
pub(super) fn parse(payload: &[u8]) -> Result<SocketEntry, MalformedMessage> {
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(MalformedMessage("packet_diag message"))?;
    if fixed[0] != AF_PACKET {
        return Err(MalformedMessage("packet_diag family"));
    }
    let mut found = SocketEntry::new(Family::Packet, socket_type(u8_at(fixed, 1).unwrap_or(0).into()), "unconnected");
    found.local_port = u16_at(fixed, 2).unwrap_or(0).into();
    found.inode = u32_at(fixed, 4).unwrap_or(0).into();
    for attribute in attributes(&payload[MESSAGE_BYTES..]) {
        let (kind, value) = attribute?;
        let word = |at| u32_at(value, at).ok_or(MalformedMessage("packet_diag attribute"));
        match kind {
            PACKET_DIAG_INFO => found.interface = word(0)?,
            PACKET_DIAG_MCLIST => {
                found.promiscuous = value
                    .chunks_exact(MEMBERSHIP_BYTES)
                    .any(|membership| u16_at(membership, 8) == Some(PACKET_MR_PROMISC));
            }
            PACKET_DIAG_UID => found.uid = Some(word(0)?),
            PACKET_DIAG_MEMINFO => {
                found.receive_queue = word(RMEM_ALLOC_AT)?.into();
                found.send_queue = word(WMEM_ALLOC_AT)?.into();
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::entry::SocketProtocol;
    use proptest::prelude::*;

    fn answer(mr_type: u16) -> Vec<u8> {
        let mut bytes = vec![AF_PACKET, 3];
        bytes.extend_from_slice(&0x0003_u16.to_ne_bytes());
        for word in [99_u32, 1, 2] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        let mut membership = vec![0; MEMBERSHIP_BYTES];
        membership[8..10].copy_from_slice(&mr_type.to_ne_bytes());
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        for (kind, value) in [
            (PACKET_DIAG_INFO, words(&[2, 0, 0, 0, 0, 1])),
            (PACKET_DIAG_MCLIST, membership),
            (PACKET_DIAG_UID, words(&[0])),
            (PACKET_DIAG_MEMINFO, words(&[512, 1, 256, 2, 0, 0, 0, 0, 0])),
        ] {
            bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&value);
        }
        bytes
    }

    #[test]
    fn a_sniffer() {
        let found = parse(&answer(PACKET_MR_PROMISC)).unwrap();
        assert_eq!((found.protocol, found.local_port, found.interface), (SocketProtocol::Named("raw"), 3, 2));
        assert_eq!((found.inode, found.uid, found.promiscuous), (99, Some(0), true));
        assert_eq!((found.receive_queue, found.send_queue), (512, 256));
        assert!(!parse(&answer(0)).unwrap().promiscuous);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
            let mut whole = answer(1);
            for (place, byte) in whole[1..].iter_mut().zip(&bytes) {
                *place = *byte;
            }
            for cut in 0..MESSAGE_BYTES {
                prop_assert!(parse(&whole[..cut]).is_err());
            }
            for cut in MESSAGE_BYTES..whole.len() {
                let _ = parse(&whole[..cut]);
            }
        }
    }
}
