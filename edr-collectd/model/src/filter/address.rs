//! Addresses and networks. An IPv4 address in IPv6 form (`::ffff:10.0.0.1`) is the IPv4 address.

use std::net::IpAddr;

use super::Operator;

/// The addresses from `low` to `high`, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) is_v4: bool,
    pub(super) low: u128,
    pub(super) high: u128,
}

impl Network {
    /// Parses an address or a network with its number of leading bits: `10.0.0.1`, `10.0.0.0/8`, `fe80::1%eth0`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.split_once('%').map_or(address, |(address, _)| address);
        let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        let parsed: IpAddr = address.parse().ok()?;
        let canonical = parsed.to_canonical();
        let (is_v4, number, width) = match canonical {
            IpAddr::V4(v4) => (true, u128::from(u32::from(v4)), 32_u32),
            IpAddr::V6(v6) => (false, u128::from(v6), 128),
        };
        let bits = match bits {
            None => width,
            Some(bits) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                // The leading 96 bits of an IPv4 address in IPv6 form are no part of the IPv4 address.
                let outer = if parsed.is_ipv6() && is_v4 { 96 } else { 0 };
                bits.parse::<u32>().ok()?.checked_sub(outer)?
            }
            Some(_) => return None,
        };
        let host_bits = width.checked_sub(bits)?;
        let mask = if host_bits == 128 { u128::MAX } else { (1_u128 << host_bits) - 1 };
        Some(Self { is_v4, low: number & !mask, high: number | mask })
    }

    /// Returns the addresses for which `address OPERATOR self` is true; `None` when there are none.
    pub(super) fn ordered(self, operator: Operator) -> Option<Self> {
        let last = if self.is_v4 { u32::MAX.into() } else { u128::MAX };
        Some(match operator {
            Operator::Has | Operator::Is | Operator::Differs => self,
            Operator::Less => Self { low: 0, high: self.low.checked_sub(1)?, ..self },
            Operator::LessOrEqual => Self { low: 0, ..self },
            Operator::Greater => Self { low: self.high.checked_add(1).filter(|low| *low <= last)?, high: last, ..self },
            Operator::GreaterOrEqual => Self { high: last, ..self },
        })
    }

    /// Returns true when the networks have an address in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.is_v4 == other.is_v4 && self.low <= other.high && other.low <= self.high
    }
}

/// Returns true when `text` can be the beginning of an address: `10.0.`, `192.168`, `fe80:`. A single number is no
/// beginning, because a port is meant.
pub(super) fn is_beginning(text: &str) -> bool {
    let is_octet = |part: &str| part.len() <= 3 && part.parse::<u8>().is_ok();
    let is_group = |part: &str| part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.contains(':') {
        let (groups, last) = text.rsplit_once(':').unwrap_or(("", text));
        let parts = || groups.split(':').chain([last]);
        parts().count() <= 8 && parts().all(is_group) && !text.contains(":::") && text != ":"
    } else {
        let parts: Vec<&str> = text.split('.').collect();
        let (last, before) = parts.split_last().unwrap_or((&"", &[]));
        (1..=3).contains(&before.len())
            && before.iter().all(|part| is_octet(part))
            && (last.is_empty() || is_octet(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let holds =
            |network: &str, address: &str| Network::parse(network).unwrap().overlaps(&Network::parse(address).unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.1.2.3/8", "10.0.0.0"), "the host's bits do not matter");
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "fe80::1%eth0") && holds("fe80::/10", "fe80::1"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1") && holds("::ffff:127.0.0.0/104", "127.9.9.9"));
        assert!(holds("10.1.0.0/16", "10.0.0.0/8"), "a blocked network holds the network");
        for text in ["", "x", "10", "10.0.0", "10.0.0.256", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "::/129", "1:2"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_beginning_is_more_than_a_number() {
        for text in ["10.", "10.0", "10.0.0.", "192.168.1", "fe80:", "fe80::", "2001:db8", "::"] {
            assert!(is_beginning(text), "{text}");
        }
        for text in ["", "10", "300.", "10..", "10.0.0.0.", "10.x", "host", ":", ":::", "fe80x:", "12345:", ".5"] {
            assert!(!is_beginning(text), "{text}");
        }
    }
}
