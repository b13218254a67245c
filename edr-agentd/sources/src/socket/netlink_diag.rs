//! Sockets of netlink(7) itself: `linux/netlink_diag.h`.

use edr_wire::snapshot::Family;

use super::entry::{SocketEntry, netlink_protocol, tcp_state};
use super::message::{MalformedMessage, attributes, u32_at};
use super::packet_diag::{RMEM_ALLOC_AT, WMEM_ALLOC_AT};

const AF_NETLINK: u8 = 16;
/// `NDIAG_PROTO_ALL`.
const ALL_PROTOCOLS: u8 = u8::MAX;
const REQUEST_BYTES: usize = 20;
const MESSAGE_BYTES: usize = 28;
/// `NDIAG_SHOW_MEMINFO | NDIAG_SHOW_GROUPS`.
const SHOW: u32 = 0x01 | 0x02;
const NETLINK_DIAG_MEMINFO: u16 = 0;
const NETLINK_DIAG_GROUPS: u16 = 1;
/// Maximum number of groups kept per socket. NETLINK_GENERIC may have more; the first groups are the kernel's own.
const GROUPS_MAX: usize = 256;

/// A request for all netlink sockets.
pub(super) fn request() -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    (bytes[0], bytes[1]) = (AF_NETLINK, ALL_PROTOCOLS);
    bytes[8..12].copy_from_slice(&SHOW.to_ne_bytes());
    bytes
}

/// Parses a socket of the answer. The uid is not included.
pub(super) fn parse(payload: &[u8]) -> Result<SocketEntry, MalformedMessage> {
    let malformed = MalformedMessage("netlink_diag message");
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(malformed)?;
    if fixed[0] != AF_NETLINK {
        return Err(MalformedMessage("netlink_diag family"));
    }
    let word = |at| u32_at(fixed, at).ok_or(malformed);
    let state = match fixed[3] {
        // `enum` of net/netlink/af_netlink.c.
        0 => "unconnected",
        1 => "established",
        other => tcp_state(other),
    };
    let mut found = SocketEntry::new(Family::Netlink, netlink_protocol(fixed[2]), state);
    found.local_port = word(4)?;
    found.remote_port = word(8)?;
    found.inode = word(16)?.into();
    for attribute in attributes(&payload[MESSAGE_BYTES..]) {
        let (kind, value) = attribute?;
        let word = |at| u32_at(value, at).ok_or(MalformedMessage("netlink_diag attribute"));
        match kind {
            NETLINK_DIAG_MEMINFO => {
                found.receive_queue = word(RMEM_ALLOC_AT)?.into();
                found.send_queue = word(WMEM_ALLOC_AT)?.into();
            }
            NETLINK_DIAG_GROUPS => found.groups = groups(value).collect(),
            _ => {}
        }
    }
    Ok(found)
}

/// Numbers of the groups in a bitmap of words; group 1 is the lowest bit of the first.
pub(super) fn groups(bitmap: &[u8]) -> impl Iterator<Item = u32> {
    let words = bitmap.chunks(size_of::<usize>()).map(|chunk| {
        let mut word = [0; size_of::<usize>()];
        word[..chunk.len()].copy_from_slice(chunk);
        usize::from_ne_bytes(word)
    });
    let set = words.zip(0_u32..).flat_map(|(word, index)| {
        (0..usize::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * usize::BITS + bit + 1)
    });
    set.take(GROUPS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::entry::SocketProtocol;
    use proptest::prelude::*;

    fn answer() -> Vec<u8> {
        let mut bytes = vec![AF_NETLINK, 3, 11, 0];
        for word in [4_321_u32, 0, 0, 1_518, 1, 2] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&[12, 0, 1, 0, 1, 0, 0, 0x80, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_listener_of_the_process_connector() {
        let found = parse(&answer()).unwrap();
        assert_eq!((found.protocol, found.local_port, found.inode), (SocketProtocol::Named("connector"), 4_321, 1_518));
        assert_eq!((found.state, found.uid), ("unconnected", None));
        if cfg!(target_endian = "little") {
            assert_eq!(&*found.groups, [1, 32]);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
            prop_assert!(groups(&bytes).count() <= bytes.iter().map(|byte| byte.count_ones() as usize).sum());
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
