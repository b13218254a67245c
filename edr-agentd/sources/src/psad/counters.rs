//! `packet_ctr`, `ipt_prefix_ctr`, `dshield_ctr`: totals since psad's start.

use std::cmp::Reverse;

use edr_wire::Bytes;
use edr_wire::snapshot::{Dshield, PrefixCounter, ProtocolCounter};

use crate::common::lines::{BadLines, number, rows, rsplit_once, word};

/// Parses rows of `packet_ctr`: `<protocol>: <packets>`, most packets first.
pub(crate) fn parse_protocol_counters(text: &[u8], bad: &mut BadLines) -> Vec<ProtocolCounter> {
    let mut counters = rows(text, bad, |line| {
        let (name, packets) = rsplit_once(line.trim_ascii_start(), b' ')?;
        Some(ProtocolCounter { protocol: word(name.strip_suffix(b":")?)?, packets: number(packets)? })
    });
    counters.sort_by(|a, b| (Reverse(a.packets), &a.protocol).cmp(&(Reverse(b.packets), &b.protocol)));
    counters
}

/// Parses rows of `ipt_prefix_ctr`: `<prefix>: <packets>`, most packets first. Prefixes often end with a colon too, so
/// the last colon separates. A prefix may start with `#`: this file has no comments.
pub(crate) fn parse_prefix_counters(text: &[u8], bad: &mut BadLines) -> Vec<PrefixCounter> {
    let mut counters = Vec::new();
    for line in crate::common::lines::lines(text).filter(|line| !line.is_empty()) {
        let counter = rsplit_once(line, b' ').and_then(|(prefix, packets)| {
            let prefix = prefix.strip_suffix(b":").filter(|prefix| !prefix.is_empty())?;
            Some(PrefixCounter { prefix: Bytes::from(prefix), packets: number(packets)? })
        });
        match counter.filter(|_| line.len() <= crate::common::lines::LINE_BYTES_MAX) {
            Some(counter) => counters.push(counter),
            None => bad.add(line),
        }
    }
    counters.sort_by(|a, b| (Reverse(a.packets), &a.prefix).cmp(&(Reverse(b.packets), &b.prefix)));
    counters
}

/// Parses the two lines of `dshield_ctr`; `None` until both are present.
pub(crate) fn parse_dshield(text: &[u8], bad: &mut BadLines) -> Option<Dshield> {
    let (mut emails, mut packets) = (None, None);
    rows(text, bad, |line| {
        let (name, value) = rsplit_once(line, b' ')?;
        match name {
            b"total emails:" => emails = Some(number(value)?),
            b"total packets:" => packets = Some(number(value)?),
            _ => return None,
        }
        Some(())
    });
    Some(Dshield { emails: emails?, packets: packets? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names_or_numbers() {
        let mut bad = BadLines::default();
        let counters = parse_protocol_counters(b"     tcp: 1002\n       2: 7\n udplite: 1\nicmp6 : 3\n", &mut bad);
        let rows: Vec<_> = counters.iter().map(|row| (row.protocol.as_str(), row.packets)).collect();
        assert_eq!(rows, [("tcp", 1002), ("2", 7), ("udplite", 1)]);
        assert_eq!((bad.lines, bad.first), (1, Bytes::from("icmp6 : 3")));
    }

    #[test]
    fn a_prefix_may_end_in_colons_and_start_with_a_hash() {
        let mut bad = BadLines::default();
        let text = b"DROP:: 6\nShorewall:net2fw:DROP:: 1811\n[UFW BLOCK]: 3087\n#nft: 4\nx 1\n: 5\n";
        let counters = parse_prefix_counters(text, &mut bad);
        let rows: Vec<_> = counters.iter().map(|row| (row.prefix.to_string(), row.packets)).collect();
        let expected = [("[UFW BLOCK]", 3087), ("Shorewall:net2fw:DROP:", 1811), ("DROP:", 6), ("#nft", 4)];
        assert_eq!(rows, expected.map(|(prefix, packets)| (prefix.to_owned(), packets)));
        assert_eq!(bad.lines, 2);
    }

    #[test]
    fn dshield_needs_both_lines() {
        let mut bad = BadLines::default();
        let whole = parse_dshield(b"total emails: 3\ntotal packets: 40\n", &mut bad);
        assert_eq!(whole, Some(Dshield { emails: 3, packets: 40 }));
        assert_eq!(parse_dshield(b"total emails: 3\n", &mut bad), None);
        assert_eq!(bad.lines, 0);
    }
}
