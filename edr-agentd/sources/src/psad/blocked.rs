//! `auto_blocked_iptables` and `auto_blocked_tcpwr`: the addresses blocked by psad.

use std::net::IpAddr;

use edr_wire::snapshot::Blocked;

use crate::common::lines::{BadLines, number, rows, split_once};

/// Parses rows `<address or network> <Unix time>`, and sorts by address. Very old versions of psad wrote only the
/// address.
pub(crate) fn parse_blocked(text: &[u8], bad: &mut BadLines) -> Vec<Blocked> {
    let mut blocked = rows(text, bad, |line| {
        let (address, since) = split_once(line, b' ').unwrap_or((line, b"0"));
        Some(Blocked { address: network(address)?, since: number(since)? })
    });
    blocked.sort_by(|a, b| (&a.address, a.since).cmp(&(&b.address, b.since)));
    blocked.dedup();
    blocked
}

/// Parses an address, or an address, `/`, and a length or a mask.
fn network(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let Some((address, length)) = text.split_once('/') else {
        return Some(text.parse::<IpAddr>().ok()?.to_string());
    };
    let address: IpAddr = address.parse().ok()?;
    let mask = match length.parse::<IpAddr>() {
        Ok(mask) => mask.to_string(),
        Err(_) => number::<u8>(length.as_bytes()).filter(|&bits| bits <= 128)?.to_string(),
    };
    Some(format!("{address}/{mask}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_networks_and_old_rows() {
        let mut bad = BadLines::default();
        let text = b"203.0.113.9 1795496389\n198.51.100.0/24 5\n192.0.2.1\n192.0.2.1;rm 5\n203.0.113.9/129 1\n";
        let rows: Vec<_> = parse_blocked(text, &mut bad).into_iter().map(|row| (row.address, row.since)).collect();
        let expected = [("192.0.2.1", 0), ("198.51.100.0/24", 5), ("203.0.113.9", 1_795_496_389)];
        assert_eq!(rows, expected.map(|(address, since)| (address.to_owned(), since)));
        assert_eq!(bad.lines, 2);
    }
}
