//! netlink messages and attributes over bytes: netlink(7), `struct nlmsghdr`, `struct nlattr`.
//!
//! No length is trusted: each is checked against the available bytes, and iterators end at the first invalid length.

/// Error: bytes that do not match the kernel's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(super) struct MalformedMessage(pub(super) &'static str);

/// A message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetlinkMessage<'a> {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// `nlmsg_flags`.
    pub(super) flags: u16,
    /// `nlmsg_seq`: the request this answers.
    pub(super) seq: u32,
    /// Bytes after the header.
    pub(super) payload: &'a [u8],
}

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` share the field with the type.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// The messages of a datagram; ends after the first malformed message.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<'_>, MalformedMessage>> {
    let mut rest = Some(datagram);
    std::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let (Some(len), Some(kind), Some(flags), Some(seq)) =
            (u32_at(bytes, 0), u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 8))
        else {
            return Some(Err(MalformedMessage("netlink header")));
        };
        let len = len as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..len) else {
            return Some(Err(MalformedMessage("netlink message length")));
        };
        rest = bytes.get(aligned(len)..);
        Some(Ok(NetlinkMessage { kind, flags, seq, payload }))
    })
}

/// The attributes behind a message's fixed part, as (type, value); ends after the first malformed attribute.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), MalformedMessage>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let (Some(len), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else {
            return Some(Err(MalformedMessage("netlink attribute header")));
        };
        let len = usize::from(len);
        let Some(value) = bytes.get(ATTRIBUTE_HEADER_BYTES..len) else {
            return Some(Err(MalformedMessage("netlink attribute length")));
        };
        rest = bytes.get(aligned(len)..);
        Some(Ok((kind & ATTRIBUTE_TYPE_MASK, value)))
    })
}

/// Encodes a message: header, then `payload` (with a length that is a multiple of 4).
pub(super) fn message(kind: u16, flags: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&((HEADER_BYTES + payload.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&seq.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A byte.
pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// A number in the machine's byte order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A number in the machine's byte order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A number in network byte order.
pub(super) fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn a_datagram_holds_several_messages() {
        let mut datagram = message(20, 2, 7, b"abcd");
        datagram.extend(message(3, 0x12, 7, &[0; 4]));
        let all: Vec<_> = messages(&datagram).collect::<Result<_, _>>().unwrap();
        assert_eq!(all[0], NetlinkMessage { kind: 20, flags: 2, seq: 7, payload: b"abcd" });
        assert_eq!((all[1].kind, all[1].flags), (3, 0x12));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn wrong_lengths_end_the_walk_with_an_error() {
        for len in [0_u32, 1, 15, 21, 1_000, u32::MAX] {
            let mut datagram = message(20, 2, 7, b"abcd");
            datagram[..4].copy_from_slice(&len.to_ne_bytes());
            let all: Vec<_> = messages(&datagram).collect();
            assert_eq!(all, [Err(MalformedMessage("netlink message length"))], "{len}");
        }
        for len in [0_u16, 3, 9, u16::MAX] {
            let mut bytes = attribute(1, b"abcd");
            bytes[..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(
                attributes(&bytes).collect::<Vec<_>>(),
                [Err(MalformedMessage("netlink attribute length"))],
                "{len}"
            );
        }
    }

    #[test]
    fn an_attribute_is_padded_and_its_type_has_flags_beside_it() {
        let bytes = [attribute(0x8001, b"abc"), attribute(2, b"")].concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [Ok((1, b"abc".as_slice())), Ok((2, b"".as_slice()))]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_stay_inside(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let inside = messages(&bytes).flatten().map(|m| m.payload.len() + HEADER_BYTES).sum::<usize>();
            prop_assert!(inside <= bytes.len() + 3);
            let inside = attributes(&bytes).flatten().map(|(_, value)| value.len() + 4).sum::<usize>();
            prop_assert!(inside <= bytes.len() + 3);
        }

        #[test]
        fn encoded_messages_are_decoded_unchanged(
            kind: u16,
            flags: u16,
            seq: u32,
            words in proptest::collection::vec(any::<[u8; 4]>(), 0..20),
        ) {
            let payload = words.concat();
            let datagram = message(kind, flags, seq, &payload);
            let all: Vec<_> = messages(&datagram).collect();
            prop_assert_eq!(all, [Ok(NetlinkMessage { kind, flags, seq, payload: &payload })]);
            for cut in 1..datagram.len() {
                prop_assert!(messages(&datagram[..cut]).all(|message| message.is_err()));
            }
        }
    }
}
