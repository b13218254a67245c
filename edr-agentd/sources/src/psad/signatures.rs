//! `<dst>_signatures`: signature matches of a source's packets to one destination since psad's previous alert.

use edr_wire::Bytes;
use edr_wire::snapshot::SignatureMatch;

use crate::common::lines::{BadLines, flag, number, rows, rsplit_once, split_once, word};

/// Parses rows `<sig_time> <sid> <matches> "<msg>" <chain> <proto> <dst port> "<flags>" <is_fwsnort> <is_psad>`, and
/// sorts by time. After a crash psad appends to an old file, so the header can occur twice; both are comments.
pub(crate) fn parse_signatures(text: &[u8], bad: &mut BadLines) -> Vec<SignatureMatch> {
    let mut matches = rows(text, bad, |line| {
        let (time, rest) = split_once(line, b' ')?;
        let (sid, rest) = split_once(rest, b' ')?;
        let (count, rest) = split_once(rest, b' ')?;
        // Parsed from the end: only the message may contain quotes.
        let (rest, tail) = rsplit_once(rest.strip_prefix(b"\"")?, b'"')?;
        let (rest, flags) = rsplit_once(rest, b'"')?;
        let (msg, middle) = rsplit_once(rest, b'"')?;
        let mut middle = middle.strip_prefix(b" ")?.strip_suffix(b" ")?.split(|&byte| byte == b' ');
        let mut tail = tail.strip_prefix(b" ")?.split(|&byte| byte == b' ');
        let row = SignatureMatch {
            time: number(time)?,
            sid: number(sid)?,
            matches: number(count)?,
            msg: Bytes::from(msg),
            chain: word(middle.next()?)?,
            protocol: word(middle.next()?)?,
            port: number(middle.next()?)?,
            flags: flag_names(flags)?,
            is_fwsnort: flag(tail.next()?)?,
            is_psad: flag(tail.next()?)?,
        };
        (middle.next().is_none() && tail.next().is_none()).then_some(row)
    });
    matches.sort_by(|a, b| {
        (a.time, a.sid, &a.chain, &a.protocol, a.port, &a.flags, &a.msg, a.matches).cmp(&(
            b.time,
            b.sid,
            &b.chain,
            &b.protocol,
            b.port,
            &b.flags,
            &b.msg,
            b.matches,
        ))
    });
    matches
}

fn flag_names(text: &[u8]) -> Option<String> {
    let plain = text.len() <= 64 && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b" ,_-".contains(byte));
    plain.then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_everything() {
        let mut bad = BadLines::default();
        let text = b"# Format: <sig_time> <sid>\n1795491627 1228 151 \"SCAN \"nmap\" XMAS\" INPUT tcp 80 \"URG PSH \
        FIN\" 0 1\n\
            # Format: again\n1795491620 100075 1 \"x\" FORWARD icmp 0 \"NA\" 1 0\n";
        let rows = parse_signatures(text, &mut bad);
        assert_eq!(bad.lines, 0);
        assert_eq!((rows[0].sid, rows[0].is_fwsnort, rows[0].flags.as_str()), (100_075, true, "NA"));
        assert_eq!(rows[1].msg, Bytes::from("SCAN \"nmap\" XMAS"));
        assert_eq!((rows[1].port, rows[1].matches, rows[1].flags.as_str()), (80, 151, "URG PSH FIN"));
        assert!(rows[1].is_psad && !rows[1].is_fwsnort);
    }

    #[test]
    fn a_row_cut_anywhere_makes_no_row() {
        let row = b"1795491627 1228 151 \"SCAN nmap\" INPUT tcp 80 \"URG PSH FIN\" 0 1";
        for end in 1..row.len() {
            let mut bad = BadLines::default();
            assert!(parse_signatures(&row[..end], &mut bad).is_empty(), "cut at {end}");
            assert_eq!(bad.lines, 1);
        }
    }
}
