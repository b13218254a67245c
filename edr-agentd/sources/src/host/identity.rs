//! The identity of this host: machine-id(5) and the boot.

use edr_wire::HostId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The fixed application key, the same for every host. Must never change: the identity of every host depends on it.
const APPLICATION_KEY: [u8; 16] =
    [0x65, 0x64, 0x72, 0x2d, 0x61, 0x67, 0x65, 0x6e, 0x74, 0x64, 0x3a, 0x9c, 0x1f, 0x4b, 0xd2, 0x77];

/// The reason why a machine id cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoIdentity {
    #[error("the file is empty: run systemd-machine-id-setup(1)")]
    Empty,
    #[error(
        "the content is \"uninitialized\", so the first boot is not complete: start the agent after the first boot"
    )]
    Uninitialized,
    #[error("the content is not 32 lower-case hex digits: remove the file and run systemd-machine-id-setup(1)")]
    Malformed,
}

/// Parses the content of `/etc/machine-id`: 32 lower-case hex digits and a line break, not all zero.
pub(super) fn machine_id(text: &[u8]) -> Result<[u8; 16], NoIdentity> {
    match text.trim_ascii() {
        b"" => Err(NoIdentity::Empty),
        b"uninitialized" => Err(NoIdentity::Uninitialized),
        digits => {
            let id: HostId =
                std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(NoIdentity::Malformed)?;
            if id.0 == [0; 16] { Err(NoIdentity::Malformed) } else { Ok(id.0) }
        }
    }
}

/// Derives the host id, see [`HostId`]. The derivation cannot be reversed to the machine id.
pub(super) fn host_id(machine_id: &[u8; 16]) -> HostId {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&APPLICATION_KEY) else {
        unreachable!("HMAC takes a key of any length");
    };
    mac.update(machine_id);
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    HostId(id)
}

/// Parses the content of `/proc/sys/kernel/random/boot_id`: a UUID.
pub(super) fn boot_id(text: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(text.trim_ascii()).ok()?;
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
    is_uuid.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_machine_id_is_32_hex_digits() {
        let id = machine_id(b"00112233445566778899aabbccddeeff\n").unwrap();
        assert_eq!(id[15], 0xff);
        assert_eq!(machine_id(b"\n"), Err(NoIdentity::Empty));
        assert_eq!(machine_id(b"uninitialized\n"), Err(NoIdentity::Uninitialized));
        for text in ["0011", "00112233445566778899AABBCCDDEEFF", "00000000000000000000000000000000", "\u{e9}"] {
            assert_eq!(machine_id(text.as_bytes()), Err(NoIdentity::Malformed), "{text}");
        }
    }

    /// Golden value: an agent that computes another id would make every host a new host. The value was computed for the
    /// same key with `openssl dgst -sha256 -mac HMAC`.
    #[test]
    fn a_host_keeps_its_id() {
        let id = host_id(&machine_id(b"00112233445566778899aabbccddeeff").unwrap());
        assert_eq!(id.to_string(), "533d94d3c731ad0a479b2175bcdc0e46");
    }

    #[test]
    fn a_boot_id_is_a_uuid() {
        let id = "6f3a4f54-9d2b-4a52-8b1e-0c1f6f2d7a10";
        assert_eq!(boot_id(format!("{id}\n").as_bytes()).as_deref(), Some(id));
        for text in ["", "6f3a4f54", "6F3A4F54-9D2B-4A52-8B1E-0C1F6F2D7A10", "6f3a4f54a9d2b-4a52-8b1e-0c1f6f2d7a10"] {
            assert_eq!(boot_id(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = machine_id(&bytes);
            let _ = boot_id(&bytes);
        }
    }
}
