//! The identities of hosts, epochs and processes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The error for a text that is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}: {text:?}")]
pub struct InvalidId {
    expected: &'static str,
    text: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId { expected: $expected, text: text.chars().take(80).collect() };
                let digits = text.as_bytes();
                if digits.len() != $bytes * 2 || digits.iter().any(|d| !matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(invalid());
                }
                let mut id = [0; $bytes];
                for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
                }
                Ok(Self(id))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// The identity of a host: the first 16 bytes of HMAC-SHA256 over `/etc/machine-id` with a fixed application key.
    /// The machine id itself never leaves the host, as machine-id(5) demands. 32 hex digits.
    HostId,
    16,
    "a host id of 32 lower-case hex digits"
);

hex_id!(
    /// The identity of an unbroken run of sequence numbers of a host: a random number, 16 hex digits. Inside an epoch
    /// `seq` has no holes. An agent that cannot prove that its epoch continues starts a new epoch.
    Epoch,
    8,
    "an epoch of 16 lower-case hex digits"
);

hex_id!(
    /// The hash of a frame's content: BLAKE3 over the header and the hash of the snapshot. 64 hex digits.
    ContentHash,
    32,
    "a content hash of 64 lower-case hex digits"
);

/// The identity of a process inside one boot. A pid is reused; a pid together with its start time is not. With host and
/// boot the identity is unique in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id in the pid namespace of the agent's `/proc`.
    pub pid: u32,
    /// `starttime` of `/proc/PID/stat` (field 22), clock ticks since boot. Identity always uses the raw ticks.
    pub start_ticks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_exactly_its_hex_digits() {
        let id: HostId = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        for text in [
            "",
            "00",
            "00112233445566778899AABBCCDDEEFF",
            "../../../../etc/passwd/aaaaaaaaa",
            "é0112233445566778899aabbccddeef",
        ] {
            assert!(text.parse::<HostId>().is_err(), "{text}");
        }
        assert_eq!("0123456789abcdef".parse::<Epoch>().unwrap().to_string(), "0123456789abcdef");
    }
}
