//! `top_attackers`, `top_ports`, `top_sigs`: psad's three rankings.
//!
//! psad writes rows of equal rank in the random order of Perl's hashes. Here the order is fixed, so that equal facts
//! have equal bytes.

use std::cmp::Reverse;

use edr_wire::Bytes;
use edr_wire::snapshot::{Attacker, ScannedPort, TopSignature};

use crate::common::lines::{BadLines, address, flag, number, rows, rsplit_once, split_once, word};

/// Parses rows of `top_attackers`: `<IP> <DL> <total_packets> <uniq_sigs> <sig_matches> <is_local>`, worst first.
pub(crate) fn parse_top_attackers(text: &[u8], bad: &mut BadLines) -> Vec<Attacker> {
    let mut attackers = rows(text, bad, |line| {
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        let attacker = Attacker {
            ip: address(fields.next()?)?.to_string(),
            danger_level: number(fields.next()?).filter(|level| (1..=5).contains(level))?,
            packets: number(fields.next()?)?,
            unique_signatures: number(fields.next()?)?,
            signature_matches: number(fields.next()?)?,
            is_local: flag(fields.next()?)?,
        };
        fields.next().is_none().then_some(attacker)
    });
    attackers.sort_by(|a, b| {
        (Reverse(a.danger_level), Reverse(a.packets), &a.ip).cmp(&(Reverse(b.danger_level), Reverse(b.packets), &b.ip))
    });
    attackers
}

/// Parses rows of `top_ports`: `<protocol> <port> <packets>`; TCP before UDP, most packets first.
pub(crate) fn parse_top_ports(text: &[u8], bad: &mut BadLines) -> Vec<ScannedPort> {
    let mut ports = rows(text, bad, |line| {
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        let protocol = word(fields.next()?).filter(|name| name == "tcp" || name == "udp")?;
        let port = ScannedPort { protocol, port: number(fields.next()?)?, packets: number(fields.next()?)? };
        fields.next().is_none().then_some(port)
    });
    ports.sort_by(|a, b| (&a.protocol, Reverse(a.packets), a.port).cmp(&(&b.protocol, Reverse(b.packets), b.port)));
    ports
}

/// Parses rows of `top_sigs`: `<sid> "<msg>" <matches> <num_sources> <sig_proto>`, most matches first. The message may
/// contain quotes, blanks and brackets: it ends at the last quote.
pub(crate) fn parse_top_signatures(text: &[u8], bad: &mut BadLines) -> Vec<TopSignature> {
    let mut signatures = rows(text, bad, |line| {
        let (sid, rest) = split_once(line, b' ')?;
        let (msg, rest) = rsplit_once(rest.strip_prefix(b"\"")?, b'"')?;
        let mut fields = rest.strip_prefix(b" ")?.split(|&byte| byte == b' ');
        let signature = TopSignature {
            sid: number(sid)?,
            msg: Bytes::from(msg),
            matches: number(fields.next()?)?,
            sources: number(fields.next()?)?,
            protocol: word(fields.next()?)?,
        };
        fields.next().is_none().then_some(signature)
    });
    signatures.sort_by(|a, b| {
        (Reverse(a.matches), a.sid, &a.protocol, &a.msg).cmp(&(Reverse(b.matches), b.sid, &b.protocol, &b.msg))
    });
    signatures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_are_ordered_by_level_packets_and_address() {
        let mut bad = BadLines::default();
        let text = b"#\n# Format: <IP> <DL>\n#\n\n198.51.100.9    2 9 0 0 0\n203.0.113.250   5 2 0 0 1\n\
            2001:0db8:0bad:0000:0000:0000:0000:000d 2 29 1 21 0\n198.51.100.8    2 9 0 0 0\n";
        let attackers = parse_top_attackers(text, &mut bad);
        let order: Vec<_> = attackers.iter().map(|attacker| attacker.ip.as_str()).collect();
        assert_eq!(order, ["203.0.113.250", "2001:db8:bad::d", "198.51.100.8", "198.51.100.9"]);
        assert!(attackers[0].is_local && !attackers[1].is_local);
        assert_eq!((attackers[1].packets, attackers[1].unique_signatures, attackers[1].signature_matches), (29, 1, 21));
        assert_eq!(bad, BadLines::default());
    }

    #[test]
    fn an_invalid_row_is_counted() {
        let mut bad = BadLines::default();
        let text = b"198.51.100.9 6 1 0 0 0\n198.51.100.9 1 1 0 0 0 0\n../x 1 1 0 0 0\n198.51.100.9 1 1 0 0\n";
        assert!(parse_top_attackers(text, &mut bad).is_empty());
        assert_eq!(bad.lines, 4);
        assert!(parse_top_ports(b"tcp 65536 1\nsctp 1 1\nudp 1\n", &mut bad).is_empty());
        assert_eq!(bad.lines, 7);
    }

    #[test]
    fn a_message_may_hold_quotes_and_brackets() {
        let mut bad = BadLines::default();
        let text = b"1421 \"SNMP \"AgentX\", tcp ...[4120]\" 73 44 tcp\n";
        let signature = parse_top_signatures(text, &mut bad).remove(0);
        assert_eq!(signature.msg, Bytes::from("SNMP \"AgentX\", tcp ...[4120]"));
        assert_eq!((signature.matches, signature.sources, signature.protocol.as_str()), (73, 44, "tcp"));
    }
}
