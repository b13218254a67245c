//! The files of a source's folder, `<PSAD_DIR>/<source address>/`, except the signatures.

use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::TargetPackets;

use crate::common::lines::{BadLines, address, lines, number, rows, rsplit_once, split_once, word};

/// Kept bytes of an operating system guess.
const GUESS_BYTES_MAX: usize = 1 << 10;
/// Kept guesses of p0f.
const GUESSES_MAX: usize = 32;

/// The kind of a file in a source's folder, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SourceFile {
    DangerLevel,
    OsGuess,
    P0fGuess,
    EmailCounter,
    /// `ENABLE_EMAIL_LIMIT_PER_DST=Y`.
    TargetEmailCounter(IpAddr),
    TargetStart(IpAddr),
    TargetPackets(IpAddr),
    TargetSignatures(IpAddr),
}

impl SourceFile {
    /// Returns `None` for files without further information (`_email_alert`, `_whois`, `.tmp`) and for unknown files.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"danger_level" => return Some(Self::DangerLevel),
            b"os_guess" => return Some(Self::OsGuess),
            b"p0f_guess" => return Some(Self::P0fGuess),
            b"email_ctr" => return Some(Self::EmailCounter),
            _ => {}
        }
        let (target, what) = split_once(name, b'_')?;
        let of: fn(IpAddr) -> Self = match what {
            b"email_ctr" => Self::TargetEmailCounter,
            b"start_time" => Self::TargetStart,
            b"packet_ctr" => Self::TargetPackets,
            b"signatures" => Self::TargetSignatures,
            _ => return None,
        };
        address(target).map(of)
    }
}

/// Parses `danger_level`: 1 to 5.
pub(crate) fn parse_danger_level(text: &[u8], bad: &mut BadLines) -> Option<u8> {
    one(text, bad, |line| number(line).filter(|level| (1..=5).contains(level)))
}

/// Parses `email_ctr` or `_start_time`: one number.
pub(crate) fn parse_number(text: &[u8], bad: &mut BadLines) -> Option<u64> {
    one(text, bad, number)
}

/// Parses `os_guess`: one line.
pub(crate) fn parse_os_guess(text: &[u8]) -> Bytes {
    let line = lines(text).next().unwrap_or_default();
    Bytes::from(&line[..line.len().min(GUESS_BYTES_MAX)])
}

/// Parses `p0f_guess`: one guess per line.
pub(crate) fn parse_p0f_guesses(text: &[u8]) -> Vec<Bytes> {
    let guesses = lines(text).filter(|line| !line.is_empty()).take(GUESSES_MAX);
    let mut guesses: Vec<Bytes> = guesses.map(|line| Bytes::from(&line[..line.len().min(GUESS_BYTES_MAX)])).collect();
    guesses.sort();
    guesses
}

/// Parses rows of `_packet_ctr`: `<chain>_<interface>_<protocol>:  <packets>[ [<low>[-<high>]]]`. The interface may
/// contain `_`, `-`, `.` and `:`, so the protocol is the part after the last `_`.
pub(crate) fn parse_target_packets(text: &[u8], bad: &mut BadLines) -> Vec<TargetPackets> {
    let mut packets = rows(text, bad, |line| {
        let at = memchr::memmem::rfind(line, b":  ")?;
        let (key, value) = (&line[..at], &line[at + 3..]);
        let (chain, rest) = split_once(key, b'_')?;
        if !matches!(chain, b"INPUT" | b"FORWARD" | b"OUTPUT") {
            return None;
        }
        let (interface, protocol) = rsplit_once(rest, b'_')?;
        if interface.is_empty() || interface.iter().any(|byte| byte.is_ascii_whitespace() || *byte == b'/') {
            return None;
        }
        let (count, ports) = match split_once(value, b' ') {
            Some((count, ports)) => (count, Some(port_range(ports)?)),
            None => (value, None),
        };
        Some(TargetPackets {
            chain: word(chain)?,
            interface: Bytes::from(interface),
            protocol: word(protocol)?,
            packets: number(count)?,
            port_low: ports.map(|(low, _)| low),
            port_high: ports.map(|(_, high)| high),
        })
    });
    packets.sort_by(|a, b| (&a.chain, &a.interface, &a.protocol).cmp(&(&b.chain, &b.interface, &b.protocol)));
    packets
}

/// Parses `[80]` or `[1-1024]`.
fn port_range(text: &[u8]) -> Option<(u16, u16)> {
    let text = text.strip_prefix(b"[")?.strip_suffix(b"]")?;
    match split_once(text, b'-') {
        Some((low, high)) => Some((number(low)?, number(high)?)),
        None => number(text).map(|port| (port, port)),
    }
}

/// Parses a file with a single line, which must be a value.
fn one<T>(text: &[u8], bad: &mut BadLines, parse: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    let mut values = rows(text, bad, parse);
    (values.len() == 1).then(|| values.pop()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_an_address_and_a_word() {
        let target = "192.0.2.1".parse().unwrap();
        assert_eq!(SourceFile::of(b"192.0.2.1_packet_ctr"), Some(SourceFile::TargetPackets(target)));
        let six = "2001:db8:0:f101::1".parse().unwrap();
        let name = b"2001:0db8:0000:f101:0000:0000:0000:0001_start_time";
        assert_eq!(SourceFile::of(name), Some(SourceFile::TargetStart(six)));
        for name in ["192.0.2.1_email_alert", "192.0.2.1_packet_ctr.tmp", "x_packet_ctr", "..", "192.0.2.1_"] {
            assert_eq!(SourceFile::of(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn interface_names_may_contain_bytes_that_psad_cannot_read_back() {
        let mut bad = BadLines::default();
        let text = b"INPUT_eth1_tcp:  1002 [1000-1500]\nFORWARD_br-lan_tcp:  21 [6660-6680]\n\
            INPUT_eth0_icmp6:  7\nINPUT_eth0_47:  2\nOUTPUT_my_if.100:1_udp:  1 [53]\n";
        let rows = parse_target_packets(text, &mut bad);
        assert_eq!(bad.lines, 0);
        let of = |interface: &str| rows.iter().find(|row| row.interface == Bytes::from(interface)).unwrap();
        assert_eq!((of("br-lan").packets, of("br-lan").port_low, of("br-lan").port_high), (21, Some(6660), Some(6680)));
        assert_eq!((of("my_if.100:1").port_low, of("my_if.100:1").port_high), (Some(53), Some(53)));
        assert_eq!(rows.iter().filter(|row| row.port_low.is_none()).count(), 2);
    }

    #[test]
    fn a_level_is_one_to_five() {
        let mut bad = BadLines::default();
        assert_eq!(parse_danger_level(b"5\n", &mut bad), Some(5));
        assert_eq!(bad.lines, 0);
        for text in ["0\n", "6\n", "x\n", "\n", "", "1\n2\n"] {
            assert_eq!(parse_danger_level(text.as_bytes(), &mut bad), None, "{text:?}");
        }
    }
}
