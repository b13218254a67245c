//! TCP, UDP and everything else with an IP address: `linux/inet_diag.h`.

use std::net::{Ipv4Addr, Ipv6Addr};

use edr_wire::snapshot::Family;

use super::entry::{SocketAddress, SocketEntry, SocketProtocol, tcp_state};
use super::message::{MalformedMessage, attributes, be16_at, u8_at, u32_at};

/// `IPPROTO_*` of the protocols with a table.
pub(super) const TCP: u16 = 6;
pub(super) const UDP: u16 = 17;
pub(super) const DCCP: u16 = 33;
pub(super) const SCTP: u16 = 132;
pub(super) const UDPLITE: u16 = 136;
pub(super) const RAW: u16 = 255;
pub(super) const MPTCP: u16 = 262;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of `struct inet_diag_req_v2` and of `struct inet_diag_msg`.
const REQUEST_BYTES: usize = 56;
const MESSAGE_BYTES: usize = 72;
/// Attribute of a request for a protocol number above 255.
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
/// An unassigned protocol number: on a kernel without the attribute the query fails, instead of returning a wrong
/// table.
const NO_PROTOCOL: u8 = 254;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// A request for the whole table of `protocol` in one family.
pub(super) fn request(family: Family, protocol: u16) -> Vec<u8> {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = if family == Family::Inet { AF_INET } else { AF_INET6 };
    bytes[1] = u8::try_from(protocol).unwrap_or(NO_PROTOCOL);
    // All states, including states of later kernels.
    bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    if protocol > u16::from(u8::MAX) {
        bytes.extend_from_slice(&8_u16.to_ne_bytes());
        bytes.extend_from_slice(&INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
        bytes.extend_from_slice(&u32::from(protocol).to_ne_bytes());
    }
    bytes
}

/// One socket of an answer to [`request`].
pub(super) fn parse(payload: &[u8], protocol: u16) -> Result<SocketEntry, MalformedMessage> {
    let malformed = MalformedMessage("inet_diag message");
    let fixed: &[u8; MESSAGE_BYTES] = payload.first_chunk().ok_or(malformed)?;
    let word = |at| u32_at(fixed, at).ok_or(malformed);
    let port = |at| be16_at(fixed, at).map(u32::from).ok_or(malformed);
    let family = match fixed[0] {
        AF_INET => Family::Inet,
        AF_INET6 => Family::Inet6,
        _ => return Err(MalformedMessage("inet_diag family")),
    };
    let (local_port, remote_port) = (port(4)?, port(6)?);
    let state = fixed[1];
    let mut found = SocketEntry::new(family, name(protocol), state_name(protocol, state, remote_port));
    found.local = address(family, &fixed[8..24]).ok_or(malformed)?;
    found.remote = address(family, &fixed[24..40]).ok_or(malformed)?;
    (found.local_port, found.remote_port) = (local_port, remote_port);
    found.interface = word(40)?;
    found.receive_queue = word(56)?.into();
    found.send_queue = word(60)?.into();
    found.inode = word(68)?.into();
    // A socket without a descriptor has lost its owner, or has no owner yet; the kernel then prints 0.
    found.uid = if found.inode == 0 { None } else { Some(word(64)?) };
    for attribute in attributes(&payload[MESSAGE_BYTES..]) {
        if let (INET_DIAG_SKV6ONLY, value) = attribute? {
            found.v6only = u8_at(value, 0) == Some(1);
        }
    }
    Ok(found)
}

/// Sixteen bytes; IPv4 uses the first four.
fn address(family: Family, bytes: &[u8]) -> Option<SocketAddress> {
    Some(match family {
        Family::Inet => SocketAddress::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        _ => SocketAddress::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    })
}

fn name(protocol: u16) -> SocketProtocol {
    SocketProtocol::Named(match protocol {
        TCP => "tcp",
        UDP => "udp",
        DCCP => "dccp",
        SCTP => "sctp",
        UDPLITE => "udplite",
        RAW => "raw",
        MPTCP => "mptcp",
        other => return SocketProtocol::Number(other.into()),
    })
}

/// Name of a state. An SCTP association has its own states (`enum sctp_state`), an endpoint has the states of TCP; only
/// an association has a remote port.
fn state_name(protocol: u16, state: u8, remote_port: u32) -> &'static str {
    if protocol != SCTP || remote_port == 0 {
        return tcp_state(state);
    }
    match state {
        0 => "closed",
        1 => "cookie-wait",
        2 => "cookie-echoed",
        3 => "established",
        4 => "shutdown-pending",
        5 => "shutdown-sent",
        6 => "shutdown-received",
        7 => "shutdown-ack-sent",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message in the kernel's layout, with IPV6_V6ONLY.
    fn answer(family: u8) -> Vec<u8> {
        let mut bytes = vec![family, 10, 0, 0];
        bytes.extend_from_slice(&443_u16.to_be_bytes());
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&[0; 16]);
        for word in [3_u32, 11, 12, 0, 5, 128, 1_000, 77_777] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&[5, 0, 11, 0, 1, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_listening_socket() {
        let found = parse(&answer(AF_INET6), TCP).unwrap();
        assert_eq!(
            (found.family, found.protocol, found.state),
            (Family::Inet6, SocketProtocol::Named("tcp"), "listen")
        );
        assert_eq!(found.local, SocketAddress::V6("2001:db8::1".parse().unwrap()));
        assert_eq!((found.local_port, found.remote_port, found.interface), (443, 0, 3));
        assert_eq!((found.receive_queue, found.send_queue), (5, 128));
        assert_eq!((found.uid, found.inode, found.v6only), (Some(1_000), 77_777, true));
        assert_eq!(parse(&answer(AF_INET), UDP).unwrap().local, SocketAddress::V4(Ipv4Addr::new(0x20, 1, 0x0d, 0xb8)));
    }

    #[test]
    fn an_association_is_not_named_by_tcp_states() {
        assert_eq!(state_name(SCTP, 3, 9), "established");
        assert_eq!(state_name(SCTP, 10, 0), "listen");
        assert_eq!(state_name(TCP, 3, 9), "syn-recv");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_every_truncation_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = parse(&bytes, TCP);
            let mut whole = answer(AF_INET6);
            for (place, byte) in whole[1..].iter_mut().zip(&bytes) {
                *place = *byte;
            }
            let _ = parse(&whole, SCTP);
            for cut in 0..MESSAGE_BYTES {
                prop_assert!(parse(&whole[..cut], TCP).is_err());
            }
        }
    }
}
